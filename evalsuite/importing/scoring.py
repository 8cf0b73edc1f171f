"""Which metric and which filter of a task count.

The judge needs answers that are right or wrong, so a metric counts only if it is 0 or 1 on every item. Where a log
leaves a choice, the order is: what was asked for, what the catalogue states, the only one there is; else an error. The
choice must not be made by looking at which one comes out better.
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from evalsuite import tasks
from evalsuite.errors import UsageError, did_you_mean
from evalsuite.importing.lines import Answer


def parse_choices(options: Iterable[str], what: str) -> tuple[tuple[str, str], ...]:
    """`NAME` or `TASK=NAME` options as (pattern of tasks, name); UsageError for an empty one."""
    found = []
    for option in options:
        pattern, equals, name = option.partition("=")
        pattern, name = (pattern, name) if equals else ("", option)
        if not name or (equals and not pattern):
            raise UsageError(f"--{what} takes NAME or TASK=NAME, e.g. mmlu_*=acc (found: '{option}').")
        found.append((pattern, name))
    return tuple(found)


def choose(
    task: str, arms: Sequence[Sequence[Answer]], metrics: Sequence[tuple[str, str]], filters: Sequence[tuple[str, str]]
) -> tuple[str, str]:
    """(metric, filter) of a task. `arms`: the answers of every arm."""
    known = [dict.fromkeys(answer.filter for answer in answers) for answers in arms]
    shared = [name for name in known[0] if all(name in names for names in known)]
    if not shared:
        raise UsageError(f"Task '{task}': the logs have no filter in common ({', '.join(known[0])} against "
                         f"{', '.join(known[1])}). Run both with the same version of the task.")  # fmt: skip
    stated = tasks.catalogue().get(task)
    name = _one(task, "filter", shared, filters, stated.filter if stated else None)
    binary = _binary([[answer.scores for answer in answers if answer.filter == name] for answers in arms])
    if not binary:
        raise UsageError(f"Task '{task}': no metric is 0 or 1 on every item, so no answer is right or wrong. Leave it "
                         "out with --tasks.")  # fmt: skip
    return _one(task, "metric", binary, metrics, stated.metric if stated else None), name


def _one(task: str, what: str, known: list[str], asked: Sequence[tuple[str, str]], stated: str | None) -> str:
    for pattern, name in sorted(asked, key=lambda one: (one[0] != task, not one[0])):
        if fnmatchcase(task, pattern or "*"):
            if name in known:
                return name
            if pattern:
                raise UsageError(f"Task '{task}' logged no {what} '{name}'.{did_you_mean(name, known)}")
    if stated in known:
        return str(stated)
    if len(known) == 1:
        return known[0]
    raise UsageError(f"Task '{task}' logged several: {what} {', '.join(known)}. State the one that counts: "
                     f"--{what} {task}={known[0]}, or --{what} {known[0]} for all tasks.")  # fmt: skip


def _binary(arms: Sequence[Sequence[Mapping[str, float]]]) -> list[str]:
    """Metrics that are 0 or 1 (or no number) on every item of every arm, and a number on some."""
    names = dict.fromkeys(name for scores in arms[0] for name in scores)
    everywhere = [name for name in names if all(any(name in scores for scores in arm) for arm in arms)]
    return [name for name in everywhere
            if {scores[name] for arm in arms for scores in arm if name in scores and scores[name] == scores[name]}
            <= {0.0, 1.0}]  # fmt: skip
