"""One bench as the pages see it: its document and its judgement, indexed, with names for people.

Nothing is decided here: speeds, intervals and what is resolved are the judgement's. The rules of this room: an emulated
arm has a row that says so and never a number; a number that reasons took away is absent, and the reasons stand in its
place, spelled out; windows of an arm without a number are not drawn either.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from evalsuite.errors import NotComparableError
from evalsuite.judge.rounds import SPEED, Metered, Quantity, series
from evalsuite.publish import text
from evalsuite.publish.figures import Look, looks
from evalsuite.publish.runs import model_name
from evalsuite.records import (
    REASONS,
    WARNINGS,
    Arm,
    ArmPoint,
    Bench,
    BenchJudgement,
    ForeignFile,
    Measurement,
    Ratio,
    Window,
    Workload,
)

What = Literal["tokens_per_s", "j_per_token"]
NO_SPEED = "emulated – speed not meaningful"
PHASES = {"prefill": "reading prompts", "decode": "decoding", "whole": "whole answers"}


@dataclass(frozen=True)
class JudgedBench:
    """One bench as published: what was measured, and what was concluded."""

    bench: Bench
    judgement: BenchJudgement
    answering: tuple[Arm, ...] = ()
    """Arms of the run whose answers were joined: it may have arms that the bench has not."""

    @property
    def slug(self) -> str:
        """The bench's folder and file name in the site."""
        return text.slug(self.bench.bench_id)

    @property
    def model(self) -> str:
        """The model, with the beginning of its revision."""
        return model_name(self.bench.spec.model)

    @property
    def baseline(self) -> str:
        """The baseline for people."""
        return self.arm_name(self.bench.spec.baseline)

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """Baseline, null arm, candidates."""
        spec = self.bench.spec
        return (spec.baseline, spec.null_arm, *self.candidates)

    @property
    def candidates(self) -> tuple[str, ...]:
        """The arms that are compared with the baseline."""
        return tuple(arm.id for arm in self.bench.spec.arms if arm.id != self.bench.spec.baseline)

    @cached_property
    def looks(self) -> dict[str, Look]:
        """How each arm is drawn; the null arm as the baseline, hollow."""
        found = looks(self.bench.spec.model_copy(update={"arms": tuple(self._known.values())}))
        for joint in self.judgement.joints:
            found.setdefault(joint.arm, Look("base", "cross", "longdashdot"))
        base = found.get(self.bench.spec.baseline, Look("base", "circle", "solid"))
        return {**found, self.bench.spec.null_arm: Look(base.family, f"{base.symbol}-open", "dot")}

    @cached_property
    def _known(self) -> dict[str, Arm]:
        """The bench's arms, then those that only answered."""
        own = {arm.id: arm for arm in self.bench.spec.arms}
        return own | {arm.id: arm for arm in self.answering if not arm.noise_floor and arm.id not in own}

    def arm_name(self, arm_id: str) -> str:
        """An arm for people: its recipe's label, with its id where labels repeat."""
        if arm_id == self.bench.spec.null_arm:
            return f"{self.arm_name(self.bench.spec.baseline)} again (null arm)"
        if arm_id not in self._known:
            return arm_id
        label = self._known[arm_id].recipe.label
        return f"{label} ({arm_id})" if sum(a.recipe.label == label for a in self._known.values()) > 1 else label

    @cached_property
    def _points(self) -> dict[tuple[str, Workload], ArmPoint]:
        return {(point.arm, point.workload): point for point in self.judgement.points}

    def point(self, arm: str, workload: Workload) -> ArmPoint | None:
        """An arm at a point of the bench."""
        return self._points.get((arm, workload))

    def row(self, arm: str, workload: Workload) -> Measurement | None:
        """What was measured of an arm at a point."""
        return next((row for row in self.bench.rows(workload) if row.arm == arm), None)

    def ratio(self, arm: str, workload: Workload, quantity: Quantity = SPEED) -> Ratio | None:
        """An arm over the baseline at one point."""
        return next((r for r in self.judgement.ratios if (r.arm, r.workload) == (arm, workload)
                     and (r.quantity, r.meter) == quantity), None)  # fmt: skip

    def best(self, quantity: str) -> tuple[Ratio, ...]:
        """Ratios of best batches."""
        return tuple(r for r in self.judgement.ratios
                     if r.workload.comparison == "best_config" and r.quantity == quantity)  # fmt: skip

    def windows(self, arm: str, workload: Workload) -> tuple[Window, ...]:
        """All windows of an arm that has a speed at the point, voided ones too; none of an arm without a number."""
        point, row = self.point(arm, workload), self.row(arm, workload)
        if point is None or row is None or point.tokens_per_s is None:
            return ()
        return tuple(window for window in row.windows if window.duration_s > 0)

    def metered(self, arm: str, workload: Workload, meter: str) -> Metered | None:
        """Scope, method and quality of an arm's joules at a point; None where it has none."""
        try:
            found = series(self.row(arm, workload), Quantity("j_per_token", meter))
        except NotComparableError:
            return None
        return found.metered if found.by_round else None

    @cached_property
    def emulated(self) -> tuple[str, ...]:
        """Candidates that ran nowhere but by emulation."""
        kinds = {arm: {p.execution for p in self.judgement.points if p.arm == arm} for arm in self.candidates}
        return tuple(arm for arm, found in kinds.items() if found and found <= {"emulated", "reference"})

    @cached_property
    def metered_any(self) -> bool:
        """Whether any arm has joules at any point."""
        return any(point.j_per_token for point in self.judgement.points)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences on speed that add something to the table: none for arms without speed or not reached."""
        return _said(self, "tokens_per_s")

    @property
    def energy_sentences(self) -> tuple[str, ...]:
        """The same on joules a token."""
        return _said(self, "j_per_token")


@dataclass(frozen=True)
class Speeds:
    """What a store holds beside runs: benches, and results of other programs."""

    benches: Sequence[JudgedBench] = ()
    imported: Sequence[ForeignFile] = ()


def tile(bench: JudgedBench | None, arm: str, mode: str, quantity: What) -> Ratio | None:
    """The one ratio of a bench on a verdict page: where the mode's answers were priced, else at the first point."""
    if bench is None:
        return None
    priced = next((j.workload for j in bench.judgement.joints if (j.arm, j.mode) == (arm, mode)), None)
    own = [r for r in bench.judgement.ratios if (r.arm, r.quantity) == (arm, quantity) and r.value is not None
           and r.workload.comparison == "iso_config"]  # fmt: skip
    return min(own, key=lambda r: r.workload.key != priced, default=None)


def _said(bench: JudgedBench, quantity: What) -> tuple[str, ...]:
    null = bench.bench.spec.null_arm
    found = []
    for ratio in bench.judgement.ratios:
        quiet = (ratio.arm == null and "aa_failed" not in ratio.reasons) or "emulated_speed" in ratio.reasons
        absent = ratio.quantity == "j_per_token" and ratio.value is None and ratio.meter is None
        unreached = ratio.value is None and set(ratio.reasons) == {"interrupted"}
        if ratio.quantity == quantity and not (quiet or absent or unreached):
            found.append(ratio.sentence)
    return tuple(dict.fromkeys(found))


def limit_of(point: ArmPoint) -> float | None:
    """The physical limit, in tokens a second, that a point's fraction is of; None without a speed."""
    return point.tokens_per_s.value / point.fraction if point.tokens_per_s and point.fraction else None


def described(workload: Workload) -> str:
    """A point in words: `decoding, batch 4, 512 tokens in the cache`."""
    parts = [PHASES[workload.phase], f"batch {workload.batch:,}"]
    if workload.depth is not None:
        parts.append(f"{workload.depth:,} tokens in the cache")
    elif workload.input_tokens:
        parts.append(f"{workload.input_tokens:,} tokens in")
    if workload.output_tokens:
        parts.append(f"{workload.output_tokens:,} out")
    if workload.devices > 1:
        parts.append(text.plural(workload.devices, "device"))
    return ", ".join(parts)


def spelled(codes: Iterable[str]) -> tuple[tuple[str, str, bool], ...]:
    """(code, meaning, whether it takes the number away) of each reason."""
    return tuple((code, REASONS.get(code, "Not known to this version."), code not in WARNINGS) for code in codes)


WORDS = {"tokens_per_s": ("speed", "is", "faster", "slower"),
         "j_per_token": ("energy", "uses", "fewer joules a token", "more joules a token")}  # fmt: skip
"""Quantity -> what it is, and how a candidate that is better or worse is said to be."""


def headline(bench: JudgedBench, quantity: What) -> str:
    """What the ratios at equal batch show, as a title: `X is faster than BF16 at 2 of 3 points.`"""
    parts = [said for arm in bench.candidates if (said := _compared(bench, arm, quantity))]
    absent = [bench.arm_name(arm) for arm in bench.emulated]
    if absent:
        verbs = ("is", "has") if len(absent) == 1 else ("are", "have")
        parts.append(f"{_listed(absent)} {verbs[0]} emulated and {verbs[1]} no {WORDS[quantity][0]}")
    parts = [parts[0][:1].upper() + parts[0][1:], *parts[1:]] if parts else []
    return f"{'; '.join(parts)}." if parts else f"No ratio of {WORDS[quantity][0]} could be made."


def _compared(bench: JudgedBench, arm: str, quantity: What) -> str:
    """One candidate against the baseline over all points; empty where it has no ratio."""
    _, verb, better, worse = WORDS[quantity]
    own = [r for r in bench.judgement.ratios if r.arm == arm and r.quantity == quantity and r.value is not None
           and r.workload.comparison == "iso_config"]  # fmt: skip
    if not own:
        return ""
    signs = [((r.value or 1.0) > 1) == (quantity == "tokens_per_s") for r in own if r.resolved]
    up, down = signs.count(True), signs.count(False)
    name, base, points = bench.arm_name(arm), bench.baseline, text.plural(len(own), "point")
    if not signs:
        return f"no difference between {name} and {base} is resolved at {points}"
    first, seen = (better, up) if up else (worse, down)
    rest = f", {worse} at {down}" if up and down else ""
    return f"{name} {verb} {first} than {base} at {seen} of {points}{rest}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
