"""What a suite can decide, before any compute: items, margins that they certify, power, and time if it is known.

Everything here is a forecast from sections 3.4, 5.5, 6 and 10 of the statistics and spends nothing of an error rate. It
rests on psi, the share of items whose correctness will differ between the arms: measured in earlier runs of the same
task and mode where there are any (the larger of "baseline against candidate" and "baseline against itself"), else the
suite's `psi_plan`. Power is that of the exact test, by enumeration.
"""

import math
from collections.abc import Mapping, Sequence

from evalsuite.judge.exact import exact_power
from evalsuite.judge.power import certifiable_margin, forecast_more, n_required, n_zero_discordance, planning_psi
from evalsuite.judge.sequential import design_mixture
from evalsuite.records import Gate, Judgement, Manifest, Mode, ModePlan, RunSpec

POWER = 0.9
ENOUGH = 0.8
"""Planned power below which a task should not be declared `certify`."""


def plan_mode(
    spec: RunSpec, mode: Mode, items: Mapping[str, int], seen: Mapping[str, tuple[float, str]]
) -> ModePlan:
    """The plan of one mode. `items`: task -> items to be asked; `seen`: task (or "pooled") -> psi and where from."""
    rule = spec.decision
    total = sum(items.values())
    pooled = _gate(None, "certify", (total, rule.margin), rule.alpha, seen.get("pooled", (rule.psi_plan, "suite")))
    tasks = [
        _gate(task.task, task.role, (items[task.task], task.margin), rule.alpha,
              seen.get(task.task, (pooled.psi, pooled.psi_source)))
        for task in spec.tasks if task.task in items
    ]  # fmt: skip
    joint = pooled.power * math.prod(gate.power for gate in tasks if gate.role == "certify")
    sequential = None
    if rule.design == "sequential":
        U, W = design_mixture(rule.margin, rule.psi_plan)
        expected = forecast_more(0, 0, 0, rule.margin, rule.alpha, U, W, psi=pooled.psi)
        sequential = expected if math.isfinite(expected) else None
    return ModePlan(mode=mode, pooled=pooled, tasks=tuple(tasks), joint_power=joint, sequential_items=sequential)


def _gate(
    task: str | None, role: str, size: tuple[int, float], alpha: float, assumed: tuple[float, str]
) -> Gate:
    """What `size` (items, margin) can show at the psi `assumed` (value, source)."""
    (n, m), (psi, source) = size, assumed
    reached = exact_power(n, m, psi, 0.0, alpha) if n else 0.0
    return Gate(
        task=task, role=role, n=n, margin=m, psi=psi, psi_source=source,
        n_required=int(n_required(psi, m, 0.0, alpha, POWER)), n_floor=n_zero_discordance(m, alpha),
        power=reached, power_at_half=exact_power(n, m, psi, -m / 2, alpha) if n else 0.0,
        certifiable=certifiable_margin(n, psi, 0.0, alpha, POWER),
        advice=_advice(task, role, reached) if n else "no items",
    )  # fmt: skip


def _advice(task: str | None, role: str, reached: float) -> str | None:
    if reached >= ENOUGH:
        return None
    if task is None:
        return "too few items for this margin"
    if role == "certify":
        return "cannot certify: monitor, or more items"
    return "may veto, not certify"


def psi_seen(runs: Sequence[tuple[Manifest, Judgement]], spec: RunSpec, mode: Mode) -> dict[str, tuple[float, str]]:
    """Task (or "pooled") -> psi to plan with, from the newest run that asked it of the same model, and where from."""
    seen: dict[str, tuple[float, str]] = {}
    for manifest, judgement in runs:  # oldest first: the newest stays
        if manifest.spec.model.id != spec.model.id:
            continue
        found: dict[str, tuple[float, str]] = {}
        for decision in judgement.decisions:
            if decision.pooled.subject.mode != mode:
                continue
            noise = decision.noise
            floor = planning_psi(noise.n, noise.n10 + noise.n01) if noise is not None and noise.n else 0.0
            for gate in (decision.pooled, *decision.tasks):
                if gate.n:
                    own = planning_psi(gate.n, gate.counts.n10 + gate.counts.n01)
                    name = gate.subject.task or "pooled"
                    best = max(own, floor if gate.subject.task is None else 0.0, found.get(name, (0.0, ""))[0])
                    found[name] = (best, f"run {manifest.run_id}")
        seen |= found
    return seen

