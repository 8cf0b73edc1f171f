"""An imported run into the store, once: the same logs under the same question are the same run."""

import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from evalsuite import machine
from evalsuite.records import Cell, CellRecord, Finding, Manifest, Plan, RunSpec
from evalsuite.store import Row, Store, StoredRun


@dataclass(frozen=True)
class Imported:
    """A run read from logs, not yet stored."""

    spec: RunSpec
    plans: dict[str, Plan]
    items: dict[str, tuple[str, ...]]
    """`<task>.<mode>` -> planned item hashes."""
    rows: dict[Cell, list[Row]]
    findings: dict[Cell, tuple[Finding, ...]]
    software: dict[str, str]
    notes: tuple[str, ...]
    """What was chosen while reading, for people."""

    @property
    def digest(self) -> str:
        """Hash over question and answers."""
        whole: list[Any] = [self.spec.model_dump(mode="json"), sorted(self.items.items())]
        whole += [plan.model_dump(mode="json") for _, plan in sorted(self.plans.items())]
        whole += [[cell.key, self.rows[cell], [finding.model_dump() for finding in self.findings.get(cell, ())]]
                  for cell in sorted(self.rows, key=lambda cell: cell.key)]  # fmt: skip
        return hashlib.sha256(json.dumps(whole, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]


def keep(run: Imported, store: Store, command: str | None = None) -> tuple[StoredRun, bool]:
    """Store a run; returns it, and whether it is new. The same logs imported twice are one run, not two attempts."""
    digest = run.digest
    store.check_writable()
    for old in store.runs():
        if old.manifest.provenance == "imported" and old.manifest.status == "done" and _digest(old) == digest:
            return old, False
    now = dt.datetime.now(dt.UTC)
    records = {cell.key: CellRecord(cell=cell, status="planned", resume_key=digest, findings=run.findings.get(cell, ()),
                                    n_planned=len(set(run.items[f"{cell.task}.{cell.mode}"])))
               for cell in run.rows}  # fmt: skip
    name = run.spec.candidates[0].id.replace(".", "-")[:40]
    manifest = Manifest(
        run_id=f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}-{run.spec.name}-{name}-{digest[:6]}",
        created=now.isoformat(timespec="milliseconds"), status="running", provenance="imported", spec=run.spec,
        spec_sha256=run.spec.digest(), plans=run.plans, items=run.items, machine={},
        software={**run.software, "evalsuite": machine.software().get("evalsuite", "unknown")}, cells=records,
        command=command,
    )  # fmt: skip
    writer = store.create(manifest)
    try:
        for cell, rows in run.rows.items():
            record = writer.manifest.cells[cell.key]
            with writer.journal(record) as append:
                append(0, rows)
            writer.fold(record)
        writer.update(status="done")
    finally:
        writer.close()
    return StoredRun(writer.path, writer.manifest), True


def _digest(old: StoredRun) -> str | None:
    return next((record.resume_key for record in old.manifest.cells.values()), None)
