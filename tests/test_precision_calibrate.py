import pytest
import torch
from test_precision_models import IDS, deepseek_v3, logits, qwen3, refused, runnable, state
from torch import nn
from torch.nn import functional as F

from evalsuite.errors import CannotRunError, UsageError
from evalsuite.precision import RECIPES, apply
from evalsuite.precision.calibrate import Texts, calibrate

KEY = "fp8-e4m3-tensor-static"
STATIC = RECIPES[KEY]
TEXTS = Texts("mine.txt", "ab" * 32, IDS.tolist())


@pytest.fixture(scope="module")
def model():
    return qwen3()


def test_amax_is_the_largest_input_that_hooks_on_the_bf16_arm_see(model):
    seen = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: seen.__setitem__(name, max(seen.get(name, 0.0), float(args[0].abs().max())))
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    ]
    with apply(model, RECIPES["bf16"]):
        for row in IDS:
            logits(model, row[None])
    for hook in hooks:
        hook.remove()

    assert calibrate(model, STATIC, TEXTS).amax == seen


def test_a_calibration_says_what_it_was_made_of_and_leaves_the_model_alone(model):
    before = state(model)
    made = calibrate(model, STATIC, TEXTS)

    assert (made.source, made.texts_sha256, made.n_texts, made.n_tokens) == ("mine.txt", "ab" * 32, 2, 48)
    assert state(model) == before


def test_experts_of_a_projection_share_a_number_and_every_quantised_layer_has_one():
    model = deepseek_v3()
    made = calibrate(model, STATIC, TEXTS)
    with apply(model, STATIC.model_copy(update={"calibration": made})) as applied:
        logits(model)
        counts = applied.activity()

    assert set(made.amax) == set(counts) == set(applied.realised.modules)
    assert applied.realised.calibration == made


def test_a_static_scale_is_a_constant_that_clips_what_exceeds_it(model):
    recipe = runnable(KEY, model)
    name = "model.layers.0.mlp.down_proj"
    linear, amax = model.get_submodule(name), recipe.calibration.amax[name]
    x = (torch.rand(5, 640, generator=torch.Generator().manual_seed(0)) * amax).bfloat16().clamp(max=amax)
    x[0, 0], x[1, 0] = 4 * amax, torch.nan
    scale = torch.tensor(amax) / 448
    a = (x.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale
    with torch.no_grad(), apply(model, recipe, gemm_mode="exact") as applied:
        alone, together = linear(x[:1]), linear(x)
        counts = applied.activity()[name]
    expected = F.linear(a[[0, 2, 3, 4]], applied.operands[name]).bfloat16()

    assert torch.equal(together[[0, 2, 3, 4]], expected)
    assert together[1].isnan().all()
    assert torch.equal(alone, together[:1])  # not a matter of what shares the batch
    assert counts == {"blocks": 6, "nonfinite_blocks": 1, "clipped_blocks": 2}


def test_a_static_recipe_without_calibration_is_refused_and_the_model_untouched(model):
    before = state(model)
    refused(model, KEY, "calibration is missing.*calibration: FILE")

    assert state(model) == before


def test_a_calibration_that_lacks_a_layer_is_refused(model):
    whole = runnable(KEY, model)
    amax = dict(list(whole.calibration.amax.items())[:-1])
    part = whole.model_copy(update={"calibration": whole.calibration.model_copy(update={"amax": amax})})
    with pytest.raises(CannotRunError, match="no number for model.layers.1.mlp.down_proj"), apply(model, part):
        pass


def test_a_calibration_on_a_dynamic_recipe_is_refused(model):
    made = RECIPES["fp8-e4m3"].model_copy(update={"calibration": calibrate(model, STATIC, TEXTS)})
    with pytest.raises(UsageError, match="changes nothing"), apply(model, made):
        pass


def test_no_texts_and_texts_that_overflow_are_refused(model):
    with pytest.raises(CannotRunError, match="no calibration texts"):
        calibrate(model, STATIC, Texts("empty.txt", "", [[]]))
    broken = qwen3(num_hidden_layers=1)
    with torch.no_grad():
        broken.model.layers[0].mlp.up_proj.weight.fill_(3e38)
    with pytest.raises(CannotRunError, match=r"mine\.txt: the input of .*down_proj holds NaN or Inf"):
        calibrate(broken, STATIC, TEXTS)


def test_calibrating_inside_another_arm_is_refused(model):
    with apply(model, RECIPES["fp8-ue8m0"]), pytest.raises(CannotRunError, match="already replaced"):
        calibrate(model, STATIC, TEXTS)
