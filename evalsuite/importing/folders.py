"""Which files of a folder are one run of lm-evaluation-harness.

    since 0.4.3   MODEL/results_TIME.json  MODEL/samples_TASK_TIME.jsonl          one JSON object a line
    before        results.json             MODEL-ARGS_TASK.jsonl                  one JSON list, despite the ending

A folder that holds several runs gives the newest one, and says so. Everything else that is not one run is an error that
says what to do.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalsuite.errors import SuiteError, UsageError
from evalsuite.located import read_json

TIME = r"\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}(?:\.\d+)?"
SAMPLES = re.compile(rf"samples_(?P<task>.+?)(?:_(?P<time>{TIME}))?\.jsonl(?:\.gz)?")
RESULTS = re.compile(rf".*_(?P<time>{TIME})\.json")
PACKED = (".zip", ".tar", ".tgz", ".zst", ".xz", ".bz2", ".7z", ".gz")
SHOWN = 8
"""Names in an error message."""


@dataclass(frozen=True)
class Log:
    """One run of lm-evaluation-harness, as found."""

    folder: Path
    samples: dict[str, Path]
    """Task -> its sample log."""
    results: dict[str, Any] = field(default_factory=dict)
    """What the results file says; empty where there is none."""
    notes: tuple[str, ...] = ()
    """What was chosen here, for people."""

    @property
    def config(self) -> dict[str, Any]:
        """Model, model arguments, batch size, limit, seeds."""
        found = self.results.get("config")
        return found if isinstance(found, dict) else {}

    @property
    def model_args(self) -> dict[str, str]:
        """The model arguments; older versions log them as `a=b,c=d`."""
        args = self.config.get("model_args")
        if isinstance(args, dict):
            return {str(key): str(value) for key, value in args.items()}
        pairs = (part.partition("=") for part in str(args or "").split(","))
        return {key.strip(): value for key, equals, value in pairs if equals}

    def members(self, group: str) -> set[str]:
        """The tasks of a group, through groups of groups; empty for what is no group."""
        table = self.results.get("group_subtasks")
        direct = table.get(group) if isinstance(table, dict) else None
        found = {str(name) for name in direct} if isinstance(direct, list) else set()
        return found.union(*(self.members(name) for name in found if name != group))

    def of_task(self, key: str, task: str) -> Any:
        """The entry of a task in one of the tables of the results file (`versions`, `n-shot`, `configs`), or None."""
        table = self.results.get(key)
        return table.get(task) if isinstance(table, dict) else None


def find_log(path: Path) -> Log:
    """The run in a folder (also some levels down), or the one that a results or sample file belongs to."""
    if not path.exists():
        raise UsageError(f"{path}: no such folder. Give the folder that lm-eval's --output_path named.")
    if path.is_file():
        named = SAMPLES.fullmatch(path.name) or RESULTS.fullmatch(path.name)
        if named is None or named["time"] is None:
            raise UsageError(f"{path}: not a log of lm-eval. Give its output folder, or a results_<time>.json in it."
                             + (" Unpack it first." if path.suffix in PACKED else ""))  # fmt: skip
        return _run_of(path.parent, named["time"])
    folders = {file.parent for file in path.rglob("samples_*") if SAMPLES.fullmatch(file.name)}
    if not folders:
        return _old_run(path)
    if len(folders) > 1:
        names = _some(str(folder) for folder in folders)
        raise UsageError(f"{path}: logs of {len(folders)} models or runs lie here ({names}). Name one of them.")
    return _run_of(folders.pop(), None)


def _run_of(folder: Path, time: str | None) -> Log:
    """The run of that time in a folder, or the newest."""
    by_time: dict[str, dict[str, Path]] = defaultdict(dict)
    for file in sorted(folder.iterdir()):
        if named := SAMPLES.fullmatch(file.name):
            by_time[named["time"] or ""][named["task"]] = file
    chosen = max(by_time, default=None) if time is None else time
    if chosen is None or not by_time[chosen]:
        raise _nothing(folder)
    notes = []
    older = sorted(t for t in by_time if t != chosen)
    if older and time is None:
        left = _some(sorted({task for t in older for task in by_time[t]}))
        notes.append(f"{folder}: {len(by_time)} runs; the newest, {chosen}, was read. To read another, name its "
                     f"results file. Older logs left aside: {left}.")  # fmt: skip
    results = [file for file in sorted(folder.iterdir())
               if (named := RESULTS.fullmatch(file.name)) and named["time"] == chosen]  # fmt: skip
    if not results and not chosen:
        results = [file for file in (folder / "results.json",) if file.is_file()]
    if not results:
        notes.append(f"{folder}: no results file beside the samples, so task versions and settings were not compared.")
    return Log(folder, by_time[chosen], read_results(results[0]) if results else {}, tuple(notes))


def _old_run(path: Path) -> Log:
    """A run of lm-eval 0.4.0 to 0.4.2: sample files are named after model arguments and task."""
    found = []
    for file in sorted(path.rglob("*.json")):
        try:
            results = read_results(file)
        except SuiteError:
            if file.name.startswith("results"):
                raise
            continue  # somebody else's file
        log = Log(file.parent, {}, results)
        prefix = re.sub("/|=", "__", str(log.config.get("model_args") or ""))
        tasks = results.get("configs")
        names = {task: file.parent / f"{prefix}_{task}.jsonl" for task in (tasks if isinstance(tasks, dict) else {})}
        samples = {task: name for task, name in names.items() if name.is_file()}
        if samples:
            found.append(Log(file.parent, samples, results))
    if len(found) > 1:
        raise UsageError(f"{path}: {len(found)} runs lie here ({_some(str(log.folder) for log in found)}). Name one.")
    if not found:
        raise _nothing(path)
    return found[0]


def _nothing(path: Path) -> UsageError:
    """Why there is no run in a folder, and what to do."""
    files = [file for file in path.rglob("*") if file.is_file()]
    if not files:
        return UsageError(f"{path}: the folder is empty. Give the folder that lm-eval's --output_path named.")
    packed = [file.name for file in files if file.suffix in PACKED]
    if packed:
        return UsageError(f"{path}: no sample logs, but packed files ({_some(packed)}). Unpack them first.")
    if any(RESULTS.fullmatch(file.name) or file.name == "results.json" for file in files):
        return UsageError(f"{path}: results but no samples; a verdict needs single answers. Run lm-eval again with "
                          "--log_samples.")  # fmt: skip
    return UsageError(f"{path}: no lm-eval logs (samples_<task>_<time>.jsonl) among its {len(files)} files. Give the "
                      "folder that lm-eval's --output_path named.")  # fmt: skip


def read_results(path: Path) -> dict[str, Any]:
    """A results file; SuiteError with the place if it is broken."""
    data = read_json(path)
    return data if isinstance(data, dict) else {}


def _some(names: Any) -> str:
    """At most `SHOWN` names, and how many more."""
    listed: Sequence[str] = sorted(names)
    rest = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + rest
