"""What may not be trained on: real benchmark items and our own frozen ones, known by hash only.

Text is normalised before it is hashed (lower case, white space collapsed, punctuation trimmed from both ends) so that
a training item which differs from a benchmark item in nothing a reader would see is dropped as well. Random Boolean
expressions hit the real ones often.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

BENCHMARK_HASHES = Path(__file__).with_name("benchmark_hashes.txt")
DIGITS = 16
HEADER = """\
# First 16 hex digits of the SHA-256 of every BIG-Bench Hard input and every GSM8K question (train and test), sorted.
# Text is normalised first: lower case, white space collapsed, punctuation trimmed from both ends.
# Written by evalsuite.reference.hashes.write_benchmark_hashes; nothing that matches is trained on or frozen.
"""
EDGES = " \t\n.,;:!?\"'`()[]{}<>=-"


def normalise(text: str) -> str:
    """The form of a text that is hashed."""
    return " ".join(text.lower().split()).strip(EDGES)


def text_hash(text: str) -> str:
    """Short hash of the normalised text."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()[:DIGITS]


def _benchmark_texts(folder: Path) -> Iterator[str]:
    """Questions under `bbh/*.json` and `gsm8k/*.jsonl`."""
    for path in sorted((folder / "bbh").glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        for row in document["examples"] if isinstance(document, dict) else document:
            yield row["input"]
    for path in sorted((folder / "gsm8k").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)["question"]


def benchmark_hashes_of(folder: Path) -> set[str]:
    """Hashes of the benchmarks in `folder`; of a question with options also the stem alone."""
    hashes = set()
    for text in _benchmark_texts(folder):
        hashes |= {text_hash(text), text_hash(text.split("\nOptions:")[0])}
    return hashes


def write_benchmark_hashes(folder: Path, target: Path = BENCHMARK_HASHES) -> int:
    """Write the shipped list from the real data in `folder`; returns how many hashes it holds."""
    hashes = sorted(benchmark_hashes_of(folder))
    target.write_text(HEADER + "".join(f"{value}\n" for value in hashes), encoding="utf-8")
    return len(hashes)


def read_benchmark_hashes(path: Path = BENCHMARK_HASHES) -> frozenset[str]:
    """The shipped list."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def question_hashes(question: str) -> set[str]:
    """Hashes under which a generated question could match: whole, and without its options."""
    return {text_hash(question), text_hash(question.split("\nOptions:", maxsplit=1)[0])}


def frozen_hashes(folder: Path) -> frozenset[str]:
    """Hashes of every frozen question in `folder`, stems included."""
    found: set[str] = set()
    for path in sorted(folder.glob("*.jsonl")):
        found |= _file_hashes(path.read_text(encoding="utf-8").splitlines())
    if not found:
        raise FileNotFoundError(f"{folder}: no frozen items. Write them first: python -m evalsuite.reference.freeze")
    return frozenset(found)


def _file_hashes(lines: Iterable[str]) -> set[str]:
    hashes: set[str] = set()
    for line in lines:
        hashes |= question_hashes(json.loads(line)["question"])
    return hashes
