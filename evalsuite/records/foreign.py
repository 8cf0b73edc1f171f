"""Speed and energy that other programs measured, read from their files.

They are shown beside our own and never mixed with them: a `ForeignSpeed` is no `Measurement`, a `Bench` cannot hold
one, and ratios are made of `Measurement`s alone. Three kinds of energy keep three fields here too: measured (`energy`),
modelled or perhaps modelled (`energy_estimate`), provisioned (`provisioned_power`). What a file does not state is None.
"""

from typing import Literal

from pydantic import Field

from evalsuite.records.base import SCHEMA, Noun
from evalsuite.records.metered import Scope

ForeignQuality = Literal["L4", "L3", "L3-", "L2", "L1"]
"""As `Quality`, and `L3-`: a device's energy counter over 30 s or more, neither tick-aligned nor cross-checked, which
costs up to 0.3 %. `L1` where the file does not say enough for more."""
WindowKind = Literal["whole_run", "steady_state"]
"""`whole_run`: start and end of the run are in it. `steady_state`: only the time in which all places were taken."""
LatencyKind = Literal["ttft_s", "tpot_s", "itl_s", "e2el_s"]


class ForeignEnergy(Noun):
    """Energy that a device's counter or power sensor measured, as another program read it."""

    provenance: Literal["measured"] = "measured"
    scope: Scope
    method: str
    quality: ForeignQuality
    devices: int | None = None
    """Devices that the figures are the sum of."""
    energy_j: float | None = Field(default=None, gt=0)
    """Of the whole window."""
    j_per_output_token: float | None = Field(default=None, gt=0)
    j_per_total_token: float | None = Field(default=None, gt=0)
    """A token read or written."""
    j_per_request: float | None = Field(default=None, gt=0)
    power_w: float | None = Field(default=None, gt=0)
    """Mean, all devices together."""


class ForeignEstimate(Noun):
    """Energy that was modelled (`modelled`), or of which the file does not say whether it was (`imported_unknown`).

    Barred from ratios, rankings and headlines.
    """

    provenance: Literal["modelled", "imported_unknown"]
    scope: Scope
    method: str
    energy_j: float = Field(gt=0)


class ProvisionedPower(Noun):
    """Power that was set aside for the hardware, by its data sheet: no measurement, and no energy."""

    provenance: Literal["provisioned"] = "provisioned"
    tokens_per_s_per_mw: dict[str, float]
    """Key of the file -> tokens a second for a megawatt of provisioned power."""


class ForeignWorkload(Noun):
    """What was run, as far as the file states it."""

    input_tokens: float | None = None
    """A request; a mean where requests differ."""
    output_tokens: float | None = None
    depth: float | None = None
    """Tokens in the cache before the first step."""
    batch: float | None = None
    """Rows of the batch, or requests in flight; a mean or a limit, see the notes."""
    requests: int | None = None
    """That were completed."""
    devices: int | None = None


class ForeignThroughput(Noun):
    """Tokens and requests a second; only what the file states."""

    per_device: bool = False
    """The figures are for one device, as the file states them."""
    output_tok_s: float | None = Field(default=None, gt=0)
    total_tok_s: float | None = Field(default=None, gt=0)
    """Input and output tokens: never to be compared with output tokens."""
    requests_s: float | None = Field(default=None, gt=0)
    prefill_tok_s: float | None = Field(default=None, gt=0)
    decode_tok_s: float | None = Field(default=None, gt=0)


class ForeignSpeed(Noun):
    """One result of another program."""

    row: int
    """Number in the file, from 0."""
    source_tool: str
    source_version: str | None = None
    source_commit: str | None = None
    file_name: str
    file_sha256: str
    measured_at: str | None = None
    """As the file writes it."""
    label: str | None = None
    """What the file calls this result."""
    model: str | None = None
    hardware: str | None = None
    precision: str | None = None
    """As declared; nobody looked which kernels ran."""
    framework: str | None = None
    workload: ForeignWorkload = ForeignWorkload()
    window: WindowKind
    duration_s: float | None = Field(default=None, gt=0)
    repeats: int | None = None
    throughput: ForeignThroughput = ForeignThroughput()
    latency: dict[LatencyKind, dict[str, float]] = Field(default_factory=dict)
    """Statistic (`mean`, `std`, `p50`, `p99`, ...) -> seconds."""
    energy: tuple[ForeignEnergy, ...] = ()
    energy_estimate: tuple[ForeignEstimate, ...] = ()
    provisioned_power: ProvisionedPower | None = None
    notes: tuple[str, ...] = ()
    """What to know before believing a figure, for people."""
    reasons: tuple[str, ...] = ()
    """Codes of `REASONS`."""


class ForeignFile(Noun):
    """`results/imported/<hash>-<tool>.json`: one file of another program, as read."""

    schema_version: int = SCHEMA
    kind: Literal["evalsuite.foreign/1"] = "evalsuite.foreign/1"
    format: str
    file_name: str
    file_sha256: str
    imported: str
    """UTC, ISO 8601."""
    rows: tuple[ForeignSpeed, ...]
    command: str | None = None
