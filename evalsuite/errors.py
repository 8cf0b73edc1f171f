"""Everything evalsuite raises on purpose, and the exit code each carries.

    EvalsuiteError            1   (never raised itself)
    ├── UsageError            2   bad usage: unknown verb argument, recipe, task, arm
    │   └── SuiteError        2   a suite or task file is wrong: carries `file:line:column`
    ├── CannotRunError        3   the environment can't do it: missing folder, package, dataset, permission
    │   └── SchemaError       3   a store written by a newer evalsuite
    ├── CellsFailedError      4   some cells failed, the rest is kept
    ├── RefusedError          5   lock held, plan spent, key differs
    └── NotComparableError   12   the data cannot carry a verdict

A message says where, what is wrong, the value, what is allowed, and what to do. The command line prints it without a
traceback (`-v` shows one) and exits with `exit_code`.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class EvalsuiteError(Exception):
    """Base of all errors that a user can cause or mend."""

    exit_code: ClassVar[int] = 1


class UsageError(EvalsuiteError):
    """The command line or the Python call asks for something that does not exist."""

    exit_code = 2


class SuiteError(UsageError):
    """A suite, catalogue or item file is wrong; the message starts with `file:line:column`."""


class CannotRunError(EvalsuiteError):
    """The environment cannot do what was asked."""

    exit_code = 3


class SchemaError(CannotRunError):
    """A stored file has a schema that this version does not read."""


class CellsFailedError(EvalsuiteError):
    """Some cells failed; what finished is stored."""

    exit_code = 4


class RefusedError(EvalsuiteError):
    """The action is possible but not allowed now."""

    exit_code = 5


class NotComparableError(EvalsuiteError):
    """Two sets of results cannot be compared."""

    exit_code = 12


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known word, if one is near, then all known words."""
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.6)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"{hint} Known: {', '.join(names)}."
