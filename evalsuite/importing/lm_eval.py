"""Two runs of lm-evaluation-harness (and a second baseline run, if there is one) as a run of the store.

Items are paired by task and content. An item that one log lacks is missing in that arm. Logs of different task
versions, or with other content under the same item number, do not ask the same question: that is a finding
(`NOT_COMPARABLE`) and makes the verdict INVALID, as different prompts do. The plan is fixed by the call, not by the
answers.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from evalsuite import tasks
from evalsuite.errors import NotComparableError, UsageError
from evalsuite.importing.arms import describe, differing_settings, name_arms, thinks
from evalsuite.importing.folders import Log, find_log
from evalsuite.importing.keeping import Imported
from evalsuite.importing.lines import Answer, read_answers
from evalsuite.importing.scoring import choose, parse_choices
from evalsuite.records import Cell, DecisionSpec, Finding, Mode, Plan, RunSpec, Sampling, TaskSpec
from evalsuite.store import Row

Role = Literal["certify", "monitor"]
GUARDS = ((1000, 0.02), (250, 0.03), (0, 0.05))
"""Guard margin of a task by its number of items, where the catalogue does not know the task."""


@dataclass(frozen=True)
class Asked:
    """What the caller asks of the logs."""

    baseline: Path
    candidate: Path
    noise: Path | None = None
    """A second run of the baseline: the noise floor."""
    names: tuple[str | None, str | None] = (None, None)
    """Ids of the two arms; None takes them from the logs."""
    margin: float = 0.01
    alpha: float = 0.05
    tasks: tuple[str, ...] | None = None
    """Tasks to compare, as patterns or names of groups; None takes all that either log has."""
    metrics: tuple[str, ...] = ()
    """`NAME` or `TASK=NAME`."""
    filters: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Task:
    """One task, read from every log."""

    name: str
    spec: TaskSpec
    answers: tuple[list[Answer], ...]
    """Of each arm, through the chosen filter."""

    @property
    def planned(self) -> tuple[str, ...]:
        """Item hashes of baseline and candidate, in the baseline's order."""
        base, cand = ([answer.item_hash for answer in answers] for answers in self.answers[:2])
        known = set(base)
        return (*base, *(item for item in dict.fromkeys(cand) if item not in known))

    @property
    def mode(self) -> Mode:
        return self.spec.modes[0]


def read_logs(asked: Asked) -> Imported:
    """Read and lay out.

    Errors: `UsageError` for folders that are no logs and for open choices, `SuiteError` for broken lines,
    `NotComparableError` where the logs have nothing in common.
    """
    logs = [find_log(path) for path in (asked.baseline, asked.candidate, asked.noise) if path is not None]
    ids = list(name_arms(logs[0], logs[1], asked.names))
    found = [_read(name, logs, asked) for name in _names(logs, asked.tasks)]
    arms = [describe(ids[0], logs[0]), describe(ids[1], logs[1])]
    if len(logs) > 2:
        ids.append(f"{ids[0]}@aa")
        arms.append(describe(ids[2], logs[2], again=ids[0]))
    modes = dict.fromkeys(task.mode for task in found)
    spec = RunSpec(
        name="lm-eval", model=arms[0].model, arms=tuple(arms), baseline=ids[0], tasks=tuple(t.spec for t in found),
        decision=DecisionSpec(margin=asked.margin, alpha=asked.alpha), engine="lm-eval",
        sampling={mode: _sampling(found, mode) for mode in modes}, chat=bool(logs[0].results.get("chat_template_sha")),
    )  # fmt: skip
    rows, findings = {}, {}
    for task in found:
        place: dict[str, int] = {}
        for item in task.planned:
            place.setdefault(item, len(place))
        for i, (arm, answers) in enumerate(zip(ids, task.answers, strict=True)):
            cell = Cell(arm=arm, task=task.name, mode=task.mode)
            rows[cell] = [row for answer in answers if (row := _row(answer, cell, task.spec.metric, place)) is not None]
            findings[cell] = _findings(task, logs, i)
    lost = {cell.key: len(task.answers[ids.index(cell.arm)]) - len(rows[cell])
            for task in found for cell in rows if cell.task == task.name}  # fmt: skip
    notes = [note for log in logs for note in log.notes]
    notes += [f"{key}: {n} items have a score or a log-likelihood that is no number; they are missing, not wrong."
              for key, n in lost.items() if n]  # fmt: skip
    return Imported(
        spec=spec, plans=_plans(found, spec), items={f"{t.name}.{t.mode}": t.planned for t in found}, rows=rows,
        findings=findings, software=_software(logs[0]), notes=tuple(notes),
    )  # fmt: skip


def _names(logs: Sequence[Log], patterns: tuple[str, ...] | None) -> list[str]:
    """The tasks to compare, in the baseline's order."""
    base, cand = logs[0].samples, logs[1].samples
    if not set(base) & set(cand):
        raise NotComparableError(f"No task is in both logs: {', '.join(base)} against {', '.join(cand)}.")
    names = [*base, *(name for name in cand if name not in base)]
    if patterns is None:
        return names
    members = set().union(*(log.members(pattern) for log in logs[:2] for pattern in patterns))
    chosen = [name for name in names if name in members or any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise UsageError(f"--tasks {','.join(patterns)}: no such task. The logs have: {', '.join(names)}.")
    return chosen


def _read(name: str, logs: Sequence[Log], asked: Asked) -> _Task:
    """One task from every log, through the filter and by the metric that count."""
    read = [read_answers(log.samples[name], _filters(log, name)) if name in log.samples else [] for log in logs]
    metric, chosen = choose(name, [answers for answers in read if answers], parse_choices(asked.metrics, "metric"),
                            parse_choices(asked.filters, "filter"))  # fmt: skip
    through = tuple(sorted((a for a in answers if a.filter == chosen), key=lambda a: a.doc_id) for answers in read)
    one = next(answer for answers in through for answer in answers)
    known = tasks.catalogue().get(name)
    n = max(len(answers) for answers in through)
    options = [1 / a.options for answers in through[:1] for a in answers if a.options]
    shots = next((k for log in logs if (k := log.of_task("n-shot", name)) is not None), None)
    mode: Mode = "thinking" if one.settings is not None and thinks(logs[0]) else "direct"
    return _Task(name, TaskSpec(
        task=name, metric=metric, filter=chosen, modes=(mode,), max_gen_toks=_budget(one, mode),
        role=known.role if known else "monitor", num_fewshot=int(shots) if isinstance(shots, int) else None,
        margin=known.margin if known else next(margin for least, margin in GUARDS if n >= least),
        chance=round(sum(options) / len(options), 6) if options else known.chance if known else None,
    ), through)  # fmt: skip


def _filters(log: Log, task: str) -> list[str]:
    """The task's filters in their order: from its configuration, else from the keys of its results."""
    config = log.of_task("configs", task)
    listed = config.get("filter_list") if isinstance(config, dict) else None
    if isinstance(listed, list) and listed:
        return [str(one.get("name")) for one in listed if isinstance(one, dict)]
    keys = log.of_task("results", task)
    named = [key.split(",", 1)[1] for key in keys if "," in key] if isinstance(keys, dict) else []
    return list(dict.fromkeys(named)) or ["none"]


def _budget(answer: Answer, mode: Mode) -> dict[Mode, int] | None:
    """The generation budget, as far as the log says it; None for log-likelihoods."""
    if answer.settings is None:
        return None
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    found = next((answer.settings[name] for name in names if isinstance(answer.settings.get(name), int)), None)
    return {mode: found} if found else {}


def _sampling(found: Sequence[_Task], mode: Mode) -> Sampling:
    """How tokens were chosen, by the first generated answer of the mode; else greedy, as lm-eval does."""
    for task in found:
        settings = next((a.settings for a in task.answers[0] if a.settings is not None), None)
        if task.mode == mode and settings and settings.get("do_sample"):
            return Sampling(temperature=float(settings.get("temperature") or 1.0),
                            top_p=float(settings.get("top_p") or 1.0))  # fmt: skip
    return Sampling()


def _row(answer: Answer, cell: Cell, metric: str, place: dict[str, int]) -> Row | None:
    """The stored sample; None where the score or a log-likelihood is no number: the item is missing then."""
    score = answer.scores.get(metric, math.nan)
    if not (answer.finite and math.isfinite(score)):
        return None
    return {**answer.row, "task": cell.task, "item_id": f"{cell.task}/{answer.doc_id}", "item_hash": answer.item_hash,
            "prompt_hash": answer.prompt_hash, "arm": cell.arm, "mode": cell.mode, "score": score,
            "correct": score >= 1.0, "position": place.get(answer.item_hash, len(place))}  # fmt: skip


def _findings(task: _Task, logs: Sequence[Log], arm: int) -> tuple[Finding, ...]:
    """What stands between this arm's log and the baseline's."""
    found = [Finding(code="IMPORTED", severity="info", message="Read from lm-evaluation-harness logs: which precision, "
                     "kernels and batches ran, and which answers were cut, is not recorded there.")]  # fmt: skip
    if arm == 0:
        return tuple(found)
    reasons = _differences(task, logs, arm)
    if reasons and arm > 1:
        raise NotComparableError(f"--noise: the second baseline run is of another question: {'; '.join(reasons)}.")
    found += [Finding(code="NOT_COMPARABLE", severity="error", message=f"{task.name}: {reason}; run both arms on the "
                      "same version of task and data") for reason in reasons]  # fmt: skip
    settings = differing_settings(logs[0], logs[arm])
    if settings:
        found.append(Finding(code="SETTINGS_DIFFER", severity="warning", message="The logs were made with different "
                             f"settings: {'; '.join(settings)}. Make sure that only the model differs."))  # fmt: skip
    one, two = (next((a.settings for a in task.answers[i] if a.settings is not None), None) for i in (0, arm))
    if task.answers[0] and task.answers[arm] and one != two:
        one, two = one or {}, two or {}
        keys = [key for key in dict.fromkeys([*one, *two]) if one.get(key) != two.get(key)]
        found.append(Finding(code="SETTINGS_DIFFER", severity="warning", message=f"{task.name} was generated with "
                             f"different {', '.join(keys)} in the two logs."))  # fmt: skip
    return tuple(found)


def _differences(task: _Task, logs: Sequence[Log], arm: int) -> list[str]:
    """Why the two logs do not ask the same question, as far as versions and items tell."""
    reasons = []
    one, two = (_version(logs[i].of_task("versions", task.name)) for i in (0, arm))
    if None not in (one, two) and one != two:
        reasons.append(f"task version {one} in the baseline's log, {two} in the other")
    base = {answer.doc_id: answer.item_hash for answer in task.answers[0]}
    changed = [a.doc_id for a in task.answers[arm] if base.get(a.doc_id, a.item_hash) != a.item_hash]
    if changed:
        reasons.append(f"{len(changed)} items have another content under the same number (the first: {changed[0]})")
    return reasons


def _version(value: Any) -> str | None:
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return None if value in (None, "N/A", "Yaml") else str(value)


def _plans(found: Sequence[_Task], spec: RunSpec) -> dict[str, Plan]:
    plans = {f"{task.name}.{task.mode}": _plan([task], spec, task.spec.margin, task.spec.role) for task in found}
    for mode in dict.fromkeys(task.mode for task in found):
        plans[f"pooled.{mode}"] = _plan([task for task in found if task.mode == mode], spec, spec.decision.margin)
    return plans


def _plan(found: Sequence[_Task], spec: RunSpec, margin: float, role: Role = "certify") -> Plan:
    hashes = [item for task in found for item in dict.fromkeys(task.planned)]
    chance = sum((task.spec.chance or 0.0) * len(set(task.planned)) for task in found) / len(hashes)
    return Plan(
        margin=margin, alpha_safe=spec.decision.alpha, alpha_unsafe=spec.decision.alpha, n_planned=len(hashes),
        items_sha256=hashlib.sha256("\n".join(hashes).encode()).hexdigest(), chance=chance,
        role=role,
    )  # fmt: skip


def _software(log: Log) -> dict[str, str]:
    known = {"lm-eval": log.results.get("lm_eval_version"), "transformers": log.results.get("transformers_version")}
    return {name: str(value) for name, value in known.items() if value not in (None, "N/A")}
