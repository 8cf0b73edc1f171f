"""Everything concluded from one bench: `bench.json` and, if there is one, a run's samples in, `BenchJudgement` out.

Nothing raises for bad measurements: a ratio without a number says why. What raises is joining a bench with a run of
another model or other recipes under the same names.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd

from evalsuite.errors import NotComparableError
from evalsuite.judge.configs import best_ratio, scalings, sweeps
from evalsuite.judge.joint import Asked, join
from evalsuite.judge.rounds import SPEED, Quantity, level, meters, no_meter, ratio, series
from evalsuite.judge.words import ratio_sentence
from evalsuite.records import (
    REASONS,
    ArmPoint,
    Bench,
    BenchJudgement,
    Interval,
    Joint,
    Manifest,
    Measurement,
    ModelRef,
    Ratio,
    Recipe,
    Workload,
)

ANSWER_COLUMNS = ("task", "item_hash", "repeat", "arm", "mode", "correct", "truncated", "n_output_tokens", "cluster")
"""Columns of the samples that costs of answers are made from."""


class Answered(NamedTuple):
    """A run whose answers are joined with the bench."""

    manifest: Manifest
    samples: pd.DataFrame
    """Columns as `answers.gather` says."""


def judge_bench(bench: Bench, answered: Answered | None = None) -> BenchJudgement:
    """Judge one bench. The same documents give the same judgement.

    Raises:
        NotComparableError: the run is of another model, or an arm of the same name has another recipe.
    """
    asked = [SPEED, *(Quantity("j_per_token", meter) for meter in meters(bench) or ("",))]
    others = [arm.id for arm in bench.spec.arms if arm.id != bench.spec.baseline]
    names = [bench.spec.null_arm, *others]
    ratios = [_ratio(bench, (w,), arm, quantity) for w in bench.workloads for quantity in asked for arm in names]
    ratios += [_ratio(bench, sweep, arm, quantity) for sweep in sweeps(bench) for quantity in asked for arm in others]
    points = [_point(bench, workload, arm) for workload in bench.workloads
              for arm in (bench.spec.baseline, bench.spec.null_arm, *others)]  # fmt: skip
    joints = _joints(bench, answered) if answered else ()
    scaled = scalings(bench)
    lists = [one.reasons for one in points] + [one.energy_reasons for one in points]
    lists += [one.reasons for one in ratios] + [one.reasons for one in joints] + [one.reasons for one in scaled]
    said = {code for codes in lists for code in codes}
    return BenchJudgement(
        bench_id=bench.bench_id, points=tuple(points), ratios=tuple(ratios), joints=joints, scaling=scaled,
        run_id=answered.manifest.run_id if answered else None,
        reasons=tuple(code for code in REASONS if code in said),
    )  # fmt: skip


def _ratio(bench: Bench, sweep: tuple[Workload, ...], arm: str, quantity: Quantity) -> Ratio:
    """A ratio at one point or of best points; a refusal becomes a reason."""
    try:
        made = ratio(bench, sweep[0], arm, quantity) if len(sweep) == 1 else best_ratio(bench, sweep, arm, quantity)
        if quantity.meter != "":
            return made
        row = next((row for row in bench.rows(sweep[0]) if row.arm == arm), None)
        absent = no_meter(bench) if row is not None and row.kept else ()
        kept = [code for code in made.reasons if code != "no_meter"]
        made = made.model_copy(update={"meter": None, "reasons": tuple(dict.fromkeys([*kept, *absent]))})
    except NotComparableError:
        made = Ratio(
            quantity=quantity.name, workload=sweep[0], baseline=bench.spec.baseline, arm=arm, value=None, ci95=None,
            n=0, aa_halfwidth=None, resolved=False, meter=quantity.meter, sentence="", reasons=("not_comparable",),
        )  # fmt: skip
    return made.model_copy(update={"sentence": ratio_sentence(made, null=arm == bench.spec.null_arm)})


def _point(bench: Bench, workload: Workload, arm: str) -> ArmPoint:
    row = next((row for row in bench.rows(workload) if row.arm == arm), None)
    speed = series(row, SPEED)
    joules: dict[str, Interval] = {}
    why: list[str] = []
    for meter in meters(bench):
        try:
            found = series(row, Quantity("j_per_token", meter))
        except NotComparableError:
            why.append("not_comparable")
            continue
        made = level(found)
        if made is None:
            why += found.reasons
        else:
            joules[meter] = made
    if not meters(bench) and speed.by_round:
        why += no_meter(bench)
    reached = level(speed)
    fraction, peaks = _fraction(row, reached)
    return ArmPoint(
        arm=arm, workload=workload, execution=row.execution if row else None, tokens_per_s=reached, j_per_token=joules,
        fraction=fraction, peaks=peaks, peak_bytes=_peak(row), n=len(speed.by_round), voided=speed.voided,
        reasons=speed.reasons, energy_reasons=tuple(dict.fromkeys(why)),
    )  # fmt: skip


def _fraction(row: Measurement | None, reached: Interval | None) -> tuple[float | None, Any]:
    """Share of the limit and which peaks it is made from: the data sheet's rather than measured ones."""
    roofs = sorted(row.rooflines, key=lambda roof: roof.peaks == "measured") if row else []
    if not roofs or reached is None:
        return None, None
    return reached.value / roofs[0].limit_tokens_per_s, roofs[0].peaks


def _peak(row: Measurement | None) -> int | None:
    return row.memory.peak_bytes if row and row.memory else None


def _joints(bench: Bench, answered: Answered) -> tuple[Joint, ...]:
    spec = answered.manifest.spec
    _check_same(bench, answered.manifest)
    known = [arm.id for arm in spec.arms if not arm.noise_floor and arm.id != spec.baseline]
    asked = Asked(
        arms=(spec.baseline, *known), noise_arm=spec.noise_arm.id if spec.noise_arm else None, bench=bench,
        emulated=frozenset(_emulated(answered.manifest)),
    )  # fmt: skip
    modes = [mode for mode in ("direct", "thinking") if mode in spec.modes]
    return tuple(joint for mode in modes for joint in join(answered.samples, mode, asked))


def _emulated(manifest: Manifest) -> Iterable[str]:
    """Arms any of whose cells ran by emulation, or unproven."""
    for record in manifest.cells.values():
        if record.realised is not None and record.realised.execution in ("emulated", "native-unproven"):
            yield record.cell.arm


def _check_same(bench: Bench, manifest: Manifest) -> None:
    own, spec = bench.spec, manifest.spec
    if own.baseline != spec.baseline:
        raise NotComparableError(
            f"The bench's baseline is '{own.baseline}', that of run {manifest.run_id} is '{spec.baseline}'. Join a run "
            "of the same suite."
        )
    answering = {arm.id: arm for arm in spec.arms}
    for arm in own.arms:
        other = answering.get(arm.id)
        if other is not None and not (_same_model(arm.model, other.model) and _same_recipe(arm.recipe, other.recipe)):
            raise NotComparableError(
                f"Arm '{arm.id}' is {arm.model.id} in {arm.recipe.id} in bench {bench.bench_id}, and "
                f"{other.model.id} in {other.recipe.id} in run {manifest.run_id}, or differs in revision or details. "
                "Join a run of the same arms."
            )


def _same_model(one: ModelRef, two: ModelRef) -> bool:
    """Same name, and nothing that both know differs."""
    facts = ((one.revision, two.revision), (one.weights_sha256, two.weights_sha256))
    return one.id == two.id and all(a == b for a, b in facts if a is not None and b is not None)


def _same_recipe(one: Recipe, two: Recipe) -> bool:
    """Equal; `as-shipped` is also what its tensors made of it, `as-shipped: ...`."""
    names = [recipe.id.split(":")[0] for recipe in (one, two)]
    return one == two or (names[0] == names[1] and one.id != two.id)
