"""What the terminal shows of a bench: a table a workload, what is concluded in sentences, costs of correct answers.

An absent number is a dash with its reason beside it, never 0. An emulated arm's row says that it has no speed.
"""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evalsuite.records import (
    REASONS,
    WARNINGS,
    ArmPoint,
    Bench,
    BenchJudgement,
    Interval,
    Joint,
    Ratio,
    Scaling,
    Workload,
)

NO_SPEED = "emulated – speed not meaningful"
UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def bench_view(bench: Bench, judgement: BenchJudgement) -> RenderableType:
    """Points, ratios, costs and scaling of a bench, then what to keep in mind."""
    head = f"\n{bench.bench_id}  ({bench.spec.suite}, {bench.spec.model.id}, {bench.status})"
    parts: list[RenderableType] = [Text(head, "bold")]
    for workload in bench.workloads:
        title = f"\n{workload.key}  batch {workload.batch}, {workload.input_tokens} in, {workload.output_tokens} out"
        parts += [Text(title, "bold"), _points(bench, judgement, workload), *_no_energy(judgement, workload)]
        own = [r for r in judgement.ratios if r.workload == workload]
        parts += [Text(ratio.sentence) for ratio in _worth_saying(bench, own)]
    best = [r for r in judgement.ratios if r.workload.comparison == "best_config"]
    if best:
        parts += [Text("\neach arm at its best batch", "bold"), _best(best)]
        parts += [Text(ratio.sentence) for ratio in _worth_saying(bench, best)]
    if judgement.joints:
        parts += _joint_parts(judgement)
    if judgement.scaling:
        parts += [Text("\nscaling over devices", "bold"), *(Text(one.sentence) for one in judgement.scaling)]
        parts.append(_scaling(judgement.scaling))
    return Group(*parts, *_to_keep_in_mind(judgement))


def _table(*names: str) -> Table:
    """Columns; those that begin with a space hold words and stand left."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in names:
        words = name.startswith(" ")
        whole = bool(name.strip())
        table.add_column(name.strip(), justify="left" if words else "right", header_style="dim", no_wrap=whole)
    return table


def _points(bench: Bench, judgement: BenchJudgement, workload: Workload) -> Table:
    table = _table(" arm", " execution", "tok/s [95 %]", "of limit", "limit ratio", "ratio [95 %]", "J/token [95 %]",
                   "peak", " ")  # fmt: skip
    ratios = {r.arm: r for r in judgement.ratios if r.workload == workload and r.quantity == "tokens_per_s"}
    for point in judgement.points:
        if point.workload == workload:
            ratio = ratios.get(point.arm)
            name = f"{point.arm} (null)" if point.arm == bench.spec.null_arm else point.arm
            table.add_row(name, *_point(point, ratio), ", ".join(_codes(point, ratio)))
    return table


def _point(point: ArmPoint, ratio: Ratio | None) -> tuple[str, ...]:
    if point.tokens_per_s is None and point.execution and "emulated_speed" in point.reasons:
        return (point.execution, NO_SPEED, "—", "—", "—", "—", _bytes(point.peak_bytes))
    limit = None if ratio is None else ratio.limit_ratio
    change = "—" if ratio is None or ratio.value is None else _interval(ratio.value, ratio.ci95, ".3f")
    return (
        point.execution or "not reached", _of(point.tokens_per_s), _percent(point.fraction),
        "—" if limit is None else f"{limit:.2f}", change, _energy(point), _bytes(point.peak_bytes),
    )  # fmt: skip


def _energy(point: ArmPoint) -> str:
    """Every meter's joules a token; why there are none stands below the table."""
    if point.j_per_token:
        named = len(point.j_per_token) > 1
        return "; ".join((f"{m}: " if named else "") + _of(value) for m, value in point.j_per_token.items())
    return "—"


def _no_energy(judgement: BenchJudgement, workload: Workload) -> list[Text]:
    """A line that says why no arm has joules."""
    own = [point for point in judgement.points if point.workload == workload and point.tokens_per_s is not None]
    if not own or any(point.j_per_token for point in own):
        return []
    codes = dict.fromkeys(code for point in own for code in point.energy_reasons if code not in WARNINGS)
    return [Text(f"energy: — (no meter: {', '.join(codes)})")] if codes else []


def _codes(point: ArmPoint, ratio: Ratio | None) -> list[str]:
    """Codes of the point and of its ratio, without what other cells say; voided windows are counted."""
    beside = () if ratio is None or point.tokens_per_s is None else ratio.reasons
    codes = dict.fromkeys([*point.reasons, *beside])
    codes.pop("emulated_speed", None)
    return [*codes, *([f"{point.voided} voided"] if point.voided else [])]


def _worth_saying(bench: Bench, ratios: Iterable[Ratio]) -> list[Ratio]:
    """Ratios whose sentence adds something: not one for every emulated arm or absent meter, which the table shows."""
    shown = []
    for ratio in ratios:
        emulated = "emulated_speed" in ratio.reasons
        no_joules = ratio.quantity == "j_per_token" and ratio.value is None and ratio.meter is None
        quiet = ratio.arm == bench.spec.null_arm and "aa_failed" not in ratio.reasons
        if not (emulated or no_joules or quiet):
            shown.append(ratio)
    return shown


def _best(ratios: list[Ratio]) -> Table:
    table = _table(" arm", " quantity", "batch", "baseline's batch", "ratio [95 %]", " ")
    for ratio in ratios:
        other = ratio.baseline_workload.batch if ratio.baseline_workload else ratio.workload.batch
        value = "—" if ratio.value is None else _interval(ratio.value, ratio.ci95, ".3f")
        quantity = "tok/s" if ratio.quantity == "tokens_per_s" else "J/token"
        batches = ("—", "—") if ratio.value is None else (str(ratio.workload.batch), str(other))
        table.add_row(ratio.arm, quantity, *batches, value, ", ".join(ratio.reasons))
    return table


def _joint_parts(judgement: BenchJudgement) -> list[RenderableType]:
    """The costs of a correct answer by mode, and from which point the cost of a token is."""
    parts: list[RenderableType] = []
    for mode in dict.fromkeys(joint.mode for joint in judgement.joints):
        own = [joint for joint in judgement.joints if joint.mode == mode]
        points = ", ".join(dict.fromkeys(joint.workload for joint in own if joint.workload)) or "none: tokens only"
        title = f"\ncost of a correct answer, {mode} mode  (answers of {judgement.run_id}; cost a token at: {points})"
        parts += [Text(title, "bold"), _joints(own)]
    return parts


def _joints(joints: list[Joint]) -> Table:
    """All tasks together where there are several; each by itself is in the JSON and on the pages."""
    table = _table(" arm", "accuracy", "tokens", "inflation [95 %]", "tokens/correct [95 %]", "s/correct [95 %]",
                   "J/correct [95 %]", "relative [95 %]", " ")  # fmt: skip
    pooled = [joint for joint in joints if joint.task is None]
    for one in pooled or joints:
        name = next((n for n in ("j_per_correct", "s_per_correct", "tokens_per_correct") if n in one.relative), None)
        relative = "—" if name is None else f"{name.split('_')[0]} {_of(one.relative[name], '.3f')}"
        table.add_row(
            one.arm, _percent(one.accuracy), f"{one.tokens_per_answer:,.0f}", _of(one.token_inflation, ".3f"),
            _of(one.tokens_per_correct), _of(one.s_per_correct, ".3g"), _of(one.j_per_correct, ".3g"), relative,
            ", ".join(one.reasons),
        )  # fmt: skip
    return table


def _scaling(scaling: Iterable[Scaling]) -> Table:
    table = _table(" arm", " workload", "devices", "tok/s [95 %]", "efficiency [95 %]", "of ideal gain [95 %]",
                   "communication", " pays")  # fmt: skip
    for one in scaling:
        for step in one.steps:
            pays = {True: "yes", False: "no", None: "" if step.gain is None else "not resolved"}[step.pays]
            table.add_row(
                one.arm, one.workload.key, str(step.devices), _of(step.tokens_per_s), _of(step.efficiency, ".2f"),
                _of(step.gain, ".2f"), _percent(step.communication), pays,
            )  # fmt: skip
    return table


def _to_keep_in_mind(judgement: BenchJudgement) -> list[RenderableType]:
    if not judgement.reasons:
        return []
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for code in judgement.reasons:
        table.add_row(Text(code, "dim"), Text(REASONS[code], "dim"))
    return [Text("\nto keep in mind", "dim"), table]


def _of(found: Interval | None, form: str = ".4g") -> str:
    return "—" if found is None else _interval(found.value, found.ci95, form)


def _interval(value: float, ends: tuple[float, float] | None, form: str) -> str:
    return f"{value:{form}}" + ("" if ends is None else f" [{ends[0]:{form}}, {ends[1]:{form}}]")


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:.1f} %"


def _bytes(count: int | None) -> str:
    if count is None:
        return "—"
    size, unit = next(((size, unit) for size, unit in UNITS if count >= size), (1, "B"))
    return f"{count / size:.1f} {unit}" if size > 1 else f"{count} B"
