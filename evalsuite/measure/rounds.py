"""The A/B protocol: every arm once a round, in a balanced order, the baseline twice.

Speeds of two sessions differ by more than most formats do: temperature, neighbours, memory layout. So arms are loaded
side by side and run in turn; what is compared are ratios within a round, and a second run of the baseline in each
round (the null arm) says how much of a ratio is noise. A turn that the machine spoiled is measured again, at most
twice; every window is kept. Clocks and power limits are recorded and never set.

What follows from the windows is computed in the judging half.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from evalsuite import machine
from evalsuite.measure import host, states
from evalsuite.measure.loads import Load, Work
from evalsuite.measure.meters import model
from evalsuite.measure.sampler import Sampler
from evalsuite.records import EnergyEstimate, EnergyModel, Host, Window

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


@dataclass(frozen=True, slots=True)
class Beside:
    """What is read beside a window."""

    sampler: Sampler
    model: EnergyModel | None = None
    """Asked for: an estimate stands beside what was measured, never in its place."""


def order(names: tuple[str, ...], round_: int) -> tuple[str, ...]:
    """Names in the order of a round: all rotations, then all reversed; over 2n rounds every place is taken alike."""
    n = len(names)
    at = round_ % n
    turned = names[at:] + names[:at]
    return turned if (round_ // n) % 2 == 0 else turned[::-1]


class Rounds:
    """All rounds of one point."""

    def __init__(self, schedule: Schedule, beside: Beside, began_s: float, stop: Callable[[], bool]) -> None:
        self._schedule, self._sampler, self._model = schedule, beside.sampler, beside.model
        self._began, self._stop = began_s, stop

    def run(self, loads: dict[str, Load], cores: int) -> Iterator[Window]:
        """Every window, as it ends. `loads`: arm id -> load; two ids may share one. `cores`: threads that a load uses.
        Ends early when told to stop.

        Raises:
            DoesNotFitError: from the first window that does not fit.
        """
        for number in range(self._schedule.rounds):
            for position, arm in enumerate(order(tuple(loads), number)):
                for attempt in range(RETRIES + 1):
                    if self._stop():
                        return
                    window = self._turn(loads[arm], cores).model_copy(
                        update={"arm": arm, "round": number, "position": position, "attempt": attempt}
                    )
                    again = attempt < RETRIES and bool(VOIDING & set(window.reasons))
                    yield window.model_copy(update={"voided": again})
                    if not again:
                        break

    def _turn(self, load: Load, cores: int) -> Window:
        if self._schedule.cooldown_s:
            time.sleep(self._schedule.cooldown_s)
        load.warm(self._schedule.warm_s)
        self._sampler.begin(self._schedule.window_s)
        before = host.snapshot()
        work = load.run(self._schedule.window_s)
        seen = host.between(before, host.snapshot())
        found = self._sampler.end(work.start_ns, work.end_ns, seen.others_cpu, _may_alias(work))
        codes = (*work.reasons, *host.reasons(seen, cores), *found.state_reasons)
        return Window(
            round=0, position=0, attempt=0, arm="", start_s=work.start_ns / 1e9 - self._began,
            duration_s=work.seconds, iterations=work.iterations, input_tokens=work.input_tokens,
            output_tokens=work.output_tokens, requests=work.requests, energy=found.energy,
            energy_reasons=found.reasons, energy_estimate=self._estimate(work.seconds, seen),
            latency=work.latency, device=found.device,
            host=seen.model_copy(update={"sampler_cpu_s": found.sampler_cpu_s}),
            peak_bytes=work.peak_bytes, communication=work.communication or None, reasons=tuple(dict.fromkeys(codes)),
            notes=work.notes, whole_run=work.whole_run, retries=work.retries,
        )  # fmt: skip

    def _estimate(self, seconds: float, seen: Host) -> EnergyEstimate | None:
        """Modelled energy of a window, where it was asked for and everything it needs is known."""
        if self._model is None or seen.client_cpu is None:
            return None
        cores = os.cpu_count() or 1
        told = model.Processor(self._model.tdp_w, cores, self._model.host_threads)
        return model.estimate(told, seconds, min(1.0, seen.client_cpu / cores))[0]


def _may_alias(work: Work) -> bool:
    """Whether an accelerator's power sensor may see a rhythm of the load instead of its mean. How busy the device is
    within a step is not known here, so every load of such a period is suspected."""
    period = work.seconds / max(work.iterations, 1)
    return states.aliasing_risk(0.0, period) and machine.facts()["accelerator"] is not None
