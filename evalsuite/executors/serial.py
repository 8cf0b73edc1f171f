"""One group after another, in this process."""

from collections.abc import Iterator, Sequence
from typing import Any

from evalsuite.engines import Session
from evalsuite.harness import Workload, answer
from evalsuite.store import Row


def run(
    session: Session, workload: Workload, groups: Sequence[tuple[int, tuple[int, ...]]], tags: dict[str, Any]
) -> Iterator[tuple[int, list[Row]]]:
    """Answer numbered groups in order; yields (group number, its finished rows) as each is done."""
    for number, positions in groups:
        yield number, answer(session, workload, positions, {**tags, "group": number})
