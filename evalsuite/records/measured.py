"""What is measured of speed and memory: workloads, windows, measurements, and the document of a bench.

A bench runs every arm of one workload in turn, round after round (`measure.rounds`); a `Window` is one turn. All
windows are kept, voided ones too. What is concluded from them (ratios, joules per correct answer: `benched`) is
computed from these documents when it is asked for, like a verdict, and is not stored in them.
"""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from evalsuite.records.asked import Arm, ModelRef
from evalsuite.records.base import SCHEMA, Noun
from evalsuite.records.metered import Energy, EnergyEstimate, MeterAbsent, MeterInfo
from evalsuite.records.stored import Realised

Execution = Literal["native", "native_mixed", "emulated", "reference", "declared"]
"""`native`: the format's own arithmetic ran. `native_mixed`: stored in the format, computed in another. `emulated` and
`reference`: no speed, no joules. `declared`: a server that says so; nobody looked."""
Phase = Literal["prefill", "decode", "whole"]


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
