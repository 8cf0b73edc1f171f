"""A model of energy, for machines without a meter: an interval, asked for by name, never a meter.

    P = share x TDP x (f + (1 - f) x u),  f in [0.1, 0.5]

u is the mean utilisation of the threads that this machine has, share its threads over the host's, f the part of the TDP
that an idle processor takes, which nobody here knows. At constant utilisation such a power is constant, so that its
energy ratio is the time ratio: it says nothing of a number format. Good for the order of magnitude of a whole run.
"""

from dataclasses import dataclass

from evalsuite.records import EnergyEstimate

METHOD = "model.tdp_linear"
IDLE = (0.1, 0.5)
ASSUMPTION = "P = share*TDP*(f + (1-f)*u), f in [0.1, 0.5]"
STATEMENT = ("At constant utilisation a power model is power = constant, so its energy ratio equals the time ratio; it "
             "contains no information about the precision's energy.")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Processor:
    """What the model is told of a processor; None where it is not known, and nothing is guessed."""

    tdp_w: float | None
    """Of all sockets together, from the data sheet, as the user states it."""
    threads: int | None
    """That this machine has."""
    host_threads: int | None
    """That the host has; on bare metal the same."""


def estimate(processor: Processor, seconds: float, utilisation: float) -> tuple[EnergyEstimate | None, str | None]:
    """The interval of energy of a window, or None and why.

    Args:
        processor: TDP and threads.
        seconds: length of the window.
        utilisation: mean over this machine's threads, 0 to 1.
    """
    tdp, threads, host = processor.tdp_w, processor.threads, processor.host_threads
    if tdp is None or not tdp > 0:
        return None, "The processor's TDP is not known; state it (watts, all sockets)."
    if not threads or not host:
        return None, "How many threads the host has is not known: a virtual machine has a share that it cannot tell."
    if threads > host:
        return None, f"This machine has {threads} threads, more than the host's {host}."
    if not 0 <= utilisation <= 1 or not seconds > 0:
        return None, f"Utilisation {utilisation:.3g} over {seconds:.3g} s cannot be."
    low, high = (threads / host * tdp * (f + (1 - f) * utilisation) * seconds for f in IDLE)
    inputs = {"tdp_w": tdp, "tdp_source": "user", "share": f"vcpus/host_threads={threads}/{host}",
              "idle_frac": list(IDLE), "util_mean": utilisation, "scope": "cpu_package"}  # fmt: skip
    return EnergyEstimate(method=METHOD, low_j=low, high_j=high, inputs=inputs, assumption=ASSUMPTION), None
