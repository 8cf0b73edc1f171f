"""The nouns: everything that is stored, passed between the two halves, or printed as JSON.

Measuring and judging meet here and in `store`; neither imports the other. All nouns are frozen pydantic models that
refuse unknown fields. Units stand in names (`duration_s`). Unknown is `None`, failed is a status, neither is ever 0.
*Requested* (`Recipe`) is kept apart from *realised* (`Realised`): an engine reports what really ran.

Read in this order: what is asked (`Recipe`, `ModelRef`, `Arm`, `TaskSpec`, `RunSpec`), the unit of work (`Cell`), what
is stored of it (`SAMPLE_COLUMNS`, `Realised`, `CellRecord`, `Manifest`), and what is concluded (`PairCounts`, `Plan`,
`Decision`, `SuiteDecision`, `Finding`).
"""

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1
"""Version of everything under `results/`. History: 1, first."""

Mode = Literal["direct", "thinking"]
Verdict = Literal["SAFE", "UNSAFE", "INCONCLUSIVE", "INVALID"]
VERDICTS: tuple[Verdict, ...] = ("INVALID", "UNSAFE", "INCONCLUSIVE", "SAFE")
"""Worst first: several decisions are summed up by the first of these that occurs."""
VERDICT_EXIT: dict[Verdict, int] = {"SAFE": 0, "UNSAFE": 10, "INCONCLUSIVE": 11, "INVALID": 12}


class Noun(BaseModel):
    """Base of all nouns: frozen, strict about field names, hashable by content through `digest`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON of this noun."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------------------------- what is asked


class Quant(Noun):
    """How one kind of tensor is quantised: elements, scales, and what shares a scale."""

    element: Literal["e4m3", "e5m2", "e4m3fnuz", "e2m1", "e2m3", "e3m2", "hif8", "int8"]
    """Number format of the elements."""
    scale: Literal["fp32", "ue8m0", "e4m3", "unit"]
    """Number format of the scales. UE8M0 is a power of two; `e4m3` is NVFP4's pair of an E4M3 scale a block and an FP32
    scale a tensor; `unit` is the constant 1 of an uncalibrated KV cache."""
    rounding: Literal["none", "ceil", "floor", "even", "ceil-element", "floor-x2"]
    """How amax becomes a power of two; `none` for all other scales. `ceil` is torchao's RCEIL, `floor` the OCP rule."""
    block: tuple[int, int]
    """Rows x columns (of the matrix with the reduction dimension last) that share one scale; -1 means all."""
    amax_floor: float = 1e-4
    """Smallest amax used for a scale (DeepSeek's kernels: 1e-4)."""
    static: bool = False
    """The scale is a constant of each layer, made from the recipe's `calibration` or shipped with a checkpoint; larger
    elements clip."""


DEFAULT_EXCLUDE = (
    "lm_head", "embed_tokens", r".*norm.*", r".*router.*", r".*\.gate", r".*\.shared_expert_gate", r"visual\..*",
    r"(vision|audio)_tower\..*", r"mtp\..*",
)  # fmt: skip
"""Modules left in BF16, as regular expressions on whole module names or any dotted tail of them (DeepSeek-V3's
convention; `gate` is a router, `gate_proj` is not)."""


class Calibration(Noun):
    """What static activation scales are made from: how large each layer's input became on some texts, in BF16."""

    amax: dict[str, float]
    """Quantised module -> largest magnitude of its input. The experts of one projection share a number."""
    source: str
    """Where the texts came from: a file's name, or `reference` for the shipped ones."""
    texts_sha256: str
    """Hash over the texts, in order."""
    n_texts: int
    n_tokens: int
    """Tokens that were run, each text by itself (no padding), cut at the model's context."""


class CalibrationTexts(Noun):
    """The texts that an arm is to be calibrated on."""

    file: str
    """`reference` for the shipped ones."""
    texts_sha256: str
    """Hash over the texts, in order; the file must still hold these when the arm is opened."""


class Recipe(Noun):
    """One precision, complete. BF16 is the recipe with neither weights nor activations quantised."""

    id: str
    label: str
    """For people."""
    compute: Literal["bf16", "fp32", "unknown"] = "bf16"
    """Arithmetic of everything that is not quantised; `unknown` only where a log of another program does not say."""
    weights: Quant | None = None
    weights_via: Quant | None = None
    """Weights are quantised and dequantised by this first: a checkpoint in one format converted to another."""
    activations: Quant | None = None
    kv_cache: Quant | None = None
    exclude: tuple[str, ...] = DEFAULT_EXCLUDE
    calibration: Calibration | None = None
    """Only with static activation scales: the engine adds it, for the model and the texts that the arm names."""

    @property
    def static(self) -> bool:
        """Whether activation scales are constants."""
        return self.activations is not None and self.activations.static


class ModelRef(Noun):
    """Which weights: `reference` (embedded), a hub id with revision, or a folder."""

    id: str
    revision: str | None = None
    weights_sha256: str | None = None
    """Hash over the weight files; None until the model has been found."""


class Arm(Noun):
    """One side of a comparison: a model in a recipe on an engine."""

    id: str
    model: ModelRef
    recipe: Recipe
    engine: str = "local"
    noise_floor: bool = False
    """True for `<baseline>@aa`: the baseline again, permuted, in groups of half the token budget."""
    calibration: CalibrationTexts | None = None
    """Only with static activation scales: what they are to be calibrated on."""


class TaskSpec(Noun):
    """One task of a suite: everything that lm-eval leaves to a default is stated."""

    task: str
    """Name of an lm-eval task (ours, lm-eval's own, or made from `items`)."""
    metric: str
    filter: str
    modes: tuple[Mode, ...]
    max_gen_toks: dict[Mode, int] | None = None
    """Generation budget in tokens by mode; None for log-likelihood tasks."""
    role: Literal["certify", "monitor"]
    """`certify`: must be SAFE by itself for the suite to be SAFE. `monitor`: may veto (UNSAFE), never certify."""
    margin: float
    """Largest tolerated loss of accuracy, as a fraction (0.02 is two points)."""
    num_fewshot: int | None = None
    """None keeps the task's own number."""
    chance: float | None = None
    """Accuracy of guessing, for NO_SIGNAL; None means 0."""
    cluster: str | None = None
    """Field of the document that says what items share (a passage, a template); None: items are independent."""
    items: str | None = None
    """JSONL file with own items (`question`, `answer`), instead of an lm-eval task."""


class DecisionSpec(Noun):
    """How the pooled question of a suite is decided; see `Plan` for the meaning of each field."""

    margin: float
    alpha: float = 0.05
    design: Literal["fixed", "sequential"] = "fixed"
    estimand: Literal["population", "benchmark"] = "population"
    recovery: float | None = Field(default=None, gt=0, lt=1)
    """Share of the baseline's accuracy that must be kept (0.99), in place of the pooled margin; None: the margin."""
    psi_plan: float = Field(default=0.05, gt=0, le=1)
    """Expected share of items whose correctness differs between the arms: sets the stakes of the sequential design."""
    window: int = Field(default=512, ge=1)
    """Sequential design: items of a mode between two looks."""


class Sampling(Noun):
    """How tokens are chosen. Temperature 0 is greedy."""

    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    k: int = Field(default=1, ge=1)
    """Samples an item; seeds come from (item hash, repeat)."""


class DivergenceSpec(Noun):
    """How much of the baseline's answers every arm reads, to hold next-token distributions against each other."""

    tokens: int = Field(default=20_000, ge=0)
    """Tokens (prompts included) an arm and mode; 0 measures none."""
    top_k: int = Field(default=64, ge=1)
    """Tokens of the vocabulary kept one by one, likeliest first; all others are one bucket."""


class PublishSpec(Noun):
    """What may be published."""

    text: bool = True
    redact: tuple[str, ...] = ()
    """Tasks whose item texts stay out of pages and exports."""


class RunSpec(Noun):
    """A resolved suite: what one run measures, for one model."""

    name: str
    model: ModelRef
    arms: tuple[Arm, ...]
    baseline: str
    tasks: tuple[TaskSpec, ...]
    decision: DecisionSpec
    engine: str = "local"
    engine_options: dict[str, Any] = Field(default_factory=dict)
    datasets: dict[str, str] = Field(default_factory=dict)
    """Dataset id -> local folder."""
    sampling: dict[Mode, Sampling]
    chat: bool = True
    limit: int | None = None
    """At most this many items a task, the first of the seeded order."""
    limited: bool = False
    """True if `limit` came from the command line: the plan is then not the suite's own."""
    seed: int = 0
    """Seeds the order of items and everything drawn."""
    publish: PublishSpec = PublishSpec()
    divergence: DivergenceSpec = DivergenceSpec()

    def arm(self, arm_id: str) -> Arm:
        """The arm of that id; KeyError if there is none."""
        return {arm.id: arm for arm in self.arms}[arm_id]

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that any task has, direct first."""
        both: tuple[Mode, ...] = ("direct", "thinking")
        return tuple(mode for mode in both if any(mode in task.modes for task in self.tasks))

    @property
    def candidates(self) -> tuple[Arm, ...]:
        """The arms that are judged against the baseline, in suite order."""
        return tuple(arm for arm in self.arms if arm.id != self.baseline and not arm.noise_floor)

    @property
    def noise_arm(self) -> Arm | None:
        """The noise-floor arm, if the suite has one."""
        return next((arm for arm in self.arms if arm.noise_floor), None)


# ------------------------------------------------------------------------------------------------- the unit of work


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


# ---------------------------------------------------------------------------------------------------- what is stored

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
    execution: Literal["native", "native-unproven", "emulated"]
    """`native`: the arithmetic named by the recipe ran on hardware. `native-unproven`: a scaled kernel was called, but
    the profiler saw FP8 kernels for less than 95 % of the time of its matrix multiplications; treat it as `emulated`.
    `emulated`: true accuracy, no speed, no joules."""
    kernel: str
    """Which matrix multiplication ran, e.g. `linear-bf16`, `linear-fp32-accumulate-bf16`."""
    gemm_mode: Literal["none", "fast", "exact"]
    """Emulated arms: `fast` rounds dequantised operands to BF16, `exact` keeps them in FP32."""
    logits_dtype: str
    """Precision of the log-softmax used for scoring."""
    device: str
    threads: int
    """Threads a worker; bits depend on it."""
    modules: tuple[str, ...]
    """Names of the quantised modules."""
    params_quantised: float
    """Share of parameters that are quantised, 0 to 1."""
    macs_quantised: float
    """Share of the multiply-adds of a token's linear layers that run on quantised operands, 0 to 1."""
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
    "KERNEL_UNPROVEN": "FP8 kernels were called, but the profiler did not see them do the work: no speed, no energy.",
    "PROMPT_TRUNCATED": "Prompts longer than the model's context were cut from the left.",
    "DUPLICATE_ITEMS": "Items of equal content were dropped after the first.",
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


# ------------------------------------------------------------------------------------------------- what is concluded


class PairCounts(Noun):
    """The paired 2x2 table of binary items, baseline first: `n10` counts baseline right, candidate wrong."""

    n: int
    n11: int
    n10: int
    n01: int
    n00: int
    missing_base: int = 0
    """Items the baseline should have answered and did not (failed cell, NaN log-likelihood); includes `missing_both`"""
    missing_cand: int = 0
    missing_both: int = 0
    base_right_cand_missing: int | None = None
    """Of the items that only the candidate lacks: how many the baseline got right. None: unknown, taken at its worst"""
    cand_right_base_missing: int | None = None
    """Of the items that only the baseline lacks: how many the candidate got right."""
    unmeasured: int | None = None
    """Planned items that the run has not reached; None is unknown (then the plan's `n_planned` tells)."""
    unparsable_base: int = 0
    unparsable_cand: int = 0


class Subject(Noun):
    """What a decision is about."""

    model: str
    baseline: str
    candidate: str
    mode: Mode
    task: str | None = None
    """None for the pooled decision."""


class Decision(Noun):
    """One verdict: the only source of the sentence, the JSON, the exit code and the page."""

    subject: Subject
    plan: Plan
    counts: PairCounts
    verdict: Verdict
    reasons: tuple[str, ...]
    """Why, in words; the first is the sentence's reason. Codes in capitals where they are on a list (NO_DATA)."""
    flags: tuple[Literal["DEGRADED", "NO_SIGNAL", "UNDERPOWERED", "CEILING"], ...] = ()
    n: int
    accuracy_base: float | None
    accuracy_cand: float | None
    delta: float | None
    """Candidate minus baseline, as a fraction; negative is a loss. None without data."""
    psi: float | None
    """Share of items whose correctness differs."""
    ci: tuple[float, float]
    """90 % interval of delta (the two one-sided 5 % tests)."""
    ci_kind: str
    p_safe: float
    p_unsafe: float
    ln_e_safe: float | None = None
    ln_e_unsafe: float | None = None
    n_more_at_zero: float | None = None
    """Further items after which SAFE is expected if the true change is 0; None where it does not apply."""
    n_more_at_hat: float | None = None
    """The same if the true change is the one seen; None where it does not apply (a loss beyond the margin)."""
    mde_margin: float | None = None
    """Smallest margin that this many items could certify with the planned power, at the psi seen."""
    guarantee: Literal["finite-sample", "anytime", "asymptotic"] = "finite-sample"


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


class Flips(Noun):
    """Items on which two runs differ, between two runs of the baseline (`aa`) and from baseline to candidate (`ab`)."""

    aa: float
    """Share of items."""
    ab: float
    excess: float
    """`ab` - `aa`."""
    ci: tuple[float, float]
    """90 % interval of the excess (paired t)."""
    p: float
    """One-sided exact sign test of "the candidate flips no more than the baseline does by itself"."""


class Excess(Noun):
    """How much of the candidate's flipping is noise: the triple test."""

    n: int
    """Items that both runs of the baseline and the candidate answered."""
    correct: Flips
    answers: Flips | None
    """The same for the answer given; None where the samples do not hold it."""
    sentence: str
    """For people."""


class PositionBin(Noun):
    """Divergence of the tokens from `first` up to the next bin's first, counted from the beginning of the answer."""

    first: int
    n_tokens: int
    mean_kl: float
    same_top: float


class Divergence(Noun):
    """How far the candidate's next-token distributions are from the baseline's along the baseline's answers (nats)."""

    task: str | None
    """None for all tasks of the mode together."""
    n_sequences: int
    n_tokens: int
    mean_kl: float
    ci: tuple[float, float] | None
    """90 % interval of the mean, with answers as the unit; None where it cannot be had."""
    median_kl: float
    p99_kl: float
    p999_kl: float
    max_kl: float
    same_top: float
    """Share of tokens with the same likeliest token."""
    mean_dp: float
    """Mean change of the probability of the token that the baseline wrote."""
    rms_dp: float
    ppl_ratio: float
    """Perplexity of the baseline's answers under the candidate over that under the baseline."""
    noise_kl: float | None
    """Mean KL divergence of the noise-floor arm on the same tokens."""
    noise_ratio: float | None
    level: Literal["info", "warning", "alert"]
    """Heuristic; never part of a verdict."""
    bins: tuple[PositionBin, ...]


class Endpoint(Noun):
    """Something besides accuracy that may get worse. It warns; it changes no verdict."""

    name: Literal["unparsable", "truncated", "length ratio", "soft accuracy", "gold log-likelihood"]
    n: int
    base: float
    """Mean in the baseline: a share, tokens, or nats."""
    cand: float
    change: float
    """Candidate minus baseline; for the length ratio candidate over baseline (geometric mean)."""
    ci: tuple[float, float]
    """90 % interval of the change."""
    limit: tuple[float, float] | None
    """Range that the change may lie in."""
    p: float | None
    """Of "the change lies outside the range"."""
    state: Literal["held", "broken", "open", "shown"]
    """`held` and `broken` are shown at 5 %, `open` is neither, `shown` has no limit."""
    spread: float | None = None
    """Standard deviation over items, where it is of interest."""


class SuiteDecision(Noun):
    """The release decision for one model, candidate and mode: pooled, guards and certificates together."""

    verdict: Verdict
    reasons: tuple[str, ...]
    pooled: Decision
    tasks: tuple[Decision, ...]
    findings: tuple[Finding, ...] = ()
    noise: PairCounts | None = None
    """Baseline against baseline, all tasks of the mode; None without a noise floor."""
    noise_p: float | None = None
    """Two-sided exact McNemar p of the noise floor."""
    excess: Excess | None = None
    """Flips beyond the noise; None without a noise floor."""
    endpoints: tuple[Endpoint, ...] = ()
    divergence: tuple[Divergence, ...] = ()
    """All tasks together, then each; empty where it was not measured."""
    attempt: int = 1
    """Which run of the same question in this store this is."""
    sentence: str
    """The verdict for people, with its guarantee."""


class ArmSummary(Noun):
    """One arm in one mode on one task (or pooled): what a leaderboard row or a forest row shows."""

    arm: str
    task: str | None
    mode: Mode
    n: int
    n_correct: int
    n_unparsable: int
    n_truncated: int
    accuracy: float | None
    ci: tuple[float, float] | None
    """90 % Wilson interval."""
    mean_output_tokens: float | None


class Judgement(Noun):
    """Everything concluded from one run; what `publish` draws and `verdict` prints."""

    schema_version: int = SCHEMA
    run_id: str
    verdict: Verdict
    decisions: tuple[SuiteDecision, ...]
    arms: tuple[ArmSummary, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 SAFE, 10 UNSAFE, 11 INCONCLUSIVE, 12 INVALID."""
        return VERDICT_EXIT[self.verdict]


def worst(verdicts: list[Verdict]) -> Verdict:
    """The worst of several verdicts (INVALID, UNSAFE, INCONCLUSIVE, SAFE); INVALID where there is none."""
    return next((v for v in VERDICTS if v in verdicts), "INVALID")
