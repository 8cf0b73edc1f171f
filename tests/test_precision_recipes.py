import subprocess
import sys

import pytest
import torch
from test_precision_models import constant_of

from evalsuite.errors import UsageError
from evalsuite.precision import formats
from evalsuite.precision.fake import FakeQuant
from evalsuite.precision.recipes import RECIPES, recipe
from evalsuite.precision.scales import RULES


def differing(a, b):
    """Names of the fields in which two nouns differ."""
    return {name for name in type(a).model_fields if getattr(a, name) != getattr(b, name)}


def test_the_two_default_fp8_recipes_differ_in_nothing_but_the_scale():
    fp32, ue8m0 = RECIPES["fp8-e4m3"], RECIPES["fp8-ue8m0"]

    assert differing(fp32, ue8m0) == {"id", "label", "weights", "activations"}
    assert differing(fp32.weights, ue8m0.weights) == {"scale", "rounding"}
    assert differing(fp32.activations, ue8m0.activations) == {"scale", "rounding"}


def test_the_two_reference_recipes_quantise_nothing():
    for key, compute in (("bf16", "bf16"), ("fp32", "fp32")):
        assert RECIPES[key].compute == compute
        assert RECIPES[key].weights is None
        assert RECIPES[key].activations is None


def test_deepseek_blocks_are_what_the_names_say():
    for key in ("fp8-e4m3", "fp8-ue8m0"):
        assert RECIPES[key].weights.block == (128, 128)
        assert RECIPES[key].activations.block == (1, 128)
        assert RECIPES[key].weights.element == RECIPES[key].activations.element == "e4m3"
        assert RECIPES[key].weights.amax_floor == 1e-4
    assert RECIPES["fp8-ue8m0"].weights.rounding == RECIPES["fp8-ue8m0"].activations.rounding == "ceil"
    assert RECIPES["fp8-e4m3"].weights.scale == RECIPES["fp8-e4m3"].activations.scale == "fp32"


@pytest.mark.parametrize("key", RECIPES)
def test_a_recipe_answers_to_its_id_and_survives_json(key):
    one = recipe(key)

    assert one.id == key
    assert type(one).model_validate_json(one.model_dump_json()) == one


def test_every_variant_of_the_specification_is_there():
    assert list(RECIPES) == [
        "bf16", "fp32", "fp8-e4m3", "fp8-ue8m0", "fp8-e4m3-row", "fp8-e4m3-tensor", "fp8-e4m3-tensor-static",
        "mxfp8-rceil", "mxfp8-floor", "mxfp8-even", "fp8-ue8m0-w128a32", "fp8-ue8m0-requant", "w8a16-e4m3",
        "w8a16-ue8m0", "w8a16-int8", "bf16-kv8", "fp8-e4m3-kv8", "fp8-ue8m0-kv8", "fp8-e5m2", "int8-row", "hif8",
        "mxfp4", "nvfp4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "base", "fields"),
    [
        ("fp8-ue8m0-w128a32", "fp8-ue8m0", {"activations"}),
        ("fp8-ue8m0-requant", "fp8-ue8m0", {"weights_via"}),
        ("w8a16-e4m3", "fp8-e4m3", {"activations"}),
        ("w8a16-ue8m0", "fp8-ue8m0", {"activations"}),
        ("w8a16-int8", "int8-row", {"activations"}),
        ("bf16-kv8", "bf16", {"kv_cache"}),
        ("fp8-e4m3-kv8", "fp8-e4m3", {"kv_cache"}),
        ("fp8-ue8m0-kv8", "fp8-ue8m0", {"kv_cache"}),
        ("fp8-e4m3-row", "fp8-e4m3", {"weights", "activations"}),
        ("fp8-e4m3-tensor-static", "fp8-e4m3-tensor", {"activations"}),
        ("mxfp8-floor", "mxfp8-rceil", {"weights", "activations"}),
        ("mxfp8-even", "mxfp8-rceil", {"weights", "activations"}),
    ],
)
def test_a_variant_differs_from_its_base_in_what_its_name_says(variant, base, fields):
    assert differing(RECIPES[variant], RECIPES[base]) == fields | {"id", "label"}


def test_mx_variants_differ_in_the_rounding_alone():
    for variant in ("mxfp8-floor", "mxfp8-even"):
        assert differing(RECIPES[variant].weights, RECIPES["mxfp8-rceil"].weights) == {"rounding"}


@pytest.mark.parametrize("key", [key for key in RECIPES if RECIPES[key].activations])
def test_activations_of_every_recipe_are_codes_times_scales(key):
    quant = RECIPES[key].activations
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 352, generator=generator) * torch.exp2(torch.randint(-12, 9, (2, 9, 1), generator=generator))
    x = x.bfloat16()
    constant = constant_of(quant, x)
    expected = formats.dequantize(formats.quantize_as(x, quant, constant))

    assert torch.equal(FakeQuant(quant, x.device, constant)(x).view(torch.int32), expected.view(torch.int32))


@pytest.mark.parametrize("key", [key for key in RECIPES if RECIPES[key].activations])
def test_only_recipes_with_a_scale_for_the_whole_tensor_depend_on_the_batch(key):
    x = torch.randn(8, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    fake = FakeQuant(RECIPES[key].activations, torch.device("cpu"), constant_of(RECIPES[key].activations, x))
    alone, beside = fake(x[:1]), fake(torch.cat([x[:1], 37 * x[1:]]))[:1]

    assert torch.equal(alone, beside) == (key not in ("fp8-e4m3-tensor", "nvfp4"))


@pytest.mark.parametrize("part", ["weights", "activations"])
def test_the_two_default_recipes_give_the_same_codes_wherever_their_scales_coincide(part):
    fp32, ue8m0 = getattr(RECIPES["fp8-e4m3"], part), getattr(RECIPES["fp8-ue8m0"], part)
    x = torch.randn(256, 1024, generator=torch.Generator().manual_seed(0))
    x[::128, ::128] = 448 * 2.0**-6  # the largest element of every block: amax / 448 is a power of two
    x[1:128, ::128] = 448 * 2.0**-6
    x[128, 0] *= 1.5  # but in one block of weights, and in one of activations
    a, b = formats.quantize_as(x.bfloat16(), fp32), formats.quantize_as(x.bfloat16(), ue8m0)
    same = a.scales == b.scales
    rows, columns = fp32.block
    inside = same.repeat_interleave(rows, 0).repeat_interleave(columns, 1)

    assert same.any()
    assert not same.all()
    assert torch.equal(a.codes[inside], b.codes[inside])
    assert not torch.equal(a.codes, b.codes)


@pytest.mark.parametrize("key", ["mxfp8-rceil", "int8-row", "fp8-e4m3-tensor-static"])
def test_any_recipe_runs_with_an_fp8_cache(key):
    assert differing(recipe(f"{key}-kv8"), RECIPES[key]) == {"id", "label", "kv_cache"}


@pytest.mark.parametrize("key", ["fp32-kv8", "bf16-kv8-kv8", "fp9-kv8"])
def test_a_cache_on_a_recipe_that_is_none_is_refused(key):
    with pytest.raises(UsageError, match=f"Unknown recipe '{key}'"):
        recipe(key)


def test_static_scales_differ_from_dynamic_ones_in_being_static():
    assert differing(RECIPES["fp8-e4m3-tensor-static"].activations, RECIPES["fp8-e4m3-tensor"].activations) == {
        "static"
    }


def test_labels_are_unique():
    assert len({one.label for one in RECIPES.values()}) == len(RECIPES)


@pytest.mark.parametrize("key", RECIPES)
def test_only_fp32_scales_have_no_rounding(key):
    for quant in (RECIPES[key].weights, RECIPES[key].activations, RECIPES[key].kv_cache):
        if quant is not None:
            assert quant.rounding in RULES
            assert (quant.rounding == "none") == (quant.scale != "ue8m0")


def test_an_unknown_recipe_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match="Did you mean 'fp8-ue8m0'"):
        recipe("fp8-ue8mo")


def test_the_table_is_read_without_torch():
    code = "import sys; from evalsuite.precision import RECIPES; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_offers_exactly_its_stable_names():
    from evalsuite import precision

    assert precision.__all__ == ["RECIPES", "apply", "formats"]
    assert all(hasattr(precision, name) for name in precision.__all__)
    assert not hasattr(precision, "quantise")
