"""What is asked: recipes, models, arms, tasks, and the resolved suite."""

from typing import Any, Literal

from pydantic import Field

from evalsuite.records.base import Mode, Noun


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


class Served(Noun):
    """What the server of an arm says it is; nobody looked. Another one is another arm, wherever it stands."""

    model: str
    """Name that it was asked for."""
    software: str | None = None
    """Who made it: `vllm`, `sglang`, ..."""
    version: str | None = None
    max_length: int | None = None
    """Longest context, in tokens."""


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
    served: Served | None = None
    """Engine endpoint: what its server said when the run began."""


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
