"""What is stored of a run: cells, columns, what really ran, reasons to distrust it, plans, and the manifest."""

from typing import Any, Literal

from pydantic import Field

from evalsuite.records.asked import Calibration, RunSpec
from evalsuite.records.base import SCHEMA, Mode, Noun


class Cell(Noun):
    """Arm x task x mode x repeat: the unit of failure and of reporting."""

    arm: str
    task: str
    mode: Mode
    repeat: int = 0

    @property
    def key(self) -> str:
        """Readable name, also the folder name: `bf16.ref_chain_sum.thinking.r0`."""
        return f"{self.arm}.{self.task}.{self.mode}.r{self.repeat}"


SAMPLE_COLUMNS: dict[str, str] = {
    "task": "string", "item_id": "string", "item_hash": "string", "prompt_hash": "string", "arm": "string",
    "mode": "string", "repeat": "int32", "group": "int32", "position": "int32", "correct": "bool", "score": "float64",
    "prediction": "string", "gold": "string", "parsed": "bool", "finish_reason": "string", "truncated": "bool",
    "n_prompt_tokens": "int32", "n_output_tokens": "int32", "n_thinking_tokens": "int32", "output_text": "string",
    "output_token_ids": "list<int32>", "choice_loglikelihoods": "list<float64>", "gold_loglikelihood": "float64",
    "margin": "float64", "tie": "bool", "seed": "int64", "cluster": "string",
}  # fmt: skip
"""Columns of `samples.parquet` and their Arrow types (meaning: results/README.md). Never a wall-clock time."""


DIVERGENCE_COLUMNS: dict[str, str] = {
    "task": "string", "item_id": "string", "item_hash": "string", "position": "int32", "token": "int32",
    "thinking": "bool", "kl": "float64", "same_top": "bool", "logprob_base": "float64", "logprob": "float64",
}  # fmt: skip
"""Columns of `divergence.parquet`, one row a token of the baseline's answers."""


class Realised(Noun):
    """What really ran, as the engine reports it; a mismatch with the recipe fails the cell."""

    recipe: str
    """Id of the recipe that ran."""
    execution: Literal["native", "native-unproven", "emulated", "declared"]
    """`native`: the arithmetic named by the recipe ran on hardware. `native-unproven`: a scaled kernel was called, but
    the profiler saw FP8 kernels for less than 95 % of the time of its matrix multiplications; treat it as `emulated`.
    `emulated`: true accuracy, no speed, no joules. `declared`: a server answered, and
    what it runs is what somebody says."""
    kernel: str
    """Which matrix multiplication ran, e.g. `linear-bf16`, `linear-fp32-accumulate-bf16`."""
    gemm_mode: Literal["none", "fast", "exact"]
    """Emulated arms: `fast` rounds dequantised operands to BF16, `exact` keeps them in FP32."""
    logits_dtype: str
    """Precision of the log-softmax used for scoring."""
    device: str
    threads: int | None
    """Threads a worker; bits depend on it. None where a server does not say."""
    modules: tuple[str, ...]
    """Names of the quantised modules."""
    params_quantised: float | None
    """Share of parameters that are quantised, 0 to 1; None where nobody looked."""
    macs_quantised: float | None
    """Share of the multiply-adds of a token's linear layers that run on quantised operands, 0 to 1; None as above."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Totals over the weights: `clipped`, `nonfinite_blocks`, `zero_flushed`."""
    module_counts: dict[str, dict[str, int]] = Field(default_factory=dict)
    """The same by module; zeros are left out."""
    calibration: Calibration | None = None
    """What static activation scales were made from."""
    scale_storage: Literal["fp32", "e8m0"] | None = None
    """How scales reach a native kernel (on Hopper UE8M0 travels as FP32 powers of two); None where none ran."""
    kernels: tuple[str, ...] = ()
    """Native execution: the matrix multiplication kernels that the profiler saw in the quantised layers."""
    kernel_share: float | None = None
    """Share of those kernels' time that went into FP8 kernels, 0 to 1; None where the profiler saw none."""
    facts: dict[str, str] = Field(default_factory=dict)
    """Engine endpoint: what the server says of itself, and how it had to be asked."""
    batch_invariant: bool | None = None
    """Whether the engine's kernels give the same bits in any batch; None where evalsuite fixes the batches."""
    switches: dict[str, str] = Field(default_factory=dict)
    """What an engine that decides by itself was told: environment variables and arguments."""


class Finding(Noun):
    """A reason to distrust a result, from a closed list (`FINDINGS`), with what to do about it."""

    code: str
    severity: Literal["info", "warning", "error"]
    message: str
    """What was seen, with numbers, and what to do."""


FINDINGS: dict[str, str] = {
    "NOISE_FLOOR_MISSING": "The suite has no noise floor; flips cannot be told from run-to-run noise.",
    "NOISE_FLOOR_BROKEN": "Baseline against baseline differs significantly: a harness fault, not a precision effect.",
    "TRUNCATED": "Answers were cut by the generation budget.",
    "UNPARSABLE": "Answers in which the filter found nothing; they count as wrong.",
    "TIES": "More than 1 % of multiple-choice items are ties in the best log-likelihood.",
    "DIVERGED": "Next-token distributions are far from the baseline's; a warning, never a verdict.",
    "MISSING": "Planned items without a sample.",
    "CELL_FAILED": "A cell failed; its items are missing.",
    "LIMITED": "The run used --limit: a plan of its own, not the suite's.",
    "EMULATED": "The candidate was emulated: accuracy is true, speed and energy were not measured.",
    "DECLARED": "A server answered: which numbers it computes in is what the suite says of it; nobody looked.",
    "KERNEL_UNPROVEN": "FP8 kernels were called, but the profiler did not see them do the work: no speed, no energy.",
    "PROMPT_TRUNCATED": "Prompts longer than the model's context were cut from the left.",
    "DUPLICATE_ITEMS": "Items of equal content were dropped after the first.",
    "GROUP_HALVED": "Request groups did not fit in memory and were answered in halves.",
    "NONFINITE_ACTIVATIONS": "Inputs of quantised layers held NaN or Inf; what was computed from them is worthless.",
    "CALIBRATION_EXCEEDED": "Inputs beyond the calibrated range were clipped by a static scale.",
    "CHECKPOINT_MISDECLARED": "A quantised checkpoint's tensors are not as its configuration says; tensors count.",
    "SCALES_ROUNDED_LATER": "A checkpoint's scales were made powers of two after its codes: its weights are wrong.",
    "BASELINE_AT_CHANCE": "The baseline is too near chance to lose anything.",
    "IMPORTED": "Answers come from another program's logs; what those do not record is unknown.",
    "NOT_COMPARABLE": "The two logs do not ask the same question (task version or items differ).",
    "SETTINGS_DIFFER": "The two logs were made with different settings.",
}
"""Every finding code and what it means. A code that is not here cannot be stored."""


class Activity(Noun):
    """What quantising the activations of a cell did to them, counted while it ran."""

    groups: int
    """Request groups that were counted: all of the cell's, unless a kill lost the count of earlier ones."""
    totals: dict[str, int]
    """`blocks`; of these `nonfinite_blocks` (NaN or Inf: became NaN) and `clipped_blocks` (an element exceeds the
    largest number). With the engine option `count: elements` also `elements`, `clipped` and `zero_flushed`."""
    modules: dict[str, dict[str, int]]
    """The same by module, `blocks` and `elements` apart; zeros are left out."""


class CellRecord(Noun):
    """What became of one cell. Stored in the manifest."""

    cell: Cell
    status: Literal["planned", "running", "done", "failed"]
    resume_key: str
    """Hash of everything that the samples depend on; a key that differs is recomputed, never reused."""
    n_planned: int
    """Items that the cell is to answer; the first so many of its task's order where a sequential run stopped early."""
    n_done: int = 0
    error: str | None = None
    realised: Realised | None = None
    samples_sha256: str | None = None
    seconds: float = 0.0
    """Wall time spent answering, over all sessions; loading is not in it."""
    divergence_sha256: str | None = None
    """Of `divergence.parquet`; None where it was not measured."""
    findings: tuple[Finding, ...] = ()
    activations: Activity | None = None
    """Counts over the quantised activations; None where nothing was quantised or counted."""


class Plan(Noun):
    """What was fixed before the first item: the decision depends on this and on the samples, on nothing else."""

    margin: float = 0.01
    """Largest tolerated loss of accuracy, as a fraction; in (0, 0.5)."""
    relative: float | None = None
    """Recovery that must hold instead of the absolute margin, e.g. 0.99; None for absolute margins."""
    alpha_safe: float = 0.05
    """One-sided error of SAFE; in (0, 0.5)."""
    alpha_unsafe: float = 0.05
    power: float = 0.9
    design: Literal["fixed", "sequential"] = "fixed"
    estimand: Literal["population", "benchmark"] = "population"
    psi_plan: float = 0.05
    """Expected share of items whose correctness differs between the arms."""
    n_planned: int | None = None
    order_seed: int = 0
    items_sha256: str = ""
    """Hash over the planned item hashes, in order."""
    role: Literal["certify", "monitor"] = "certify"
    chance: float = 0.0
    """Accuracy of guessing, for NO_SIGNAL."""


class Sequence(Noun):
    """How a sequential run draws the items of one mode, and how far its arms have come."""

    order: tuple[int, ...]
    """For each draw the index of its task among the suite's tasks that have the mode; items follow in task order."""
    ends: tuple[int, ...]
    """Draws up to the end of each window: where the run looks."""
    done: dict[str, int] = Field(default_factory=dict)
    """Arm -> windows that it has finished."""
    stopped: tuple[str, ...] = ()
    """Arms that go no further: decided candidates, and everyone once all candidates are."""

    def reached(self, *arms: str) -> tuple[int, ...]:
        """`order` up to the last window that all these arms have finished."""
        windows = min(self.done.get(arm, 0) for arm in arms)
        return self.order[: self.ends[windows - 1]] if windows else ()


class Manifest(Noun):
    """`manifest.json` of a run: written before the first item, replaced atomically as cells finish."""

    schema_version: int = SCHEMA
    run_id: str
    created: str
    """UTC, ISO 8601."""
    status: Literal["running", "done", "partial", "interrupted"]
    provenance: Literal["measured", "imported", "declared"] = "measured"
    """`measured` here; `imported` from another program's logs; `declared`: somebody said so."""
    spec: RunSpec
    spec_sha256: str
    plans: dict[str, Plan]
    """`pooled.<mode>` and `<task>.<mode>` -> plan."""
    items: dict[str, tuple[str, ...]]
    """`<task>.<mode>` -> planned item hashes, in the seeded order."""
    machine: dict[str, Any]
    software: dict[str, str]
    cells: dict[str, CellRecord]
    """Cell key -> record."""
    sequences: dict[Mode, Sequence] = Field(default_factory=dict)
    """Mode -> how its items are drawn; empty for a fixed plan."""
    command: str | None = None
    """The command line that made the run, for reproduction."""
