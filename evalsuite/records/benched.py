"""What is concluded from a bench: ratios, cost of an answer, scaling over devices, and all of it together.

Computed from `bench.json` (and a run's samples) whenever it is asked for; never stored beside them.
"""

from typing import Literal

from pydantic import Field

from evalsuite.records.base import SCHEMA, Noun
from evalsuite.records.measured import Execution, Workload
from evalsuite.records.metered import Quality, Scope


class Ratio(Noun):
    """A candidate over the baseline at one point, from paired rounds of one session."""

    quantity: Literal["tokens_per_s", "j_per_token"]
    workload: Workload
    baseline: str
    arm: str
    value: float | None
    """exp(median of log ratios); None where reasons took it away."""
    ci95: tuple[float, float] | None
    n: int
    """Rounds."""
    aa_halfwidth: float | None
    """Half-width, as a fraction, of the 95 % interval of the baseline against itself."""
    resolved: bool
    """The interval excludes 1 and the change exceeds both the null arm's half-width and 1 %."""
    limit_ratio: float | None = None
    meter: str | None = None
    """Whose energy it is; None for speed."""
    scope: Scope | None = None
    quality: Quality | None = None
    bca95: tuple[float, float] | None = None
    """Bootstrap interval of the same mean, beside `ci95`; None below 10 rounds."""
    clock_normalised: float | None = None
    """The ratio of speeds times the ratio of clocks, baseline's over the arm's: a diagnostic."""
    drift: float | None = None
    """Relative change over the rounds, by regression, of whichever of the two moved more."""
    voided: int = 0
    """Windows of the two that were measured again."""
    baseline_workload: Workload | None = None
    """Where the baseline was measured, if elsewhere: `best_config` takes each arm's best batch."""
    sentence: str
    reasons: tuple[str, ...] = ()


class Interval(Noun):
    """A value with its 95 % interval."""

    value: float
    ci95: tuple[float, float] | None


class Joint(Noun):
    """Cost of an answer: measured speed and energy of an arm, on the answers that it really gave."""

    arm: str
    task: str | None
    mode: str
    n: int
    n_correct: int
    accuracy: float
    tokens_per_answer: float
    tokens_per_correct: Interval | None
    """Needs no hardware; true for emulated arms too. None with fewer than 30 correct answers."""
    token_inflation: Interval | None
    """Mean tokens an answer over the baseline's, items paired; None for the baseline."""
    token_inflation_noise: float | None
    """The same between two runs of the baseline, |log|; None without a noise floor."""
    waste: float
    """Share of the tokens that went into wrong or cut answers."""
    j_per_answer: Interval | None = None
    j_per_correct: Interval | None = None
    s_per_correct: Interval | None = None
    cost_per_correct: Interval | None = None
    """In the currency of the price that was given."""
    decomposition: dict[str, float] | None = None
    """Logarithms against the baseline: `tokens` - `accuracy` = `tokens_per_correct`; with `s_per_token` or
    `j_per_token` added it is `s_per_correct` or `j_per_correct`. What was not measured is absent."""
    break_even_inflation: float | None = None
    """Token inflation at which the energy gain is gone."""
    token_inflation_both_right: Interval | None = None
    """The inflation over the answers that both arms got right."""
    truncated: float = 0.0
    """Share of the answers that were cut by their budget."""
    relative: dict[str, Interval] = Field(default_factory=dict)
    """`tokens_per_correct`, `s_per_correct`, `j_per_correct` -> over the baseline's, items and rounds paired."""
    workload: str | None = None
    """Key of the point whose cost a token was used; None without one."""
    meter: str | None = None
    """Whose joules; figures of different `scope` or `quality` are not to be compared."""
    scope: Scope | None = None
    quality: Quality | None = None
    reasons: tuple[str, ...] = ()


class ArmPoint(Noun):
    """One arm at one point, summed up over its rounds: a row of the table."""

    arm: str
    workload: Workload
    execution: Execution | None
    """None where the arm was not reached."""
    tokens_per_s: Interval | None
    """Median over the rounds; None where reasons took it away."""
    j_per_token: dict[str, Interval] = Field(default_factory=dict)
    """Meter -> gross joules a token (a prompt token for `prefill`)."""
    fraction: float | None = None
    """Measured speed over the limit."""
    peaks: Literal["table", "measured"] | None = None
    """Which peaks the limit was made from."""
    peak_bytes: int | None = None
    n: int = 0
    """Rounds."""
    voided: int = 0
    reasons: tuple[str, ...] = ()
    """Of the speed: warnings, and what took it away."""
    energy_reasons: tuple[str, ...] = ()
    """Why there is no energy."""


class ScalingStep(Noun):
    """An arm on so many devices."""

    devices: int
    tokens_per_s: Interval
    efficiency: Interval
    """Speed over devices times the speed a device on the fewest devices."""
    gain: Interval | None
    """Share of the ideal gain that the devices added since the step before brought; None at the first step."""
    pays: bool | None
    """Whether the gain is at least the threshold; None where its interval holds it."""
    communication: float | None = None


class Scaling(Noun):
    """One arm and workload over numbers of devices."""

    arm: str
    workload: Workload
    """At the fewest devices."""
    steps: tuple[ScalingStep, ...]
    stops_at: int | None
    """First number of devices that does not pay; None if all do or none can be told."""
    threshold: float
    sentence: str
    reasons: tuple[str, ...] = ()


class BenchJudgement(Noun):
    """Everything concluded from one bench; what the terminal, the pages and `--json` show."""

    schema_version: int = SCHEMA
    bench_id: str
    points: tuple[ArmPoint, ...]
    ratios: tuple[Ratio, ...]
    """Per point: the null arm first, then the candidates; then ratios of best configurations."""
    joints: tuple[Joint, ...] = ()
    scaling: tuple[Scaling, ...] = ()
    run_id: str | None = None
    """The run whose answers were joined."""
    reasons: tuple[str, ...] = ()
    """All codes that occur, in the order of `REASONS`."""
