"""In which order the work is done. A leg is what one arm does at a stretch.

Fixed plan: arm after arm, each with everything, so a model is put into a recipe once. Sequential plan: mode after mode
and window after window the arms take turns; after each window that all have finished a look decides who goes on. A
candidate that is decided stops there, and its cells end with the items that they have; once every candidate is decided
the baseline stops too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evalsuite.harness import Workload
from evalsuite.records import Arm, Mode
from evalsuite.runner.cells import Piece, groups_of
from evalsuite.runner.job import Job
from evalsuite.store import RunWriter, StoredRun


@dataclass(frozen=True)
class Leg:
    """What one arm does at a stretch."""

    arm: Arm
    pieces: tuple[Piece, ...]


Legs = Iterator[Leg]


def of(writer: RunWriter, work: Sequence[Workload], job: Job) -> Legs:
    """All legs of a run; whoever takes them does each before asking for the next."""
    if writer.manifest.sequences:
        for mode in writer.manifest.sequences:
            yield from _windows(writer, [w for w in work if w.mode == mode], mode, job)
        return
    for arm in writer.manifest.spec.arms:
        yield Leg(arm, tuple(Piece(w, repeat) for w in work for repeat in range(w.repeats)))


def _windows(writer: RunWriter, work: Sequence[Workload], mode: Mode, job: Job) -> Legs:
    failed: set[str] = set()  # in this run: a cell that lost a window is not gone on with
    for window in range(len(writer.manifest.sequences[mode].ends)):
        arms = _going_on(writer, mode)
        for arm in arms:
            if writer.manifest.sequences[mode].done.get(arm.id, 0) > window:
                continue
            pieces = [
                Piece(w, repeat, tuple(w.in_window(groups_of(arm, w), window)))
                for w in work for repeat in range(w.repeats)
            ]  # fmt: skip
            yield Leg(arm, tuple(piece for piece in pieces if piece.cell(arm).key not in failed))
            if job.stop():
                return
            failed |= {key for key, record in writer.manifest.cells.items() if record.status == "failed"}
            drawn = writer.manifest.sequences[mode]
            _update(writer, mode, done={**drawn.done, arm.id: window + 1})
        if arms and all(writer.manifest.sequences[mode].done[arm.id] == window + 1 for arm in arms):
            _look(writer, mode, job)
    for arm in _going_on(writer, mode):
        _end(writer, arm, mode, job)


def _going_on(writer: RunWriter, mode: Mode) -> list[Arm]:
    """The arms that are not decided."""
    return [arm for arm in writer.manifest.spec.arms if arm.id not in writer.manifest.sequences[mode].stopped]


def _look(writer: RunWriter, mode: Mode, job: Job) -> None:
    """Ask who is decided and end their cells; once every candidate is, nobody goes on."""
    drawn, spec = writer.manifest.sequences[mode], writer.manifest.spec
    decided = job.decided(StoredRun(writer.path, writer.manifest), mode) | set(drawn.stopped)
    if {arm.id for arm in spec.candidates} <= decided:
        decided |= {arm.id for arm in spec.arms}
    for arm in _going_on(writer, mode):
        if arm.id in decided:
            _end(writer, arm, mode, job)
    fresh = [arm.id for arm in spec.candidates if arm.id in decided and arm.id not in drawn.stopped]
    _update(writer, mode, stopped=tuple(arm.id for arm in spec.arms if arm.id in decided))
    for candidate in fresh:
        n = drawn.ends[drawn.done[candidate] - 1]
        job.reporter.note(f"{candidate} is decided in {mode} mode after {n:,} of at most {len(drawn.order):,} items")


def _end(writer: RunWriter, arm: Arm, mode: Mode, job: Job) -> None:
    """End an arm's cells with the items of the windows that it has finished."""
    drawn = writer.manifest.sequences[mode]
    tasks = [task.task for task in writer.manifest.spec.tasks if mode in task.modes]
    reached = drawn.reached(arm.id)
    for record in list(writer.manifest.cells.values()):
        if (record.cell.arm, record.cell.mode) == (arm.id, mode) and record.status in ("planned", "running"):
            n = reached.count(tasks.index(record.cell.task))
            job.reporter.spare(record.cell, record.n_planned - n)
            writer.fold(record.model_copy(update={"n_planned": n}))


def _update(writer: RunWriter, mode: Mode, **fields: object) -> None:
    drawn = writer.manifest.sequences[mode].model_copy(update=fields)
    writer.update(sequences={**writer.manifest.sequences, mode: drawn})
