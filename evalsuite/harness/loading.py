"""Task files into lm-eval tasks: ours, lm-eval's own (unmodified), and people's own items.

A dataset that the suite maps to a local folder is read from there; else lm-eval's own download runs. Metric, filter,
budget and modes are checked against the task before anything is computed.
"""

import functools
import logging
import re
from pathlib import Path
from typing import Any

import lm_eval.tasks
import lm_eval.utils
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from evalsuite import tasks
from evalsuite.errors import CannotRunError, UsageError, did_you_mean
from evalsuite.records import TaskSpec

logging.getLogger("lm_eval").setLevel(logging.ERROR)
# lm-eval compiles a task's templates anew for every document and example: most of the time that building takes.
lm_eval.utils.env.from_string = functools.lru_cache(maxsize=1024)(lm_eval.utils.env.from_string)

FEWSHOT_SEED = 1234
"""lm-eval's default, so that few-shot examples are those of a plain `lm_eval run`."""


class _Task(ConfigurableTask):  # type: ignore[misc]
    """lm-eval's task over rows that were read from local files (`splits`), or over its own download."""

    def __init__(self, config: dict[str, Any], splits: dict[str, list[dict[str, Any]]] | None) -> None:
        self._splits = splits
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self._splits is None:
            super().download(dataset_kwargs, **kwargs)
            return
        import datasets

        self.dataset = {name: datasets.Dataset.from_list(rows) for name, rows in self._splits.items()}


def load_task(spec: TaskSpec, folders: dict[str, str]) -> Any:
    """The lm-eval task of a specification, with metric, filter and few-shot number checked and set.

    `folders` maps dataset ids to local folders. UsageError for an unknown task, metric or filter; CannotRunError where
    the dataset is not to be had.
    """
    if spec.items is not None:
        task = _Task(_items_config(spec), {"test": tasks.read_items(Path(spec.items))})
    else:
        config = load_yaml(_task_file(spec.task), resolve_func=True)
        if "class" in config:
            raise UsageError(f"Task '{spec.task}' is a Python class in lm-eval; only YAML tasks are supported.")
        task = _open(spec, config, folders)
    if spec.num_fewshot is not None:
        task.set_config("num_fewshot", spec.num_fewshot)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    _check_scoring(spec, task)
    return task


def _open(spec: TaskSpec, config: dict[str, Any], folders: dict[str, str]) -> _Task:
    config.pop("tag", None)
    own = tasks.own_files().get(spec.task)
    dataset, name = config.get("dataset_path"), config.get("dataset_name")
    if own is not None and dataset == "json":
        files = config["dataset_kwargs"]["data_files"]
        return _Task(config, {split: tasks.read_json_lines(own.parent / file) for split, file in files.items()})
    if dataset in folders:
        keys = ("training_split", "validation_split", "test_split", "fewshot_split")
        wanted = sorted({str(config[key]) for key in keys if config.get(key)})
        return _Task(config, {split: tasks.local_split(Path(folders[dataset]), name, split) for split in wanted})
    try:
        return _Task(config, None)
    except Exception as error:  # noqa: BLE001 - dataset clients raise many kinds; each means: not to be had
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CannotRunError(
            f"Task '{spec.task}': dataset '{dataset}' cannot be loaded ({reason}). Without internet, map it to a local "
            f"folder in the suite: `datasets: {{{dataset}: FOLDER}}`."
        ) from None


def _items_config(spec: TaskSpec) -> dict[str, Any]:
    """Own items as an lm-eval task: question in, `answer` filter (the text after 'answer is', else the whole)."""
    scored = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}
    pattern = r"(?:[Aa]nswer is|[Aa]nswer:)\s*(.+?)\.?\s*$"
    answer = [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}]
    return {
        "task": spec.task, "output_type": "generate_until", "test_split": "test", "num_fewshot": 0,
        "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}", "metric_list": [scored],
        "generation_kwargs": {"until": [], "do_sample": False},
        "filter_list": [{"name": "answer", "filter": answer}, {"name": "none", "filter": [{"function": "take_first"}]}],
        "metadata": {"version": 1.0},
    }  # fmt: skip


def _task_file(name: str) -> Path:
    """The YAML file of a task: ours, or lm-eval's (found by a text scan: indexing all of them takes seconds)."""
    own = tasks.own_files()
    if name in own:
        return own[name]
    root = Path(lm_eval.tasks.__file__).parent
    line = re.compile(rf"""^["']?task["']?\s*:\s*["']?{re.escape(name)}["']?\s*$""", re.MULTILINE)
    files = sorted(root.rglob("*.yaml"), key=lambda p: (not _likely(p, name), p))
    for path in files:
        if line.search(path.read_text(encoding="utf-8", errors="replace")):
            return path
    known = [*own, *tasks.catalogue()]
    raise UsageError(f"Unknown task '{name}': neither this project nor lm-eval has it.{did_you_mean(name, known)}")


def _likely(path: Path, name: str) -> bool:
    return any(part.lstrip("_").split(".")[0] in name for part in path.parts[-2:])


def _check_scoring(spec: TaskSpec, task: Any) -> None:
    filters = [ensemble.name for ensemble in task._filters]
    if spec.filter not in filters:
        raise UsageError(f"Task '{spec.task}' has no filter '{spec.filter}'.{did_you_mean(spec.filter, filters)}")
    metrics = list(task._metric_fn_list)
    if spec.metric not in metrics:
        raise UsageError(f"Task '{spec.task}' has no metric '{spec.metric}'.{did_you_mean(spec.metric, metrics)}")
    if task.OUTPUT_TYPE not in ("generate_until", "multiple_choice"):
        raise UsageError(f"Task '{spec.task}' is of type {task.OUTPUT_TYPE}; only generated answers and multiple "
                         "choice can be right or wrong item by item.")  # fmt: skip
    if task.OUTPUT_TYPE == "multiple_choice" and spec.modes != ("direct",):
        raise UsageError(f"Task '{spec.task}' scores log-likelihoods: it has the direct mode only.")
    if task.OUTPUT_TYPE == "generate_until" and set(spec.modes) - set(spec.max_gen_toks or {}):
        raise UsageError(f"Task '{spec.task}' generates: state `max_gen_toks` for each of its modes.")
