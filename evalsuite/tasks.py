"""Task files without lm-eval: the catalogue, the project's own YAML files, and people's own items.

`harness` is the only module that imports lm-eval; this one only knows files, so that a suite can be checked (and a
laptop can judge) without it. A task is one YAML file in `tasks/` with frozen items beside it and a line in
`tasks/catalogue.yaml`.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from evalsuite import resources
from evalsuite.errors import CannotRunError, SuiteError
from evalsuite.located import read, read_json, read_text, validate
from evalsuite.records import TaskSpec


@cache
def catalogue() -> dict[str, TaskSpec]:
    """What `tasks/catalogue.yaml` states: task name -> complete specification."""
    located = read(resources.tasks() / "catalogue.yaml")
    for name, entry in located.data.items():
        entry["task"] = name
    return {name: validate(located, (name,), TaskSpec) for name in located.data}


def own_files() -> dict[str, Path]:
    """The project's own lm-eval task files: task name -> YAML file."""
    return {path.stem: path for path in sorted(resources.tasks().glob("*.yaml")) if path.stem != "catalogue"}


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file, one a line; SuiteError with `file:line:column` for a broken line."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise SuiteError(f"{path}:{number}:{error.colno}: broken line, not valid JSON ({error.msg}).") from None
        if not isinstance(row, dict):
            raise SuiteError(f"{path}:{number}:1: expected an object {{...}}, found {type(row).__name__}.")
        rows.append(row)
    if not rows:
        raise SuiteError(f"{path}:1:1: no items in this file.")
    return rows


def read_items(path: Path) -> list[dict[str, Any]]:
    """Own items: JSONL with `question` and `answer` (text or number) on every line; SuiteError names the line."""
    rows = read_json_lines(path)
    numbers = [n for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1) if line.strip()]
    for number, row in zip(numbers, rows, strict=True):
        for key in ("question", "answer"):
            if not isinstance(row.get(key), str | int | float):
                raise SuiteError(f"{path}:{number}:1: missing '{key}'. An item has `question` and `answer`.")
    return rows


def local_split(folder: Path, name: str | None, split: str) -> list[dict[str, Any]]:
    """The rows of one split of a dataset that lies in a local folder.

    Looked for, in this order, with the endings .jsonl, .json and .parquet: `NAME/SPLIT`, `NAME-SPLIT`, `NAME`, `SPLIT`
    (also with a part number behind, as hub exports have it). A .json file holds a list of objects, or an object with
    one list of objects (BIG-Bench Hard's `examples`). CannotRunError lists what was looked for.
    """
    if not folder.is_dir():
        raise CannotRunError(f"{folder}: dataset folder does not exist. Check `datasets:` in the suite.")
    stems = [f"{name}/{split}", f"{name}-{split}", f"{name}"] * (name is not None) + [split, f"data/{split}"]
    for stem in stems:
        for ending in ("jsonl", "json", "parquet"):
            for path in [folder / f"{stem}.{ending}", *sorted(folder.glob(f"{stem}-*-of-*.{ending}"))]:
                if path.is_file():
                    return _rows(path)
    looked = ", ".join(f"{stem}.(jsonl|json|parquet)" for stem in stems)
    raise CannotRunError(f"{folder}: no file for split '{split}'; looked for {looked}.")


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return read_json_lines(path)
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    data = read_json(path)
    if isinstance(data, dict):
        lists = [value for value in data.values() if isinstance(value, list)]
        data = lists[0] if len(lists) == 1 else None
    if not isinstance(data, list) or not data or not all(isinstance(row, dict) for row in data):
        raise SuiteError(f"{path}:1:1: expected a list of objects, or an object with one such list.")
    return data
