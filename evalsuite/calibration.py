"""Texts that static activation scales are calibrated on: which ones an arm uses, and how they are read.

An arm with a recipe of static scales names a file of texts. The embedded model has shipped texts, so that it needs to
name none; for any other model there is no sane default, and an arm without texts is refused.
"""

import hashlib
import json
from pathlib import Path

from evalsuite import resources
from evalsuite.errors import CannotRunError, SuiteError, UsageError
from evalsuite.records import CalibrationTexts, ModelRef
from evalsuite.tasks import read_json_lines

SHIPPED = "reference"
"""What an arm may name instead of a file."""


def chosen(name: str | None, model: ModelRef, folder: Path) -> CalibrationTexts:
    """The texts for an arm of static scales.

    Args:
        name: what the arm says: a file (relative to *folder*), `reference`, or nothing.
        model: the arm's model; the embedded one has a default.
        folder: that of the suite file.

    Raises:
        UsageError: nothing is named and there is no default; or see `read_texts`.
    """
    name = name or (SHIPPED if model.id == "reference" else None)
    if name is None:
        raise UsageError(
            "static activation scales need texts to calibrate them on: add `calibration: FILE` to the arm, JSONL with "
            "`text` (or `question` and `answer`) or .txt with a text a line. Take texts like those that the model will "
            "serve, and none that is judged."
        )
    file = SHIPPED if name == SHIPPED else str((folder / Path(name).expanduser()).resolve())
    return CalibrationTexts(file=file, texts_sha256=texts_sha256(read_texts(_path(file))))


def read_again(texts: CalibrationTexts) -> list[str]:
    """The texts that an arm names; CannotRunError if they are no longer those that it was planned with."""
    lines = read_texts(_path(texts.file))
    if texts_sha256(lines) != texts.texts_sha256:
        raise CannotRunError(f"{texts.file}: the calibration texts changed since the run was planned. Start a new run.")
    return lines


def _path(file: str) -> Path:
    return reference_texts() if file == SHIPPED else Path(file)


def reference_texts() -> Path:
    """Generated questions with answers in the reference model's own chat form; none of them is a judged item."""
    return resources.tasks() / "calibration" / "reference.jsonl"


def read_texts(path: Path) -> list[str]:
    """Calibration texts, none empty: a .txt file (one text a line), or JSONL with `text`, or with `question` and,
    behind it, `answer`. SuiteError names the line, CannotRunError a file that cannot be read."""
    if path.suffix == ".txt":
        try:
            texts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except OSError as error:
            raise CannotRunError(f"{path}: cannot be read ({error.strerror}).") from None
        if not texts:
            raise SuiteError(f"{path}:1:1: no calibration texts in this file.")
        return texts
    texts = []
    for number, row in enumerate(read_json_lines(path), start=1):
        parts = [row["text"]] if "text" in row else [row.get("question"), row.get("answer", "")]
        if not all(isinstance(part, str) for part in parts) or not parts[0].strip():
            raise SuiteError(f"{path}: text {number}: expected `text`, or `question` (and `answer`), with text in it.")
        texts.append("\n".join(parts).rstrip("\n"))
    return texts


def texts_sha256(texts: list[str]) -> str:
    """Hash over texts, in order."""
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode()).hexdigest()
