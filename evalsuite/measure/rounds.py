"""The A/B protocol: every arm once a round, in a balanced order, the baseline twice.

Speeds of two sessions differ by more than most formats do: temperature, neighbours, memory layout. So arms are loaded
side by side and run in turn; what is compared are ratios within a round, and a second run of the baseline in each
round (the null arm) says how much of a ratio is noise. A turn that the machine spoiled is measured again, at most
twice; every window is kept. Clocks and power limits are recorded and never set.

What follows from the windows is computed in the judging half.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from evalsuite.measure import host
from evalsuite.measure.loads import Load
from evalsuite.measure.sampler import Sampler
from evalsuite.records import Window

RETRIES = 2
VOIDING = frozenset({"steal_time", "preempted", "shared_host", "endpoint_failed", "thermal_throttle"})
"""Codes of the machine's or server's doing: the turn is measured again."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how often."""

    rounds: int
    window_s: float
    warm_s: float
    cooldown_s: float = 0.0


def order(names: tuple[str, ...], round_: int) -> tuple[str, ...]:
    """Names in the order of a round: all rotations, then all reversed; over 2n rounds every place is taken alike."""
    n = len(names)
    at = round_ % n
    turned = names[at:] + names[:at]
    return turned if (round_ // n) % 2 == 0 else turned[::-1]


class Rounds:
    """All rounds of one point."""

    def __init__(self, schedule: Schedule, sampler: Sampler, began_s: float, stop: Callable[[], bool]) -> None:
        self._schedule, self._sampler, self._began, self._stop = schedule, sampler, began_s, stop

    def run(self, loads: dict[str, Load], cores: int, pids: tuple[int, ...] = ()) -> Iterator[Window]:
        """Every window, as it ends. `loads`: arm id -> load; two ids may share one. `cores`: threads that a load uses.
        `pids`: further processes that are part of it. Ends early when told to stop.

        Raises:
            DoesNotFitError: from the first window that does not fit.
        """
        for number in range(self._schedule.rounds):
            for position, arm in enumerate(order(tuple(loads), number)):
                for attempt in range(RETRIES + 1):
                    if self._stop():
                        return
                    window = self._turn(loads[arm], cores, pids).model_copy(
                        update={"arm": arm, "round": number, "position": position, "attempt": attempt}
                    )
                    again = attempt < RETRIES and bool(VOIDING & set(window.reasons))
                    yield window.model_copy(update={"voided": again})
                    if not again:
                        break

    def _turn(self, load: Load, cores: int, pids: tuple[int, ...]) -> Window:
        if self._schedule.cooldown_s:
            time.sleep(self._schedule.cooldown_s)
        load.warm(self._schedule.warm_s)
        self._sampler.begin(self._schedule.window_s)
        before = host.snapshot(pids)
        work = load.run(self._schedule.window_s)
        seen = host.between(before, host.snapshot(pids))
        found = self._sampler.end(work.start_ns, work.end_ns, seen.others_cpu)
        codes = (*work.reasons, *host.reasons(seen, cores), *found.state_reasons)
        return Window(
            round=0, position=0, attempt=0, arm="", start_s=work.start_ns / 1e9 - self._began,
            duration_s=work.seconds, iterations=work.iterations, input_tokens=work.input_tokens,
            output_tokens=work.output_tokens, requests=work.requests, energy=found.energy,
            energy_reasons=found.reasons, latency=work.latency, device=found.device,
            host=seen.model_copy(update={"sampler_cpu_s": found.sampler_cpu_s}),
            peak_bytes=work.peak_bytes, communication=work.communication or None, reasons=tuple(dict.fromkeys(codes)),
        )  # fmt: skip

