"""What the verdict page and the task page show of one decision: a `View` for each candidate and mode.

Templates only lay out what a view says, and a view only gathers what the run and its judgement hold. Speed and energy
of emulated arms are never shown, not even as zero. `doubts` always has the same lines, so that an absent check is seen.
"""

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from evalsuite.publish import figures, text
from evalsuite.publish.figures import Look
from evalsuite.publish.runs import JudgedRun, Reading
from evalsuite.records import Arm, Decision, Finding, Mode, SuiteDecision

SHOWN_FINDINGS = 3
"""Findings of one code on the page; ten thousand failed cells are one thing to know, not ten thousand."""

Level = Literal["fine", "info", "warning", "error"]


@dataclass(frozen=True)
class Doubt:
    """One line of "what could make this wrong"."""

    name: str
    value: str
    note: str
    level: Level = "fine"


@dataclass(frozen=True)
class View:
    """One candidate in one mode: the unit that a reader looks at."""

    run: JudgedRun
    decision: SuiteDecision
    id: str
    """Unique in a page."""

    @property
    def pooled(self) -> Decision:
        """The pooled decision."""
        return self.decision.pooled

    @property
    def mode(self) -> Mode:
        """`direct` or `thinking`."""
        return self.pooled.subject.mode

    @property
    def arm(self) -> Arm:
        """The candidate."""
        return self.run.manifest.spec.arm(self.pooled.subject.candidate)

    @property
    def candidate(self) -> str:
        """The candidate for people."""
        return self.run.arm_name(self.arm.id)

    @property
    def baseline(self) -> str:
        """The baseline for people."""
        return self.run.arm_name(self.run.manifest.spec.baseline)

    @property
    def look(self) -> Look:
        """How the candidate is drawn."""
        return self.run.looks[self.arm.id]

    @property
    def gates(self) -> tuple[Decision, ...]:
        """Pooled first, then each task."""
        return (self.pooled, *self.decision.tasks)

    @property
    def scale(self) -> tuple[float, float]:
        """The ends of the axis on which this view's intervals are drawn."""
        return figures.scale(self.gates)

    @property
    def unmeasured(self) -> str:
        """Why speed and energy have no value."""
        kinds = {self.run.execution(arm) for arm in (self.run.manifest.spec.baseline, self.arm.id)}
        if "native-unproven" in kinds:
            return "kernel not proven"
        return "emulated arm" if kinds & {"emulated", "mixed"} else "no timed windows in this run"

    def absence(self, gate: Decision) -> Reading:
        """Why a gate has no observed change: an arm failed or did not run, or the judge says so."""
        for arm in (self.arm.id, self.run.manifest.spec.baseline):
            reading = self.run.reading(arm, self.mode, gate.subject.task)
            if reading.kind in ("failed", "missing"):
                return replace(reading, reason=f"{self.run.arm_name(arm)}: {reading.reason}")
        return Reading("missing", None, gate.reasons[0] if gate.reasons else "no data")

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """What could make this verdict wrong: always the same lines, so that an absent check is seen."""
        return (self._noise(), self._coverage(), *self._answers(), self._execution(), self._attempt())

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Findings on this decision and on the run as a whole, worst first; those on other decisions are theirs."""
        rank = {"error": 0, "warning": 1, "info": 2}
        others = {f for decision in self.run.judgement.decisions for f in decision.findings}
        found = dict.fromkeys((*self.decision.findings, *(f for f in self.run.judgement.findings if f not in others)))
        return tuple(sorted(found, key=lambda f: (rank[f.severity], f.code)))

    @property
    def shown_findings(self) -> list[tuple[Finding, int]]:
        """At most `SHOWN_FINDINGS` of a code; beside the last of a code, how many more there are."""
        shown: list[tuple[Finding, int]] = []
        for _, group in itertools.groupby(self.findings, key=lambda f: (f.severity, f.code)):
            same = list(group)
            rest = [0] * (min(len(same), SHOWN_FINDINGS) - 1) + [max(0, len(same) - SHOWN_FINDINGS)]
            shown += zip(same[:SHOWN_FINDINGS], rest, strict=True)
        return shown

    def _noise(self) -> Doubt:
        noise, seen = self.decision.noise, self.pooled.counts
        if noise is None:
            missing = "not run yet" if self.run.manifest.spec.noise_arm else "not in this suite"
            return Doubt("Noise floor", missing, "flips cannot be told from run-to-run noise", "warning")
        p = "" if self.decision.noise_p is None else f"; exact p {text.p_value(self.decision.noise_p)}"
        broken = any(f.code == "NOISE_FLOOR_BROKEN" for f in self.findings)
        value = f"{text.count(noise.n10 + noise.n01)} of {text.count(noise.n)} items flip between two baseline runs"
        note = f"{noise.n10:,} lost, {noise.n01:,} gained{p}; the candidate flips {seen.n10 + seen.n01:,}"
        if self.decision.excess is not None:
            note += f"; {self.decision.excess.sentence}"
        return Doubt("Noise floor", value, note, "error" if broken else "fine")

    def _coverage(self) -> Doubt:
        arms = (self.run.manifest.spec.baseline, self.arm.id)
        cells = [record for arm in arms for record in self.run.cells(arm, self.mode)]
        done, planned = sum(r.n_done for r in cells), sum(r.n_planned for r in cells)
        failed = sum(r.status == "failed" for r in cells)
        note = f"{text.plural(failed, 'cell')} failed" if failed else "both arms, all tasks of the mode"
        level: Level = "error" if failed else "fine" if done == planned else "warning"
        return Doubt("Coverage", f"{text.share(done, planned)} planned answers", note, level)

    def _answers(self) -> tuple[Doubt, Doubt]:
        base = self.run.reading(self.run.manifest.spec.baseline, self.mode).summary
        cand = self.run.reading(self.arm.id, self.mode).summary

        def both(name: str, field: str, note: str) -> Doubt:
            if base is None or cand is None:
                return Doubt(name, "not known", "an arm has no answers", "warning")
            if field == "n_truncated" and self.run.imported:
                return Doubt(name, "not known", "not recorded in the imported logs", "warning")
            values = [text.share(getattr(s, field), s.n) for s in (base, cand)]
            code = {"n_truncated": "TRUNCATED", "n_unparsable": "UNPARSABLE"}[field]
            found = [f.severity for f in self.findings if f.code == code]
            return Doubt(name, f"baseline {values[0]}; candidate {values[1]}", note, found[0] if found else "fine")

        return (both("Cut by the token budget", "n_truncated", "a cut answer counts as it stands"),
                both("Nothing parsable", "n_unparsable", "counted as wrong in both arms"))  # fmt: skip

    def _execution(self) -> Doubt:
        kind = self.run.execution(self.arm.id)
        notes = {
            "emulated": "the candidate's arithmetic was emulated: accuracy is true, speed and energy are not measured",
            "native": "the candidate's arithmetic ran on hardware",
            "declared": "a server answered; which numbers it computes in is what the suite says of it",
            "native-unproven": "native kernels were called, but FP8 kernels were not seen to do the work",
            "mixed": "cells ran differently: compare them on the Run page",
            None: "not recorded in the imported logs" if self.run.imported else "no cell of the candidate has run",
        }
        sure = kind in ("native", "emulated")
        return Doubt("Execution", kind or "not known", notes[kind], "fine" if sure else "warning")

    def _attempt(self) -> Doubt:
        attempt = self.decision.attempt
        if attempt == 1:
            return Doubt("Attempt", "first", "of this question in this store")
        return Doubt("Attempt", f"number {attempt}", "repeating a run until it passes raises the error rate", "info")


def views_of(run: JudgedRun) -> tuple[View, ...]:
    """Every candidate and mode of a run, in the suite's order."""
    return tuple(View(run, decision, f"v{place}") for place, decision in enumerate(run.judgement.decisions))
