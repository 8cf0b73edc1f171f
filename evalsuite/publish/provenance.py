"""What the run page shows: what was asked, what really ran, where, and how to do it again."""

from collections.abc import Sequence
from dataclasses import dataclass

from evalsuite.publish import text
from evalsuite.publish.runs import JudgedRun
from evalsuite.records import CellRecord, Quant, Realised

SHOWN_CELLS = 300
UNKNOWN = "not known"
"""Cells in the page's table; the CSV has them all."""


@dataclass(frozen=True)
class Precision:
    """One column of the precision table: an arm as asked for and as it ran."""

    arm: str
    id: str
    rows: tuple[tuple[str, str], ...]
    """(what, value), the same `what` in every arm."""
    warning: str
    """What differs between the arm's cells; empty if nothing does."""


def precisions(run: JudgedRun) -> tuple[Precision, ...]:
    """The precision of each arm, in the suite's order."""
    return tuple(_precision(run, arm_id) for arm_id in (arm.id for arm in run.manifest.spec.arms))


def _precision(run: JudgedRun, arm_id: str) -> Precision:
    arm = run.manifest.spec.arm(arm_id)
    found = list(dict.fromkeys(
        r.realised.model_dump_json() for r in run.manifest.cells.values() if r.cell.arm == arm_id and r.realised
    ))  # fmt: skip
    asked = (
        ("Recipe asked for", arm.recipe.id),
        ("Weights", quant(arm.recipe.weights, arm.recipe.compute)),
        ("Activations", quant(arm.recipe.activations, arm.recipe.compute)),
        ("KV cache", quant(arm.recipe.kv_cache, arm.recipe.compute)),
        ("Engine", arm.engine),
    )
    warning = f"{len(found)} different realisations among the cells; the first is shown" if len(found) > 1 else ""
    absent = "not recorded in the imported logs" if run.imported else "no cell ran"
    ran = _ran(Realised.model_validate_json(found[0]) if found else None, absent)
    return Precision(run.arm_name(arm_id), arm_id, asked + ran, warning)


def _ran(ran: Realised | None, absent: str) -> tuple[tuple[str, str], ...]:
    names = ("Recipe that ran", "Execution", "Matrix multiplication", "Operands", "Log-softmax", "Device",
             "Threads a worker", "Modules quantised", "Parameters quantised", "Multiply-adds quantised",
             "Counts over the weights", "Native kernels seen", "Share of FP8 kernels",
             "Scales in the kernel", "Said by the server")  # fmt: skip
    if ran is None:
        return tuple((name, absent) for name in names)
    counts = ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in sorted(ran.counts.items()))
    values = (ran.recipe, ran.execution, ran.kernel, ran.gemm_mode, ran.logits_dtype, ran.device,
              UNKNOWN if ran.threads is None else str(ran.threads),
              UNKNOWN if ran.execution == "declared" else text.count(len(ran.modules)),
              _share(ran.params_quantised), _share(ran.macs_quantised),
              counts or "none", ", ".join(ran.kernels) or "none",
              "-" if ran.kernel_share is None else text.percent(ran.kernel_share),
              ran.scale_storage or "-", "; ".join(f"{k}: {v}" for k, v in ran.facts.items()) or "-")  # fmt: skip
    return tuple(zip(names, values, strict=True))


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else text.percent(value)


def quant(value: Quant | None, compute: str) -> str:
    """A number format in one line: `E4M3, UE8M0 scales (ceil), 128×128`."""
    if value is None:
        return "not known" if compute == "unknown" else compute.upper()
    rounding = f" ({value.rounding})" if value.rounding != "none" else ""
    block = "×".join("all" if size == -1 else str(size) for size in value.block)
    static = ", calibrated" if value.static else ""
    return f"{value.element.upper()}, {value.scale.upper()} scales{rounding}, {block}{static}"


def spec_yaml(run: JudgedRun) -> str:
    """The resolved suite as it was run."""
    import yaml

    return yaml.safe_dump(run.manifest.spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def cells(run: JudgedRun) -> Sequence[CellRecord]:
    """The cells that the page lists: failed ones first, then unfinished ones, then in the run's order."""
    rank = {"failed": 0, "running": 1, "planned": 2, "done": 3}
    return sorted(run.manifest.cells.values(), key=lambda record: rank[record.status])[:SHOWN_CELLS]
