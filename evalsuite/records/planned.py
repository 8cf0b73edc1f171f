"""What a suite can decide, before any compute: what `evalsuite plan` prints."""

from typing import Literal

from evalsuite.records.base import Mode, Noun


class Gate(Noun):
    """What one test of a plan can show: pooled, or a task."""

    task: str | None
    role: Literal["certify", "monitor"]
    n: int
    """Items that the plan asks."""
    margin: float
    psi: float
    """Share of differing items that is assumed."""
    psi_source: str
    """`suite` (its psi_plan), or the run that it was measured in."""
    n_required: int
    """Items for 90 % power if nothing changes."""
    n_floor: int
    """Below this no valid test can say SAFE if no answer changes at all."""
    power: float
    """Probability of SAFE if nothing changes."""
    power_at_half: float
    """Probability of SAFE if half the margin is lost."""
    certifiable: float | None
    """Smallest margin that the items certify with 90 % power if nothing changes; None: none below one half."""
    advice: str | None


class ModePlan(Noun):
    """What a suite can decide in one mode, before any compute."""

    mode: Mode
    pooled: Gate
    tasks: tuple[Gate, ...]
    joint_power: float
    """Probability that the pool and every `certify` task are SAFE if nothing changes (taken as independent)."""
    sequential_items: float | None
    """Sequential design: items after which SAFE is expected if nothing changes (a median; 90 % end within twice)."""
    seconds: float | None = None
    """Wall time of all arms by the pace of earlier runs on this machine; None: never run here."""


class SuitePlan(Noun):
    """The forecast for one model: what `evalsuite plan` prints."""

    suite: str
    model: str
    arms: tuple[str, ...]
    modes: tuple[ModePlan, ...]
    seconds: float | None
    cost: float | None
    """Seconds times the price an hour, in the price's currency; None without a price or a pace."""
