"""One logged line as an answer, whatever version of lm-evaluation-harness wrote it.

    0.4.0 - 0.4.2   one JSON list a file; no hashes, no filter name; numbers are numbers
    0.4.3 - 0.4.6   JSON lines; `doc_hash`, `prompt_hash`; log-likelihoods as text
    0.4.7 - today   the same with `filter` and `metrics`

Hashes that are absent are computed as lm-eval does, so logs of different versions can be paired. An item is logged once
a filter; where the name is absent, the n-th line of an item belongs to the n-th filter of the task.
"""

import gzip
import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalsuite.errors import CannotRunError, SuiteError
from evalsuite.store import Row

FIXED = frozenset({"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash",
                   "prompt_hash", "target_hash"})  # fmt: skip
"""Keys of a line that are no metric."""


@dataclass(frozen=True)
class Answer:
    """One item as one filter saw it."""

    doc_id: int
    item_hash: str
    prompt_hash: str
    filter: str
    scores: dict[str, float]
    """Metric -> value; only those that are one number."""
    settings: dict[str, Any] | None
    """Generation settings; None for log-likelihoods."""
    options: int
    """Choices of a multiple-choice item; 0 otherwise."""
    row: Row
    """Columns of `SAMPLE_COLUMNS` that do not depend on the metric."""

    @property
    def finite(self) -> bool:
        """False where a log-likelihood is no number: the item is missing then, not wrong."""
        values = self.row["choice_loglikelihoods"]
        return values is None or all(map(math.isfinite, values))


def read_answers(path: Path, filters: Sequence[str]) -> list[Answer]:
    """All answers of a sample log. `filters`: the task's filters in their order, for logs that do not name them."""
    seen: dict[int, int] = {}
    found = []
    for number, line in _objects(path):
        try:
            doc_id = int(line["doc_id"])
            turn = seen[doc_id] = seen.get(doc_id, -1) + 1
            name = line.get("filter") or (filters[turn] if turn < len(filters) else f"filter-{turn + 1}")
            found.append(_answer(line, doc_id, str(name)))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise SuiteError(f"{path}:{number}:1: not a sample of lm-eval ({type(error).__name__}: {error}). It has "
                             "`doc_id`, `doc`, `arguments`, `filtered_resps` and the metrics.") from None  # fmt: skip
    if not found:
        raise SuiteError(f"{path}:1:1: no samples in this file.")
    return found


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a log: JSON lines, or one list."""
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            first = file.readline()
            number = 1
            if first.strip().startswith("[") or not first.strip():
                whole = json.loads(first + file.read() or "[]")
                yield from ((1, line) for line in (whole if isinstance(whole, list) else []))
                return
            if first.startswith("version https://git-lfs"):
                raise SuiteError(f"{path}:1:1: a Git LFS pointer, not the log. Fetch the file with `git lfs pull`.")
            yield number, json.loads(first)
            for number, text in enumerate(file, start=2):
                if text.strip():
                    yield number, json.loads(text)
    except json.JSONDecodeError as error:
        line = number + error.lineno - 1
        raise SuiteError(f"{path}:{line}:{error.colno}: broken line, not valid JSON ({error.msg}). If lm-eval was "
                         "killed while it wrote, run it again.") from None  # fmt: skip
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise SuiteError(f"{path}:{number + 1}:1: not a text file ({error}).") from None
    except OSError as error:
        raise CannotRunError(f"{path}: cannot be read ({error.strerror or error}).") from None


def _answer(line: dict[str, Any], doc_id: int, name: str) -> Answer:
    requests = _requests(line.get("arguments"))
    pairs = _pairs(line["filtered_resps"], requests)
    named = line.get("metrics")
    metrics = named if isinstance(named, list) else [key for key in line if key not in FIXED]
    scores = {key: value for key in metrics if (value := _number(line.get(key))) is not None}
    if pairs is None:
        row, settings = _generated(line), requests[0][1] if requests and len(requests[0]) > 1 else {}
    else:
        row, settings = _scored(line, pairs, requests, scores), None
    return Answer(
        doc_id=doc_id, item_hash=_doc_hash(line), prompt_hash=_prompt_hash(line, requests), filter=name, scores=scores,
        settings=settings if isinstance(settings, dict) else None if pairs is not None else {},
        options=len(row["choice_loglikelihoods"]) if pairs is not None and len(requests) > 1 else 0, row=row,
    )  # fmt: skip


def _requests(arguments: Any) -> list[list[Any]]:
    """The arguments of each request, as lists: (prompt, continuation) or (prompt, generation settings)."""
    if isinstance(arguments, dict):
        ordered = sorted(arguments.items(), key=lambda item: _order(item[0]))
        return [[value for _, value in sorted(one.items(), key=lambda item: _order(item[0]))] for _, one in ordered]
    return [list(one) for one in arguments or []]


def _order(key: str) -> int:
    return int(re.sub(r"\D", "", key) or 0)


def _pairs(filtered: Any, requests: list[list[Any]]) -> list[float] | None:
    """The log-likelihood of each request; None for generated answers."""
    generates = any(len(one) > 1 and isinstance(one[1], dict) for one in requests)
    if generates or not isinstance(filtered, list) or not filtered:
        return None
    if not all(isinstance(one, list) and len(one) == 2 and str(one[1]) in ("True", "False") for one in filtered):
        return None
    return [float(one[0]) for one in filtered]


def _number(value: Any) -> float | None:
    if isinstance(value, bool | int | float):
        return float(value)
    return {"True": 1.0, "False": 0.0}.get(value) if isinstance(value, str) else None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _doc_hash(line: dict[str, Any]) -> str:
    """First 16 digits of lm-eval's hash of the item; computed where the log has none."""
    if line.get("doc_hash"):
        return str(line["doc_hash"])[:16]
    return _hash(json.dumps(line["doc"], indent=2, ensure_ascii=False))


def _prompt_hash(line: dict[str, Any], requests: list[list[Any]]) -> str:
    """The same of the prompt; empty where it was not logged."""
    if line.get("prompt_hash"):
        return str(line["prompt_hash"])[:16]
    return _hash(str(requests[0][0])) if requests and requests[0] else ""


def _generated(line: dict[str, Any]) -> Row:
    filtered, text = line["filtered_resps"], line.get("resps")
    while isinstance(filtered, list):
        filtered = filtered[0] if filtered else None
    while isinstance(text, list):
        text = text[0] if text else None
    prediction = "" if filtered is None else str(filtered)
    parsed = prediction.strip() not in ("", "[invalid]")
    return {**_UNKNOWN, "prediction": prediction if parsed else None, "gold": str(line.get("target")), "parsed": parsed,
            "output_text": None if text is None else str(text), "choice_loglikelihoods": None,
            "gold_loglikelihood": None, "margin": None, "tie": None}  # fmt: skip


def _scored(line: dict[str, Any], values: list[float], requests: list[list[Any]], scores: dict[str, float]) -> Row:
    options = [str(one[1]).strip() if len(one) > 1 else "" for one in requests] or [""] * len(values)
    half = len(values) // 2
    if len(values) > 2 and len(values) % 2 == 0 and options[:half] == options[half:]:
        options, values = options[:half], values[:half]  # behind the choices: the same without the question
    if len(set(options)) < len(options):
        options = [f"choice {i}" for i in range(len(options))]  # the choices differ in their prompts
    best = max(range(len(values)), key=values.__getitem__)
    gold = _gold(line.get("target"), options)
    if gold is not None and len(values) > 1 and scores.get("acc") not in (None, float(best == gold)):
        gold = None
    others = [value for i, value in enumerate(values) if i != gold]
    known = gold is not None and math.isfinite(sum(values))
    return {**_UNKNOWN, "prediction": options[best] if len(options) > 1 else None, "parsed": True, "output_text": None,
            "gold": str(line.get("target")) if gold is None else options[gold], "choice_loglikelihoods": values,
            "gold_loglikelihood": values[gold] if known and gold is not None else None,
            "margin": values[gold] - max(others) if known and gold is not None and others else None,
            "tie": sorted(values)[-2:].count(max(values)) > 1}  # fmt: skip


def _gold(target: Any, options: list[str]) -> int | None:
    """Index of the right choice; None where the log does not say it plainly."""
    if isinstance(target, int) or (isinstance(target, str) and target.strip().isdigit()):
        index = int(target)
        if 0 <= index < len(options):
            return index
    text = str(target).strip()
    return options.index(text) if text in options else None


_UNKNOWN: Row = {
    "repeat": 0, "group": None, "finish_reason": None, "truncated": None, "n_prompt_tokens": None,
    "n_output_tokens": None, "n_thinking_tokens": None, "output_token_ids": None, "seed": None,
}  # fmt: skip
"""What lm-eval does not log."""
