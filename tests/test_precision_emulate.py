import pytest
import torch
from test_precision_models import IDS, KERNELS, PROJECTIONS, logits, qwen3, refused, runnable, state

from evalsuite.errors import CannotRunError, UsageError
from evalsuite.precision import RECIPES, apply, formats
from evalsuite.precision.emulate import best_kernel, refuse_nonfinite


@pytest.fixture(scope="module")
def model():
    return qwen3()


@pytest.mark.parametrize("key", RECIPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_model_is_restored_exactly(model, key, kernel):
    before, expected = state(model), logits(model)
    with apply(model, runnable(key, model), kernel=kernel):
        logits(model)

    assert state(model) == before
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("key", ["bf16", "fp32", "fp8-ue8m0"])
def test_the_model_is_restored_after_an_exception(model, key):
    def fail():
        with apply(model, RECIPES[key]):
            logits(model)
            raise ZeroDivisionError

    before, expected = state(model), logits(model)
    with pytest.raises(ZeroDivisionError):
        fail()

    assert state(model) == before
    assert torch.equal(logits(model), expected)


def test_the_model_is_untouched_when_a_weight_holds_nan():
    model = qwen3(num_hidden_layers=1)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[3, 200] = torch.nan
    before = state(model)
    refused(model, "fp8-e4m3", r"layers\.0\.mlp\.down_proj: 1 blocks")

    assert state(model) == before


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_with_nan_or_inf_are_refused_by_name_before_any_arm_runs(bad):
    model = qwen3(num_hidden_layers=1)
    refuse_nonfinite(model)
    with torch.no_grad():
        model.model.norm.weight[3] = bad
    with pytest.raises(CannotRunError, match=r"model\.norm\.weight: NaN or Inf in the weights"):
        refuse_nonfinite(model)


def test_leaving_one_recipe_and_entering_the_next_gives_the_same_logits_as_entering_it_first(model):
    with apply(model, RECIPES["fp8-ue8m0"]):
        first = logits(model)
    with apply(model, RECIPES["fp8-e4m3"]):
        logits(model)
    with apply(model, RECIPES["fp8-ue8m0"]):
        again = logits(model)

    assert torch.equal(first, again)


def test_realised_says_what_ran(model):
    for key, execution, gemm_mode in (("bf16", "native", "none"), ("fp8-ue8m0", "emulated", "fast")):
        with apply(model, RECIPES[key]) as applied:
            realised = applied.realised

        assert realised.recipe == key
        assert (realised.execution, realised.gemm_mode) == (execution, gemm_mode)
        assert realised.kernel == best_kernel(torch.device("cpu"))
        assert (realised.device, realised.threads) == ("cpu", torch.get_num_threads())
    with apply(model, RECIPES["fp32"]) as applied:
        assert (applied.realised.kernel, applied.realised.logits_dtype) == ("linear-fp32", "float32")
        assert (applied.realised.params_quantised, applied.realised.modules) == (0.0, ())
    with apply(model, RECIPES["fp8-e4m3"], gemm_mode="exact", kernel="linear-bf16") as applied:
        assert applied.realised.kernel == "linear-bf16+linear-fp32-accumulate-bf16"


def test_counts_are_totals_over_the_weights(model):
    weights = [model.get_submodule(f"model.layers.{i}.{name}").weight for i in range(2) for name in PROJECTIONS]
    expected = [formats.quantize(w, block=(128, 128)).counts for w in weights]
    with apply(model, RECIPES["fp8-ue8m0"]) as applied:
        pass

    assert applied.realised.counts == {key: sum(c[key] for c in expected) for key in expected[0]}
    assert list(applied.counts.values()) == expected


def test_a_second_recipe_on_top_of_the_first_is_refused(model):
    before = state(model)
    with apply(model, RECIPES["fp8-ue8m0"]):
        inside = logits(model)
        with pytest.raises(CannotRunError, match="already replaced"), apply(model, RECIPES["fp8-e4m3"]):
            pass
        assert torch.equal(logits(model), inside)

    assert state(model) == before


def test_native_execution_of_a_quantised_recipe_is_refused(model):
    refused(model, "fp8-ue8m0", "does not run natively", execution="native")
    with apply(model, RECIPES["bf16"], execution="native") as applied:
        assert applied.realised.execution == "native"


@pytest.mark.parametrize("keywords", [{"execution": "emulate"}, {"gemm_mode": "quick"}, {"kernel": "linear-fp16"}])
def test_an_unknown_word_is_refused(model, keywords):
    with pytest.raises(UsageError, match="Known:"), apply(model, RECIPES["bf16"], **keywords):
        pass


def test_input_of_another_dtype_is_refused(model):
    with apply(model, RECIPES["fp8-ue8m0"]), pytest.raises(CannotRunError, match=r"got torch\.float32"):
        model.model.layers[0].mlp.up_proj(torch.ones(1, 256))


def test_inference_mode_gives_the_logits_of_no_grad(model):
    with apply(model, RECIPES["fp8-ue8m0"]):
        expected = logits(model)
        with torch.inference_mode():
            actual = model(IDS).logits.clone()

    assert torch.equal(actual, expected)
