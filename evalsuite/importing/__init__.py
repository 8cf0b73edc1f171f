"""Logs of other programs as runs of the store: judged and published like any measured run. Needs no torch.

    folders.py    which files of a folder are one run of lm-evaluation-harness, and what its results file says
    lines.py      one logged line, of any version of the format, as an answer
    scoring.py    which metric and which filter of a task count
    arms.py       how the arms are called and described
    lm_eval.py    two or three logs -> manifest and samples (start here)
    keeping.py    into the store, once

Nothing is guessed: where a log leaves a choice (several metrics, filters, runs), the choice must be stated, or is said.
What a log does not hold (truncation, token counts, kernels) is unknown, never zero.
"""

from collections.abc import Callable

from evalsuite.importing.keeping import Imported, keep
from evalsuite.importing.lm_eval import Asked, read_logs

FORMATS: dict[str, Callable[[Asked], Imported]] = {"lm-eval": read_logs}
"""Format -> reader of its logs."""

__all__ = ["FORMATS", "Asked", "Imported", "keep"]
