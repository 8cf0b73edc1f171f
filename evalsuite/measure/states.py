"""Clocks, temperature and throttling of a window, from what meters say of its moments; the risk of aliasing."""

from collections.abc import Sequence

import numpy as np

from evalsuite.records import DeviceState

THROTTLED = 0.01
"""Share of a window above which throttling is said."""


def over_window(samples: Sequence[DeviceState]) -> DeviceState | None:
    """A window's state from states of its moments, evenly spaced; None without any."""
    if not samples:
        return None

    def spread(values: list[tuple[float, float, float]]) -> tuple[float, float, float] | None:
        if not values:
            return None
        return (min(v[0] for v in values), float(np.median([v[1] for v in values])), max(v[2] for v in values))

    def mean(values: list[float]) -> float | None:
        return float(np.mean(values)) if values else None

    warm = [one.temperature_c for one in samples if one.temperature_c is not None]
    return DeviceState(
        sm_mhz=spread([one.sm_mhz for one in samples if one.sm_mhz is not None]),
        memory_mhz=spread([one.memory_mhz for one in samples if one.memory_mhz is not None]),
        temperature_c=(warm[0][0], warm[-1][1]) if warm else None,
        throttled_power=mean([one.throttled_power for one in samples if one.throttled_power is not None]),
        throttled_thermal=mean([one.throttled_thermal for one in samples if one.throttled_thermal is not None]),
    )


def reasons(found: DeviceState | None) -> tuple[str, ...]:
    """Codes that a window's state gives: slowed by heat takes its numbers away, slowed by the power limit is said."""
    if found is None:
        return ()
    hot = ("thermal_throttle",) if (found.throttled_thermal or 0) > THROTTLED else ()
    return hot + (("power_capped",) if (found.throttled_power or 0) > THROTTLED else ())


def aliasing_risk(busy: float, period_s: float) -> bool:
    """Whether a sensor that looks a quarter of the time may see the wrong quarter.

    Args:
        busy: share of the time that the device computes (kernel time of a profile).
        period_s: of one step of the load.
    """
    return busy < 0.9 and 0.02 <= period_s <= 0.5
