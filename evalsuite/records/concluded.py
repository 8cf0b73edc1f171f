"""What is concluded: paired counts, decisions, the judgement of a run."""

from typing import Literal

from evalsuite.records.base import SCHEMA, VERDICT_EXIT, VERDICTS, Mode, Noun, Verdict
from evalsuite.records.beside import Divergence, Endpoint, Excess
from evalsuite.records.stored import Finding, Plan


class PairCounts(Noun):
    """The paired 2x2 table of binary items, baseline first: `n10` counts baseline right, candidate wrong."""

    n: int
    n11: int
    n10: int
    n01: int
    n00: int
    missing_base: int = 0
    """Items the baseline should have answered and did not (failed cell, NaN log-likelihood); includes `missing_both`"""
    missing_cand: int = 0
    missing_both: int = 0
    base_right_cand_missing: int | None = None
    """Of the items that only the candidate lacks: how many the baseline got right. None: unknown, taken at its worst"""
    cand_right_base_missing: int | None = None
    """Of the items that only the baseline lacks: how many the candidate got right."""
    unmeasured: int | None = None
    """Planned items that the run has not reached; None is unknown (then the plan's `n_planned` tells)."""
    unparsable_base: int = 0
    unparsable_cand: int = 0


class Subject(Noun):
    """What a decision is about."""

    model: str
    baseline: str
    candidate: str
    mode: Mode
    task: str | None = None
    """None for the pooled decision."""


class Decision(Noun):
    """One verdict: the only source of the sentence, the JSON, the exit code and the page."""

    subject: Subject
    plan: Plan
    counts: PairCounts
    verdict: Verdict
    reasons: tuple[str, ...]
    """Why, in words; the first is the sentence's reason. Codes in capitals where they are on a list (NO_DATA)."""
    flags: tuple[Literal["DEGRADED", "NO_SIGNAL", "UNDERPOWERED", "CEILING"], ...] = ()
    n: int
    accuracy_base: float | None
    accuracy_cand: float | None
    delta: float | None
    """Candidate minus baseline, as a fraction; negative is a loss. None without data."""
    psi: float | None
    """Share of items whose correctness differs."""
    ci: tuple[float, float]
    """90 % interval of delta (the two one-sided 5 % tests)."""
    ci_kind: str
    p_safe: float
    p_unsafe: float
    ln_e_safe: float | None = None
    ln_e_unsafe: float | None = None
    n_more_at_zero: float | None = None
    """Further items after which SAFE is expected if the true change is 0; None where it does not apply."""
    n_more_at_hat: float | None = None
    """The same if the true change is the one seen; None where it does not apply (a loss beyond the margin)."""
    mde_margin: float | None = None
    """Smallest margin that this many items could certify with the planned power, at the psi seen."""
    guarantee: Literal["finite-sample", "anytime", "asymptotic"] = "finite-sample"


class SuiteDecision(Noun):
    """The release decision for one model, candidate and mode: pooled, guards and certificates together."""

    verdict: Verdict
    reasons: tuple[str, ...]
    pooled: Decision
    tasks: tuple[Decision, ...]
    findings: tuple[Finding, ...] = ()
    noise: PairCounts | None = None
    """Baseline against baseline, all tasks of the mode; None without a noise floor."""
    noise_p: float | None = None
    """Two-sided exact McNemar p of the noise floor."""
    excess: Excess | None = None
    """Flips beyond the noise; None without a noise floor."""
    endpoints: tuple[Endpoint, ...] = ()
    divergence: tuple[Divergence, ...] = ()
    """All tasks together, then each; empty where it was not measured."""
    attempt: int = 1
    """Which run of the same question in this store this is."""
    sentence: str
    """The verdict for people, with its guarantee."""


class ArmSummary(Noun):
    """One arm in one mode on one task (or pooled): what a leaderboard row or a forest row shows."""

    arm: str
    task: str | None
    mode: Mode
    n: int
    n_correct: int
    n_unparsable: int
    n_truncated: int
    accuracy: float | None
    ci: tuple[float, float] | None
    """90 % Wilson interval."""
    mean_output_tokens: float | None


class Judgement(Noun):
    """Everything concluded from one run; what `publish` draws and `verdict` prints."""

    schema_version: int = SCHEMA
    run_id: str
    verdict: Verdict
    decisions: tuple[SuiteDecision, ...]
    arms: tuple[ArmSummary, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 SAFE, 10 UNSAFE, 11 INCONCLUSIVE, 12 INVALID."""
        return VERDICT_EXIT[self.verdict]


def worst(verdicts: list[Verdict]) -> Verdict:
    """The worst of several verdicts (INVALID, UNSAFE, INCONCLUSIVE, SAFE); INVALID where there is none."""
    return next((v for v in VERDICTS if v in verdicts), "INVALID")
