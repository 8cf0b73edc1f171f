"""One cell: answer the groups that its journal lacks, and turn the journal into samples once it is whole."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from evalsuite.engines import UNANSWERED, Session
from evalsuite.errors import EvalsuiteError
from evalsuite.executors import serial
from evalsuite.harness import Workload, noted
from evalsuite.records import Arm, Cell, CellRecord
from evalsuite.runner.job import Job
from evalsuite.runner.missing import Missing
from evalsuite.store import Row, RunWriter, read_journal


@dataclass(frozen=True)
class Piece:
    """What one leg does of one cell."""

    workload: Workload
    repeat: int
    groups: tuple[int, ...] | None = None
    """Numbers of the groups to answer; None is all of them, and then the cell ends."""

    def cell(self, arm: Arm) -> Cell:
        """The cell that the piece belongs to."""
        return Cell(arm=arm.id, task=self.workload.spec.task, mode=self.workload.mode, repeat=self.repeat)


def groups_of(arm: Arm, workload: Workload) -> tuple[tuple[int, ...], ...]:
    """The request groups of a workload as an arm answers them."""
    return workload.noise_groups if arm.noise_floor else workload.groups


def answered(writer: RunWriter, record: CellRecord) -> int:
    """Items of a cell that are stored already."""
    if writer.is_folded(record):
        return record.n_done
    journal = read_journal(writer.path, record.cell.key)
    if journal.resume_key != record.resume_key:
        return 0
    return sum(len(rows) for rows in journal.groups.values())


def is_done(writer: RunWriter, arm: Arm, piece: Piece) -> bool:
    """Whether nothing is left to do: the samples of the cell are stored."""
    return writer.is_folded(writer.manifest.cells[piece.cell(arm).key])


def fail(writer: RunWriter, arm: Arm, piece: Piece, why: str) -> None:
    """Record that a cell failed."""
    record = writer.manifest.cells[piece.cell(arm).key]
    writer.update_cell(record.model_copy(update={"status": "failed", "error": why}))


def measure(writer: RunWriter, session: Session, what: tuple[Arm, Piece], job: Job) -> None:
    """Run what is missing of a piece; a failure is recorded, a store that cannot be written ends the run."""
    arm, piece = what
    cell = piece.cell(arm)
    record = writer.manifest.cells[cell.key].model_copy(update={"realised": session.realised, "status": "running"})
    if session.realised.recipe != arm.recipe.id:
        fail(writer, arm, piece, f"asked for recipe '{arm.recipe.id}', the engine ran '{session.realised.recipe}'")
        return
    writer.update_cell(record)
    began = time.monotonic()
    groups = groups_of(arm, piece.workload)
    with writer.journal(record) as append:
        have = read_journal(writer.path, cell.key).groups
        wanted = range(len(groups)) if piece.groups is None else piece.groups
        missing = Missing(record, groups, have)
        todo = missing.todo(wanted, have)
        job.reporter.cell(cell, sum(len(group) for _, group in todo))
        answers = serial.run(session, piece.workload, todo, {"arm": arm.id, "repeat": cell.repeat})
        for _, positions in todo:
            if job.stop():
                writer.update_cell(_timed(record, began))
                return
            found = _next(answers)
            if isinstance(found, str):
                fail(writer, arm, piece, found)
                job.reporter.note(f"{cell.key} failed: {found}")
                return
            number, counts = found[0], session.activity()
            lost = counts.pop(UNANSWERED, {})
            have[number] = have.get(number, []) + found[1]
            missing.take(number, have[number], lost)
            before, record = record, missing.told(noted(record, arm.recipe, counts))
            if lost or len(record.findings) != len(before.findings):
                writer.update_cell(record)  # at once, and first: a kill must not lose a finding
            append(number, have[number])
            job.reporter.advance(cell, len(positions))
            if missing.is_gone:
                break
    record = _timed(missing.told(record), began)
    why = missing.failure(cell, sum(map(len, have.values())))
    if why is not None:
        writer.update_cell(record)
        fail(writer, arm, piece, why)
        job.reporter.note(f"{cell.key} failed: {why}")
    elif piece.groups is None:
        writer.fold(record)
    else:
        writer.update_cell(record)


def _next(answers: Iterator[tuple[int, list[Row]]]) -> tuple[int, list[Row]] | str:
    """The next group's number and rows, or why there are none."""
    try:
        return next(answers)
    except EvalsuiteError as error:
        return str(error)
    except (RuntimeError, ValueError, KeyError, TypeError, IndexError, MemoryError) as error:
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _timed(record: CellRecord, began: float) -> CellRecord:
    """The record with the time since *began* (of the monotonic clock) added."""
    return record.model_copy(update={"seconds": round(record.seconds + time.monotonic() - began, 3)})
