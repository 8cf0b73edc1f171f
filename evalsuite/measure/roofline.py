"""The physical limit of a decode step or a prefill, from a model's dimensions and a device's peaks.

    weights read    W = elements of quantised linears x their bytes + 16-bit rest x 2 + scales   (embedding excluded)
    cache read      K = rows x depth x 2 x layers x kv heads x head size x bytes
    t_memory = (W + K) / bandwidth        t_compute = 2 x elements x rows / peak of the format + attention
    limit = rows / max(t_memory, t_compute)

A limit is arithmetic, not a measurement; `fraction`, `mbu` and `mfu` join it with one. The ratio of two limits is
printed beside every ratio: with BF16 keys and values, FP8 weights make Qwen3-8B at batch 64 and depth 5,000 at most
1.125 times as fast where both arms run at their limit.
"""

import math
from dataclasses import dataclass
from typing import Any

from evalsuite.records import Peaks, Quant, Recipe, Roofline, Workload

ELEMENT_BYTES = {"e4m3": 1.0, "e5m2": 1.0, "e4m3fnuz": 1.0, "hif8": 1.0, "int8": 1.0, "e2m1": 0.5, "e2m3": 0.75,
                 "e3m2": 0.75}  # fmt: skip
SCALE_BYTES = {"fp32": 4.0, "ue8m0": 1.0, "e4m3": 1.0, "unit": 0.0}
PEAKS: dict[str, Peaks] = {
    peaks.device: peaks
    for peaks in (
        Peaks(device="NVIDIA H100 80GB HBM3", flops={"bf16": 989e12, "fp8": 1979e12, "int8": 1979e12, "fp32": 67e12},
              bytes_per_s=3.35e12, source="NVIDIA H100 data sheet, SXM, dense"),
        Peaks(device="NVIDIA H100 PCIe", flops={"bf16": 756e12, "fp8": 1513e12, "int8": 1513e12, "fp32": 51e12},
              bytes_per_s=2.0e12, source="NVIDIA H100 data sheet, PCIe, dense"),
        Peaks(device="NVIDIA H200", flops={"bf16": 989e12, "fp8": 1979e12, "int8": 1979e12, "fp32": 67e12},
              bytes_per_s=4.8e12, source="NVIDIA H200 data sheet, SXM, dense"),
        Peaks(device="NVIDIA A100-SXM4-80GB", flops={"bf16": 312e12, "int8": 624e12, "fp32": 19.5e12},
              bytes_per_s=2.039e12, source="NVIDIA A100 data sheet, SXM 80 GB, dense"),
    )
}  # fmt: skip
"""Product name as the driver gives it -> what its data sheet promises."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of a decoder that bytes and operations follow from."""

    linear: int
    """Parameters of linear layers that a recipe may quantise and that one token uses."""
    high: int
    """Parameters that stay 16 bits wide and are read at each step: output head, norms, routers."""
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    matrices: tuple[tuple[int, int, int], ...] = ()
    """(rows, columns, how many) of the linears, to count scales."""

    @property
    def kv_elements(self) -> int:
        """Elements of the cache a token."""
        return 2 * self.layers * self.kv_heads * self.head_dim


def shape_of(config: Any) -> Shape:
    """Dimensions of a dense Llama- or Qwen-type configuration (any object with transformers' names).

    Raises:
        AttributeError: the configuration has other names.
    """
    hidden, layers, heads = config.hidden_size, config.num_hidden_layers, config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", None) or heads
    d = getattr(config, "head_dim", None) or hidden // heads
    inner = config.intermediate_size
    matrices = ((heads * d, hidden, layers), (kv * d, hidden, 2 * layers), (hidden, heads * d, layers),
                (inner, hidden, 2 * layers), (hidden, inner, layers))  # fmt: skip
    linear = sum(m * k * n for m, k, n in matrices)
    return Shape(linear, config.vocab_size * hidden + (2 * layers + 1) * hidden, layers, heads, kv, d, matrices)


def is_dense(config: Any) -> bool:
    """Whether `shape_of` may be used: no experts, and the names it needs."""
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    experts = any(getattr(config, name, None) for name in ("num_experts", "n_routed_experts", "num_local_experts"))
    return not experts and all(getattr(config, name, None) for name in needed)


def scale_bytes(shape: Shape, quant: Quant) -> float:
    """Bytes of the scales of all quantised weights."""
    total = 0.0
    for rows, columns, count in shape.matrices:
        a, b = (size if block == -1 else block for size, block in zip((rows, columns), quant.block, strict=True))
        total += count * math.ceil(rows / a) * math.ceil(columns / b) * SCALE_BYTES[quant.scale]
    return total


def weight_bytes(shape: Shape, recipe: Recipe) -> float:
    """Bytes of all weights that a decode step reads, as the recipe stores them."""
    if recipe.weights is None:
        return (shape.linear + shape.high) * (4.0 if recipe.compute == "fp32" else 2.0)
    return shape.linear * ELEMENT_BYTES[recipe.weights.element] + shape.high * 2.0 + scale_bytes(shape, recipe.weights)


def kv_bytes(shape: Shape, recipe: Recipe) -> float:
    """Bytes of keys and values a token."""
    element = 4.0 if recipe.compute == "fp32" else 2.0
    if recipe.kv_cache is not None:
        element = ELEMENT_BYTES[recipe.kv_cache.element]
    return shape.kv_elements * element


def format_of(recipe: Recipe) -> str:
    """The peak that the recipe's products run at: both operands must be quantised for one below 16 bits."""
    if recipe.activations is None or recipe.weights is None:
        return "fp32" if recipe.compute == "fp32" else "bf16"
    return {"int8": "int8"}.get(recipe.weights.element, "fp8")


@dataclass(frozen=True, slots=True)
class Step:
    """Bytes and operations of one decode step, or of one prefill."""

    bytes: float
    flops: float
    """Of the linears, and..."""
    flops_high: float
    """...of what runs at the 16-bit (or FP32) peak: the output head and attention."""
    tokens: int


def step(shape: Shape, recipe: Recipe, workload: Workload) -> Step:
    """What one step of a workload moves and computes."""
    rows, depth = workload.batch, workload.depth or 0
    if workload.phase == "prefill":
        n = workload.input_tokens
        attention = 2.0 * shape.layers * shape.heads * shape.head_dim * n * n * rows  # causal: half of 4 n^2
        return Step(weight_bytes(shape, recipe) + rows * n * kv_bytes(shape, recipe), 2.0 * shape.linear * rows * n,
                    2.0 * shape.high * rows + attention, rows * n)  # fmt: skip
    mean = depth + (workload.output_tokens - 1) / 2 if workload.phase == "decode" else workload.input_tokens
    cache = rows * mean * kv_bytes(shape, recipe)
    attention = 4.0 * shape.layers * shape.heads * shape.head_dim * mean * rows
    return Step(weight_bytes(shape, recipe) + cache, 2.0 * shape.linear * rows,
                2.0 * shape.high * rows + attention, rows)  # fmt: skip


def limit(made: Step, recipe: Recipe, peaks: Peaks, source: str) -> Roofline | None:
    """The limit of a step on a device; None where the device's peaks do not name what it needs."""
    fast, high = peaks.flops.get(format_of(recipe)), peaks.flops.get("fp32" if recipe.compute == "fp32" else "bf16")
    if not fast or not high or not peaks.bytes_per_s:
        return None
    memory, compute = made.bytes / peaks.bytes_per_s, made.flops / fast + made.flops_high / high
    return Roofline(
        peaks="measured" if source == "measured" else "table",
        limit_tokens_per_s=made.tokens / max(memory, compute), bound="memory" if memory >= compute else "compute",
        bytes_per_step=made.bytes, flops_per_step=made.flops + made.flops_high,
    )  # fmt: skip


def with_speed(line: Roofline, made: Step, recipe: Recipe, peaks: Peaks, tokens_per_s: float) -> Roofline:
    """The limit with what was reached of it."""
    seconds = made.tokens / tokens_per_s
    peak, bandwidth = peaks.flops[format_of(recipe)], peaks.bytes_per_s or math.inf
    return line.model_copy(update={
        "fraction": tokens_per_s / line.limit_tokens_per_s, "mbu": made.bytes / (seconds * bandwidth),
        "mfu": line.flops_per_step / (seconds * peak),
    })  # fmt: skip


def limit_ratio(shape: Shape, arm: Recipe, baseline: Recipe, workload: Workload, peaks: Peaks) -> float | None:
    """The arm's limit in units of the baseline's."""
    lines = [limit(step(shape, recipe, workload), recipe, peaks, "table") for recipe in (arm, baseline)]
    if lines[0] is None or lines[1] is None:
        return None
    return lines[0].limit_tokens_per_s / lines[1].limit_tokens_per_s

