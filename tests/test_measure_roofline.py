"""Limits: the published figures of Qwen3-8B on H100 and H200, and what must hold for any model."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.measure import roofline
from evalsuite.measure.roofline import PEAKS, limit, limit_ratio, shape_of, step
from evalsuite.precision.recipes import RECIPES, recipe
from evalsuite.records import Workload

QWEN3_8B = SimpleNamespace(
    hidden_size=4096, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
    intermediate_size=12288, vocab_size=151936,
)  # fmt: skip
H100, H200 = PEAKS["NVIDIA H100 80GB HBM3"], PEAKS["NVIDIA H200"]


def decode(batch: int, depth: int) -> Workload:
    return Workload(preset="t", runner="static", phase="decode", batch=batch, input_tokens=depth, output_tokens=1,
                    depth=depth)  # fmt: skip


def test_the_dimensions_of_qwen3_8b_give_its_published_counts():
    shape = shape_of(QWEN3_8B)

    assert round(shape.linear / 1e9, 3) == 6.946
    assert round(shape.high / 1e9, 3) == 0.623  # output head 0.622, and the norms
    assert 2 * shape.kv_elements == 147_456  # bytes a token in BF16


@pytest.mark.parametrize(
    ("batch", "depth", "h100", "h200", "weights", "both"),
    [
        (1, 512, 220, 316, 1.84, 1.85), (8, 4300, 1326, 1900, 1.52, 1.88), (64, 1000, 8725, 12501, 1.39, 1.90),
        (64, 5000, 3440, 4929, 1.125, 1.96), (256, 1000, 16216, 23235, 1.15, 1.95),
        (256, 5000, 4206, 6027, 1.035, 1.99),
    ],
)  # fmt: skip
def test_the_limits_of_qwen3_8b_are_the_published_ones(batch, depth, h100, h200, weights, both):
    shape, point = shape_of(QWEN3_8B), decode(batch, depth)
    bf16 = recipe("bf16")

    for peaks, expected in ((H100, h100), (H200, h200)):
        line = limit(step(shape, bf16, point), bf16, peaks, "table")
        assert line is not None
        assert line.limit_tokens_per_s == pytest.approx(expected, abs=0.5)
        assert line.bound == "memory"
        assert limit_ratio(shape, recipe("fp8-e4m3"), bf16, point, peaks) == pytest.approx(weights, abs=0.005)
        assert limit_ratio(shape, recipe("fp8-e4m3-kv8"), bf16, point, peaks) == pytest.approx(both, abs=0.006)


def test_prefill_of_long_prompts_is_bound_by_arithmetic_and_fp8_gains_at_most_twice():
    shape = shape_of(QWEN3_8B)
    point = Workload(preset="t", runner="static", phase="prefill", batch=8, input_tokens=2048, output_tokens=0)
    line = limit(step(shape, recipe("bf16"), point), recipe("bf16"), H200, "table")

    assert line is not None
    assert line.bound == "compute"
    assert 1.8 < limit_ratio(shape, recipe("fp8-ue8m0"), recipe("bf16"), point, H200) < 2.0


def test_scales_count_ue8m0_a_quarter_of_fp32():
    shape = shape_of(QWEN3_8B)
    fp32, ue8m0 = (roofline.scale_bytes(shape, RECIPES[name].weights) for name in ("fp8-e4m3", "fp8-ue8m0"))

    assert fp32 == 4 * ue8m0 == 4 * shape.linear / 128**2
    assert roofline.scale_bytes(shape, RECIPES["fp8-e4m3-tensor"].weights) == 4 * 7 * 36


def test_weight_only_recipes_multiply_at_the_16_bit_peak():
    assert roofline.format_of(recipe("w8a16-e4m3")) == "bf16"
    assert roofline.format_of(recipe("fp8-e4m3")) == "fp8"
    assert roofline.format_of(recipe("int8-row")) == "int8"
    assert roofline.format_of(recipe("fp32")) == "fp32"


def test_a_device_whose_peaks_lack_the_format_has_no_limit_rather_than_a_wrong_one():
    shape = shape_of(QWEN3_8B)
    a100 = PEAKS["NVIDIA A100-SXM4-80GB"]

    assert limit(step(shape, recipe("fp8-e4m3"), decode(1, 9)), recipe("fp8-e4m3"), a100, "table") is None
    assert limit_ratio(shape, recipe("fp8-e4m3"), recipe("bf16"), decode(1, 9), a100) is None


def test_what_was_reached_joins_the_limit():
    shape, bf16, point = shape_of(QWEN3_8B), recipe("bf16"), decode(64, 1000)
    made = step(shape, bf16, point)
    line = limit(made, bf16, H200, "table")
    half = roofline.with_speed(line, made, bf16, H200, line.limit_tokens_per_s / 2)

    assert half.fraction == pytest.approx(0.5)
    assert half.mbu == pytest.approx(0.5)  # bound by memory: the limit is where all bandwidth is used
    assert 0 < half.mfu < half.mbu


@given(batch=st.integers(1, 512), depth=st.integers(1, 20_000))
def test_no_recipe_raises_the_limit_above_what_halving_every_byte_and_operation_would(batch: int, depth: int):
    shape, point = shape_of(QWEN3_8B), decode(batch, depth)

    assert 1.0 <= limit_ratio(shape, recipe("fp8-ue8m0-kv8"), recipe("bf16"), point, H200) <= 2.0


def test_mixtures_of_experts_have_no_limit_by_this_arithmetic():
    assert roofline.is_dense(QWEN3_8B)
    assert not roofline.is_dense(SimpleNamespace(**vars(QWEN3_8B), num_experts=8))
    assert not roofline.is_dense(SimpleNamespace(hidden_size=1))
