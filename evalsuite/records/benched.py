"""What is concluded from a bench beside its ratios: a row of the table, scaling over devices, and all of it together.

Computed from `bench.json` (and a run's samples) whenever it is asked for; never stored beside them.
"""

from typing import Literal

from pydantic import Field

from evalsuite.records.base import SCHEMA, Noun
from evalsuite.records.measured import Execution, Interval, Joint, Ratio, Workload


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
