"""The plan of a run: its manifest, written before the first item, and what of a stored run may be continued."""

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from evalsuite import machine
from evalsuite.engines import UNSEEN
from evalsuite.errors import RefusedError
from evalsuite.harness import Workload
from evalsuite.records import Arm, Cell, CellRecord, Finding, Manifest, Mode, Plan, RunSpec
from evalsuite.records import Sequence as Drawn
from evalsuite.runner import missing
from evalsuite.store import RunWriter, Store, StoredRun


def manifest(
    spec: RunSpec,
    workloads: Sequence[Workload],
    sequences: Mapping[Mode, Drawn],
    found: Mapping[str, tuple[Finding, ...]],
    command: str | None,
) -> Manifest:
    """Everything that is fixed before the first item. `found`: what resolving each arm's model brought up."""
    software = machine.software()
    now = dt.datetime.now(dt.UTC)
    cells = {}
    for arm in spec.arms:
        for workload in workloads:
            key = _resume_key(arm, workload, spec, software)
            for repeat in range(workload.repeats):
                cell = Cell(arm=arm.id, task=workload.spec.task, mode=workload.mode, repeat=repeat)
                cells[cell.key] = CellRecord(
                    cell=cell, status="planned", resume_key=key, n_planned=len(workload.items),
                    findings=workload.findings + found[arm.id],
                )  # fmt: skip
    digest = spec.digest()
    return Manifest(
        run_id=f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}-{spec.name}-{_short(spec.model.id)}-{digest[:6]}",
        created=now.isoformat(timespec="milliseconds"), status="running", spec=spec, spec_sha256=digest,
        plans=_plans(spec, workloads), items={f"{w.spec.task}.{w.mode}": tuple(i.item_hash for i in w.items)
                                              for w in workloads},
        machine=machine.facts(), software=software, cells=cells, command=command,
        sequences=dict(sequences),
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
        pooled = _plan(spec, own, spec.decision.margin)
        plans[f"pooled.{mode}"] = pooled.model_copy(update={"relative": spec.decision.recovery})
    return plans


def _plan(spec: RunSpec, workloads: Sequence[Workload], margin: float, role: Any = "certify") -> Plan:
    hashes = [item.item_hash for w in workloads for item in w.items]
    chance = sum((w.spec.chance or 0.0) * len(w.items) for w in workloads) / max(len(hashes), 1)
    return Plan(
        margin=margin, alpha_safe=spec.decision.alpha, alpha_unsafe=spec.decision.alpha, design=spec.decision.design,
        estimand=spec.decision.estimand, n_planned=len(hashes), order_seed=spec.seed, role=role, chance=chance,
        psi_plan=spec.decision.psi_plan,
        items_sha256=hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
    )  # fmt: skip


def _resume_key(arm: Arm, workload: Workload, spec: RunSpec, software: dict[str, str]) -> str:
    """Everything that the samples of a cell depend on. The commit is left out: code that changes samples changes the
    version; threads are in, since bits depend on them."""
    import torch

    versions = {name: value for name, value in software.items() if name not in ("commit", "python")}
    options = {k: v for k, v in spec.engine_options.items() if k not in UNSEEN.get(spec.engine, ())}
    parts = [arm.digest(), workload.digest, spec.engine, json.dumps(options, sort_keys=True),
             spec.sampling[workload.mode].digest(), str(torch.get_num_threads()),
             json.dumps(versions, sort_keys=True)]  # fmt: skip
    if torch.accelerator.is_available():
        # FP8 may be native there and emulated here: such samples are not continued on another kind of device.
        parts.append(str(torch.accelerator.current_accelerator()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def reopen(store: Store, old: StoredRun, fresh: Manifest) -> RunWriter:
    """Continue a run: the same items, or RefusedError; cells whose key changed are planned afresh."""
    if old.manifest.items != fresh.items:
        raise RefusedError(f"{old.path}: the items or their order changed since this run began; start a new run.")
    writer = store.reopen(old)
    cells = {}
    for key, planned in fresh.cells.items():
        record = old.manifest.cells.get(key)
        lost = record is not None and record.status == "done" and not writer.is_folded(record)
        if record is None or lost or record.resume_key != planned.resume_key:
            writer.discard(key)
            cells[key] = planned
        else:
            cells[key] = record
    cells |= _opened(writer, cells)
    sequences = {mode: _intact(drawn, mode, cells) for mode, drawn in old.manifest.sequences.items()}
    writer.update(
        cells=cells, status="running", machine=fresh.machine, software=fresh.software, sequences=sequences
    )
    return writer


def _opened(writer: RunWriter, cells: Mapping[str, CellRecord]) -> dict[str, CellRecord]:
    """Finished cells with items that were not answered, opened again; decided arms of a sequential run need no more."""
    found = {}
    for key, record in cells.items():
        drawn = writer.manifest.sequences.get(record.cell.mode)
        decided = drawn is not None and record.cell.arm in drawn.stopped
        if record.status == "done" and missing.is_open(record) and not decided:
            found[key] = record.model_copy(update={"status": "running", "samples_sha256": None})
            writer.unfold(record, found[key])
    return found


def _intact(drawn: Drawn, mode: Mode, cells: Mapping[str, CellRecord]) -> Drawn:
    """How far the arms have come: one of whose cells nothing is stored, or that failed, goes through its windows again
    (what its other cells have is kept)."""
    again = {r.cell.arm for r in cells.values() if r.cell.mode == mode and _is_due(r)}
    return drawn.model_copy(update={
        "done": {arm: n for arm, n in drawn.done.items() if arm not in again},
        "stopped": tuple(arm for arm in drawn.stopped if arm not in again),
    })  # fmt: skip


def _is_due(record: CellRecord) -> bool:
    return record.status in ("planned", "failed") or (record.status == "running" and missing.is_open(record))


def extend(writer: RunWriter, longer: Manifest) -> None:
    """Give a sequential run the items of `longer`: cells of arms that are not decided are opened again."""
    own = writer.manifest
    cells = {}
    for key, record in own.cells.items():
        wider = longer.cells[key]
        grown = record.model_copy(update={"resume_key": wider.resume_key})
        if record.cell.arm not in own.sequences[record.cell.mode].stopped:
            grown = grown.model_copy(update={"status": "running", "n_planned": wider.n_planned, "samples_sha256": None})
            writer.unfold(record, grown)
        cells[key] = grown
    sequences = {
        mode: drawn.model_copy(update={"order": longer.sequences[mode].order, "ends": longer.sequences[mode].ends})
        for mode, drawn in own.sequences.items()
    }
    writer.update(cells=cells, sequences=sequences, items=longer.items, plans=longer.plans)
