"""What meters say: which of them answer, the energy of a window, and every reason not to believe a figure.

Three kinds of energy never share a field: measured (`Energy`), modelled (`EnergyEstimate`), provisioned (imported
only). Without a meter there is no `Energy` and a reason code; never 0.
"""

from typing import Any, Literal

from pydantic import Field

from evalsuite.records.base import Noun

Scope = Literal["gpu_board", "gpu_module", "npu_chip", "cpu_package", "dram", "soc", "node_ac"]
Quality = Literal["L4", "L3", "L2", "L1"]
"""L4: a calibrated meter at the wall, whole node. L3: a device's energy counter, tick-aligned, within 5 % of its
integrated power. L2: sampled power, integrated by the rules. L1: sampled power short of these rules; never ranked."""

REASONS: dict[str, str] = {
    "no_meter": "No meter of this kind answers here.",
    "nvml_not_found": "NVIDIA's management library is not installed.",
    "nvml_driver_mismatch": "NVIDIA's management library and driver are of different versions.",
    "not_supported": "The device does not offer this reading (a guest of a virtual machine, an old model).",
    "mig_slice": "The device is a MIG slice: the board's energy is not the slice's.",
    "shared_device": "Another process uses the device.",
    "shared_host": "Other processes used more than 5 % of the processor during the window.",
    "counter_reset": "The energy counter went backwards.",
    "counter_frozen": "The energy counter did not move under load.",
    "window_too_short": "Fewer ticks or samples than a valid window has.",
    "window_not_bracketed": "No sample before the window's start or after its end.",
    "sampling_gap": "Samples of power are too far apart.",
    "accumulator_mismatch": "Energy counter and integrated power differ by more than 5 %.",
    "meters_disagree": "Two meters of one scope differ by more than 5 %.",
    "aliasing_risk": "Power is sampled a quarter of the time and the load has a period near that: may be off by 27 %.",
    "module_scope": "The reading includes the processor of the module (Grace-Hopper).",
    "device_set_mismatch": "The metered devices are not those that computed.",
    "rapl_absent_vm": "No energy counters of the processor: virtual machines do not have them.",
    "rapl_permission": "The processor's energy counters exist and may not be read.",
    "meter_failed": "The meter's command or library gave an error or text that could not be read.",
    "thermal_throttle": "The device slowed down for its temperature for more than 1 % of the window.",
    "power_capped": "The device ran at its power limit.",
    "clock_variation": "Median clocks of the arms differ by more than 3 %.",
    "drift": "Speed moved by more than 3 % over the rounds.",
    "aa_failed": "The baseline against itself differs, at 5 % over all points of the bench together.",
    "not_steady": "The average batch was below 80 % of the largest.",
    "length_saturated": "More than 2 % of the answers ended at their budget.",
    "token_count_retokenised": "Tokens were counted by tokenising text anew, not by the engine.",
    "client_bound": "The client was busy more than 90 % of a core: it may be what was measured.",
    "prefix_cache_on": "Prefix caching was on.",
    "kernel_unproven": "FP8 kernels were called and not seen to do the work.",
    "emulated_speed": "The arm is emulated: its speed and energy say nothing about its format.",
    "dummy_weights": "Weights are synthetic.",
    "above_physical_limit": "Faster than the device's measured peak allows: something was counted wrongly.",
    "implausible_power": "Power is below idle or above 1.1 times the limit.",
    "steal_time": "The host took more than 1 % of the processor's time away.",
    "preempted": "The process was interrupted more than 200 times a second.",
    "clock_step": "Wall clock and monotonic clock disagree: the time was set during the window.",
    "tpi_out_of_band": "Answers are more than 10 % longer or shorter than the baseline's.",
    "too_few_rows": "The batch has fewer rows than there are devices to share them.",
    "does_not_fit": "The batch does not fit in memory; the next smaller one was tried.",
    "endpoint_failed": "The endpoint stopped answering or gave errors.",
    "length_not_kept": "Answers were shorter than asked for: the arms may have done different work.",
    "few_requests": "Too few requests for this percentile.",
    "beyond_context": "Input and output together exceed the model's context.",
    "cannot_run": "The engine cannot run this arm.",
    "interrupted": "The bench was interrupted before this was measured.",
    "not_measured": "The bench holds no point that fits, or not this arm.",
    "not_comparable": "Energy of different scope, method or quality: no ratio is made of it.",
    "above_limit_ratio": "The gain is larger than the limits' ratio: the baseline is further from its limit.",
    "few_correct": "Fewer than 30 correct answers: a cost of each would say nothing.",
    "composite": "Answers came from emulation, the speed is a kernel's: they are not joined.",
    "decode_only": "No replay was measured: cost a token is that of decoding alone, prompts are not paid for.",
}
"""Every reason code and what it means (source: measurement practice of ML.ENERGY, InferenceX, MLPerf, Zeus)."""
WARNINGS = frozenset({
    "aliasing_risk", "module_scope", "power_capped", "clock_variation", "token_count_retokenised", "client_bound",
    "length_saturated", "not_steady", "does_not_fit", "few_requests", "tpi_out_of_band", "dummy_weights", "drift",
    "accumulator_mismatch", "prefix_cache_on", "thermal_throttle", "steal_time", "preempted", "shared_host",
    "above_limit_ratio", "decode_only", "length_not_kept",
})  # fmt: skip
"""Codes that are shown beside a number; all others take it away. `accumulator_mismatch` lowers the quality to L2. A
window with `steal_time`, `preempted` or `shared_host` was measured again twice and kept (the processor's energy is then
not attributed)."""


class MeterInfo(Noun):
    """A meter that answers here."""

    id: str
    scope: Scope
    method: str
    """Which counter or call, e.g. `nvml.total_energy_counter`, `rapl.energy_uj`."""
    quality: Quality
    """The best that its windows can reach."""
    devices: tuple[str, ...]
    """What it meters, in the order of its readings: UUIDs, zone names, channels."""
    min_window_s: float
    update_period_s: float | None = None
    """As observed; None until it has been."""
    verified_on_hardware: bool
    """Whether its authors have run it on the hardware."""
    note: str | None = None


class MeterAbsent(Noun):
    """A meter that does not answer here."""

    id: str
    reason: str
    """A code of `REASONS`."""
    detail: str
    """What was seen, and what to do about it."""


class Energy(Noun):
    """Measured energy of one window by one meter, all its devices together."""

    provenance: Literal["measured"] = "measured"
    meter: str
    scope: Scope
    method: str
    quality: Quality
    energy_j: float = Field(gt=0)
    """Gross, between the window's start and end."""
    power_w: float = Field(gt=0)
    """Mean."""
    by_device_j: dict[str, float]
    ticks: int | None = None
    """Updates of the counter, or samples of power, inside the window."""
    update_period_s: float | None = None
    edge_j: float | None = None
    """Uncertainty from the window's edges falling between two updates."""
    crosscheck_rel: float | None = None
    """|counter - integrated power| / counter; None where only one of them is to be had."""
    reasons: tuple[str, ...] = ()
    """Warnings."""


class EnergyEstimate(Noun):
    """Modelled energy: an interval, never a point; barred from ratios, rankings and headlines."""

    provenance: Literal["modelled"] = "modelled"
    method: str
    low_j: float
    high_j: float
    inputs: dict[str, Any]
    assumption: str
    informative_for_ratios: Literal[False] = False
