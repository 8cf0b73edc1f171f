"""What is measured of speed, memory and energy: meters, windows, measurements, and the document of a bench.

A bench runs every arm of one workload in turn, round after round (`measure.rounds`); a `Window` is one turn. All
windows are kept, voided ones too. What is concluded from them (ratios, joules per correct answer) is computed from
these documents when it is asked for, like a verdict, and is not stored in them.

Three kinds of energy never share a field: measured (`Energy`), modelled (`EnergyEstimate`), provisioned (imported
only). Without a meter there is no `Energy` and a reason code; never 0.
"""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from evalsuite.records.asked import Arm, ModelRef
from evalsuite.records.base import SCHEMA, Noun
from evalsuite.records.stored import Realised

Scope = Literal["gpu_board", "gpu_module", "npu_chip", "cpu_package", "dram", "soc", "node_ac"]
Quality = Literal["L4", "L3", "L2", "L1"]
"""L4: a calibrated meter at the wall, whole node. L3: a device's energy counter, tick-aligned, within 5 % of its
integrated power. L2: sampled power, integrated by the rules. L1: sampled power short of these rules; never ranked."""
Execution = Literal["native", "native_mixed", "emulated", "reference", "declared"]
"""`native`: the format's own arithmetic ran. `native_mixed`: stored in the format, computed in another. `emulated` and
`reference`: no speed, no joules. `declared`: a server that says so; nobody looked."""
Phase = Literal["prefill", "decode", "whole"]

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


class Workload(Noun):
    """One point that is measured: what is run, in which batch."""

    preset: str
    runner: Literal["static", "replay", "offline", "serve"]
    phase: Phase
    batch: int
    """Rows of the batch, or requests in flight."""
    input_tokens: int
    """Prompt tokens a row (mean for `replay`)."""
    output_tokens: int
    depth: int | None = None
    """`decode`: tokens in the cache before the first step; None elsewhere."""
    comparison: Literal["iso_config", "best_config"] = "iso_config"
    devices: int = 1

    @property
    def key(self) -> str:
        """Readable name, e.g. `cpu-std.decode.b4.d512`."""
        depth = "" if self.depth is None else f".d{self.depth}"
        many = "" if self.devices == 1 else f".x{self.devices}"
        return f"{self.preset}.{self.phase}.b{self.batch}{depth}{many}"


class Percentiles(Noun):
    """A latency over requests or gaps: linear interpolation; one that too few requests support is None."""

    n: int
    mean: float
    p50: float | None
    p90: float | None
    p99: float | None


class Latency(Noun):
    """Latencies of one serving window, in seconds."""

    ttft_s: Percentiles | None
    """Sending to the first non-empty piece of any kind."""
    tpot_s: Percentiles | None
    """(last - first) / (tokens - 1) of each request of two tokens or more."""
    itl_s: Percentiles | None
    """All gaps between tokens; None where a piece carries several (then `icl_s`)."""
    icl_s: Percentiles | None = None
    """Gaps between pieces."""
    e2el_s: Percentiles | None
    goodput_per_s: float | None = None
    """Requests a second within the asked-for limits; None where none were asked for."""


class WholeRun(Noun):
    """A serving window with its filling up and running dry: from the first sending to the last piece."""

    duration_s: float
    input_tokens: int
    output_tokens: int
    requests: int


class Host(Noun):
    """What the machine did to a window; None where it does not say."""

    steal: float | None
    """Share of the processor's time that the host of a virtual machine took."""
    involuntary_switches_per_s: float | None
    others_cpu: float | None
    """Share of all processors that other processes used."""
    client_cpu: float | None = None
    """Processors that this process used, in cores."""
    sampler_cpu_s: float | None = None


class DeviceState(Noun):
    """Clocks, temperature and throttling of an accelerator over a window; None where it does not say."""

    sm_mhz: tuple[float, float, float] | None = None
    """Least, median, largest."""
    memory_mhz: tuple[float, float, float] | None = None
    temperature_c: tuple[float, float] | None = None
    """At start and end."""
    throttled_power: float | None = None
    """Share of the window."""
    throttled_thermal: float | None = None


class Window(Noun):
    """One arm's turn in one round."""

    round: int
    position: int
    """Place in the round's order, from 0."""
    attempt: int
    """0, or how often the turn was voided before."""
    arm: str
    start_s: float
    """Since the bench began, monotonic."""
    duration_s: float
    iterations: int
    """Prefill passes, decode steps, or requests."""
    input_tokens: int
    output_tokens: int
    requests: int
    energy: tuple[Energy, ...] = ()
    energy_reasons: tuple[str, ...] = ()
    """Why a meter gave nothing, `meter: code`."""
    energy_estimate: EnergyEstimate | None = None
    latency: Latency | None = None
    whole_run: WholeRun | None = None
    """Serving windows: the run around the steady state."""
    retries: int = 0
    """Requests that were sent again, because the endpoint was busy or failed before it answered."""
    host: Host
    device: DeviceState | None = None
    peak_bytes: int | None = None
    """Most memory in use above what was in use before, during the window."""
    communication: float | None = None
    """Several devices: share of the time in communication."""
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What was seen, for people, where a reason needs more than its code."""
    voided: bool = False
    """Measured again; this one counts for nothing and is kept."""

    def tokens_per_s(self, phase: Phase) -> float:
        """Prompt tokens a second for `prefill`, generated tokens a second otherwise."""
        return (self.input_tokens if phase == "prefill" else self.output_tokens) / self.duration_s


class Memory(Noun):
    """Memory of an arm, in bytes; None where unknown."""

    weights_bytes: int
    """As the recipe stores them: elements and scales, and what stays 16 bits wide."""
    resident_bytes: int | None
    """As they lie in memory here; more than `weights_bytes` where operands are widened for the processor."""
    kv_bytes_per_token: int | None
    peak_bytes: int | None = None
    """Weights and the most that any window of the arm used above them."""


class Peaks(Noun):
    """What a device can do at most."""

    device: str
    flops: dict[str, float]
    """`bf16`, `fp32`, `fp8`, `int8` -> multiply-adds times two a second, dense."""
    bytes_per_s: float | None
    source: str
    """Data sheet, or how it was measured."""


class Roofline(Noun):
    """The physical limit of one arm at one point, and how much of it was reached."""

    peaks: Literal["table", "measured"]
    limit_tokens_per_s: float
    bound: Literal["memory", "compute"]
    bytes_per_step: float
    flops_per_step: float
    fraction: float | None = None
    """Measured over limit; None where no speed was measured."""
    mbu: float | None = None
    mfu: float | None = None
    limit_ratio: float | None = None
    """Limit over the baseline's limit: the ratio of speeds if both reached theirs. A measured ratio beyond it says that
    the baseline is further from its limit than the arm, not that physics erred."""


class Measurement(Noun):
    """One arm at one point."""

    row_id: str
    arm: str
    workload: Workload
    execution: Execution | None
    """None where the arm was not loaded."""
    realised: Realised | None
    speed_valid: bool
    """False for emulated arms: they have no window and no number."""
    synthetic_weights: bool = False
    windows: tuple[Window, ...] = ()
    memory: Memory | None = None
    rooflines: tuple[Roofline, ...] = ()
    startup_s: float | None = None
    """Loading and compiling."""
    warmup_s: float | None = None
    communication: float | None = None
    """Several devices: share of the time in communication; None where it is not known."""
    reasons: tuple[str, ...] = ()
    detail: str | None = None
    """What a reason does not say, e.g. why an engine cannot run the arm."""

    @model_validator(mode="after")
    def _emulated_has_no_speed(self) -> Self:
        if not self.speed_valid and self.windows:
            raise ValueError(f"arm '{self.arm}' is {self.execution or 'not loaded'}: it has no speed and no energy")
        return self

    @property
    def kept(self) -> tuple[Window, ...]:
        """The windows that count, in order of rounds."""
        return tuple(window for window in self.windows if not window.voided)


class EnergyModel(Noun):
    """What a modelled estimate of the processor's energy is made from; asked for, never by default."""

    tdp_w: float = Field(gt=0)
    """Of all sockets together, from the data sheet."""
    host_threads: int | None = Field(default=None, gt=0)
    """Threads of the host; None: not known, and then nothing is estimated (a virtual machine has a share of it)."""


class BenchSpec(Noun):
    """What a bench was asked to do."""

    suite: str
    model: ModelRef
    arms: tuple[Arm, ...]
    baseline: str
    null_arm: str
    """Id under which the baseline runs a second time in each round."""
    engine: str
    engine_options: dict[str, Any] = Field(default_factory=dict)
    presets: tuple[str, ...]
    devices: tuple[int, ...] = (1,)
    """Numbers of devices on which each point is run."""
    rounds: int
    window_s: float
    warm_s: float
    cooldown_s: float = 0.0
    seed: int = 0
    meters: dict[str, Any] = Field(default_factory=dict)
    """Meters that the suite configures."""
    energy_model: EnergyModel | None = None
    replay_run: str | None = None
    """The run whose lengths `replay` takes."""
    price_per_hour: float | None = None
    """Of one device."""


class Bench(Noun):
    """`bench.json`: written before the first window and replaced after each round."""

    schema_version: int = SCHEMA
    kind: Literal["evalsuite.bench/1"] = "evalsuite.bench/1"
    bench_id: str
    created: str
    """UTC, ISO 8601."""
    status: Literal["running", "done", "partial", "interrupted"]
    spec: BenchSpec
    machine: dict[str, Any]
    software: dict[str, str]
    environment: dict[str, Any] = Field(default_factory=dict)
    """Everything else that may explain a speed: governor, affinity, limits, driver, switches."""
    meters: tuple[MeterInfo, ...] = ()
    absent: tuple[MeterAbsent, ...] = ()
    idle_w: dict[str, float] = Field(default_factory=dict)
    """Meter -> watts with weights loaded and nothing to do."""
    peaks: tuple[Peaks, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    command: str | None = None

    def rows(self, workload: Workload) -> tuple[Measurement, ...]:
        """All arms at one point."""
        return tuple(row for row in self.measurements if row.workload == workload)

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """The points, in order."""
        return tuple(dict.fromkeys(row.workload for row in self.measurements))


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
