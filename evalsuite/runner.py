"""The measuring half from top to bottom: a `RunSpec` in, a stored run out.

`run` reads as the program: prepare all workloads once, write the plan before the first item, then arm by arm, cell by
cell, group by group into the journal. A failed cell is recorded and the rest goes on. Nothing here knows of verdicts;
whoever calls may hand in a `stop()` that ends the run between two groups (time limit, interrupt, sequential design).
"""

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evalsuite import machine
from evalsuite.engines import ENGINES, Engine, Session
from evalsuite.errors import CannotRunError, EvalsuiteError, RefusedError
from evalsuite.executors import serial
from evalsuite.harness import Workload, prepare
from evalsuite.records import Arm, Cell, CellRecord, Manifest, Plan, RunSpec
from evalsuite.store import RunWriter, Store, StoredRun, file_sha256, read_journal


class Reporter(Protocol):
    """Who is told how far a run is."""

    def start(self, total: dict[str, int], done: int) -> None:
        """A run begins: items to do by mode, and items that a resumed run already has."""

    def cell(self, cell: Cell, n_items: int) -> None:
        """A cell begins, with that many items to do."""

    def advance(self, cell: Cell, n_items: int) -> None:
        """Items were finished and are on disk."""

    def note(self, text: str) -> None:
        """Something worth a line."""


@dataclass(frozen=True)
class Job:
    """What a run needs besides its specification."""

    store: Store
    reporter: Reporter
    stop: Callable[[], bool] = lambda: False
    """Asked between two groups; True ends the run there, resumable."""
    command: str | None = None


def run(spec: RunSpec, job: Job, resume: StoredRun | None = None) -> StoredRun:
    """Measure a suite, or continue a stored run of it. Errors: see `errors`; a failed cell raises nothing."""
    job.store.check_writable()
    engine = ENGINES[spec.engine](spec.model, spec.engine_options)
    spec = _with_weights(spec, engine)
    refusal = next((why for arm in spec.arms if (why := engine.cannot_run(arm))), None)
    if refusal:
        raise CannotRunError(f"Engine '{spec.engine}' cannot run this: {refusal}.")
    job.reporter.note("building prompts")
    workloads = prepare(spec, engine)
    manifest = _manifest(spec, workloads, engine, job.command)
    writer = job.store.create(manifest) if resume is None else _reopen(job.store, resume, manifest)
    try:
        return _measure(writer, engine, workloads, job)
    finally:
        writer.close()


def _with_weights(spec: RunSpec, engine: Engine) -> RunSpec:
    arms = tuple(arm.model_copy(update={"model": engine.model}) if arm.model.id == spec.model.id else arm
                 for arm in spec.arms)  # fmt: skip
    return spec.model_copy(update={"model": engine.model, "arms": arms})


# ------------------------------------------------------------------------------------------------------------ the plan


def _manifest(spec: RunSpec, workloads: Sequence[Workload], engine: Engine, command: str | None) -> Manifest:
    software = machine.software()
    now = dt.datetime.now(dt.UTC)
    cells = {}
    for arm in spec.arms:
        for workload in workloads:
            cell = Cell(arm=arm.id, task=workload.spec.task, mode=workload.mode)
            key = _resume_key(arm, workload, spec, software)
            cells[cell.key] = CellRecord(
                cell=cell, status="planned", resume_key=key, n_planned=len(workload.items), findings=workload.findings
            )
    digest = spec.digest()
    return Manifest(
        run_id=f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}-{spec.name}-{_short(engine.model.id)}-{digest[:6]}",
        created=now.isoformat(timespec="milliseconds"), status="running", spec=spec, spec_sha256=digest,
        plans=_plans(spec, workloads), items={f"{w.spec.task}.{w.mode}": tuple(i.item_hash for i in w.items)
                                              for w in workloads},
        machine=machine.facts(), software=software, cells=cells, command=command,
    )  # fmt: skip


def _short(model: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in model.rstrip("/").rsplit("/", 1)[-1])[:40].strip("-") or "model"


def _plans(spec: RunSpec, workloads: Sequence[Workload]) -> dict[str, Plan]:
    plans = {}
    for mode in dict.fromkeys(w.mode for w in workloads):
        own = [w for w in workloads if w.mode == mode]
        for workload in own:
            task = workload.spec
            plans[f"{task.task}.{mode}"] = _plan(spec, [workload], task.margin, role=task.role)
        plans[f"pooled.{mode}"] = _plan(spec, own, spec.decision.margin)
    return plans


def _plan(spec: RunSpec, workloads: Sequence[Workload], margin: float, role: Any = "certify") -> Plan:
    hashes = [item.item_hash for w in workloads for item in w.items]
    chance = sum((w.spec.chance or 0.0) * len(w.items) for w in workloads) / len(hashes)
    return Plan(
        margin=margin, alpha_safe=spec.decision.alpha, alpha_unsafe=spec.decision.alpha, design=spec.decision.design,
        estimand=spec.decision.estimand, n_planned=len(hashes), order_seed=spec.seed, role=role, chance=chance,
        items_sha256=hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
    )  # fmt: skip


def _resume_key(arm: Arm, workload: Workload, spec: RunSpec, software: dict[str, str]) -> str:
    """Everything that the samples of a cell depend on. The commit is left out: code that changes samples changes the
    version; threads are in, since bits depend on them."""
    import torch

    versions = {name: value for name, value in software.items() if name not in ("commit", "python")}
    parts = [arm.digest(), workload.digest, spec.engine, json.dumps(spec.engine_options, sort_keys=True),
             spec.sampling[workload.mode].digest(), str(torch.get_num_threads()),
             json.dumps(versions, sort_keys=True)]  # fmt: skip
    if torch.accelerator.is_available():
        # FP8 may be native there and emulated here: such samples are not continued on another kind of device.
        parts.append(str(torch.accelerator.current_accelerator()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _reopen(store: Store, old: StoredRun, fresh: Manifest) -> RunWriter:
    """Continue a run: the same items, or RefusedError; cells whose key changed are planned afresh."""
    if old.manifest.items != fresh.items:
        raise RefusedError(f"{old.path}: the items or their order changed since this run began; start a new run.")
    writer = store.reopen(old)
    cells = {}
    for key, planned in fresh.cells.items():
        record = old.manifest.cells.get(key)
        if record is None or record.resume_key != planned.resume_key:
            writer.discard(key)
            cells[key] = planned
        else:
            cells[key] = record
    writer.update(cells=cells, status="running", machine=fresh.machine, software=fresh.software)
    return writer


# ------------------------------------------------------------------------------------------------------- the measuring


def _measure(writer: RunWriter, engine: Engine, workloads: Sequence[Workload], job: Job) -> StoredRun:
    spec = writer.manifest.spec
    pending = {key: record for key, record in writer.manifest.cells.items() if not _is_done(writer, record)}
    totals: dict[str, int] = {}
    for record in writer.manifest.cells.values():
        totals[record.cell.mode] = totals.get(record.cell.mode, 0) + record.n_planned
    kept = sum(r.n_planned for key, r in writer.manifest.cells.items() if key not in pending)
    job.reporter.start(totals, kept)
    for arm in spec.arms:
        todo = [w for w in workloads if Cell(arm=arm.id, task=w.spec.task, mode=w.mode).key in pending]
        if not todo or job.stop():
            continue
        job.reporter.note(f"{arm.id}: {arm.recipe.label}")
        try:
            with engine.open(arm) as session:
                for workload in todo:
                    if not job.stop():
                        _cell(writer, session, (arm, workload), job)
        except CannotRunError as error:
            _fail(writer, arm, todo, str(error))
    states = {record.status for record in writer.manifest.cells.values()}
    whole = "interrupted" if job.stop() and states - {"done"} else "done" if states == {"done"} else "partial"
    writer.update(status=whole)
    return StoredRun(writer.path, writer.manifest)


def _is_done(writer: RunWriter, record: CellRecord) -> bool:
    file = writer.path / "cells" / record.cell.key / "samples.parquet"
    return record.status == "done" and file.is_file() and file_sha256(file) == record.samples_sha256


def _fail(writer: RunWriter, arm: Arm, todo: Sequence[Workload], why: str) -> None:
    for workload in todo:
        key = Cell(arm=arm.id, task=workload.spec.task, mode=workload.mode).key
        writer.update_cell(writer.manifest.cells[key].model_copy(update={"status": "failed", "error": why}))


def _cell(writer: RunWriter, session: Session, what: tuple[Arm, Workload], job: Job) -> None:
    """Run what is missing of one cell; its failure is recorded, a store that cannot be written ends the run."""
    arm, workload = what
    cell = Cell(arm=arm.id, task=workload.spec.task, mode=workload.mode)
    record = writer.manifest.cells[cell.key].model_copy(update={"realised": session.realised, "status": "running"})
    if session.realised.recipe != arm.recipe.id:
        why = f"asked for recipe '{arm.recipe.id}', the engine ran '{session.realised.recipe}'"
        writer.update_cell(record.model_copy(update={"status": "failed", "error": why}))
        return
    writer.update_cell(record)
    groups = workload.noise_groups if arm.noise_floor else workload.groups
    with writer.journal(record) as append:
        have = read_journal(writer.path, cell.key).groups
        todo = [(number, group) for number, group in enumerate(groups) if number not in have]
        job.reporter.cell(cell, sum(len(group) for _, group in todo))
        job.reporter.advance(cell, sum(len(groups[number]) for number in have))
        answers = serial.run(session, workload, todo, {"arm": arm.id, "repeat": cell.repeat})
        for _ in todo:
            if job.stop():
                return
            try:
                number, rows = next(answers)
            except EvalsuiteError as error:
                writer.update_cell(record.model_copy(update={"status": "failed", "error": str(error)}))
                return
            except (RuntimeError, ValueError, KeyError, TypeError, IndexError, MemoryError) as error:
                first = (str(error).splitlines() or [""])[0]
                why = f"{type(error).__name__}: {first}"
                writer.update_cell(record.model_copy(update={"status": "failed", "error": why}))
                job.reporter.note(f"{cell.key} failed: {why}")
                return
            append(number, rows)
            job.reporter.advance(cell, len(groups[number]))
    writer.fold(record)
