"""Native layers, with the FP32 product in the kernel's place: everything around the kernel is what hardware runs."""

import pytest
import torch
from test_precision_models import logits, qwen3, qwen3_moe, state

from evalsuite.errors import CannotRunError
from evalsuite.precision import RECIPES, apply
from evalsuite.precision.devices.reference import ReferenceDevice, reference_kernel
from evalsuite.precision.native import cannot_run, proof_of

ARMS = ["fp8-e4m3", "fp8-ue8m0", "fp8-ue8m0-requant", "fp8-e4m3-row", "fp8-e4m3-tensor", "mxfp8-rceil",
        "fp8-ue8m0-w128a32"]  # fmt: skip
REFERENCE = ReferenceDevice()


class Proven(ReferenceDevice):
    """A device whose profiler sees the kernels that it is given."""

    def __init__(self, **times: float) -> None:
        super().__init__()
        self.times = times

    def kernel_times(self, call):
        call()
        return self.times


@pytest.fixture(scope="module")
def model():
    return qwen3()


def native(model, recipe_id, device=None, **keywords):
    with apply(model, RECIPES[recipe_id], execution=device or REFERENCE, **keywords) as applied:
        return logits(model), applied


@pytest.mark.parametrize("recipe_id", ARMS)
def test_logits_on_the_reference_kernel_are_those_of_exact_emulation_bit_for_bit(model, recipe_id):
    with apply(model, RECIPES[recipe_id], gemm_mode="exact"):
        expected = logits(model)

    assert torch.equal(native(model, recipe_id)[0], expected)


@pytest.mark.parametrize("make", [lambda: qwen3(attention_bias=True, num_hidden_layers=1), qwen3_moe])
def test_biases_and_experts_run_natively_too(make):
    model = make()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    with apply(model, RECIPES["fp8-ue8m0"], gemm_mode="exact"):
        expected = logits(model)
    made, applied = native(model, "fp8-ue8m0")

    assert torch.equal(made, expected)
    assert tuple(applied.native.matrices) == applied.realised.modules


def test_sizes_that_are_no_multiple_of_the_block_are_padded():
    model = qwen3(hidden_size=192, intermediate_size=200, num_hidden_layers=1)
    with apply(model, RECIPES["fp8-e4m3"], gemm_mode="exact"):
        expected = logits(model)

    # Padding adds exact zeros, but another K is another order of summation.
    assert (native(model, "fp8-e4m3")[0].float() - expected.float()).abs().max() <= 0.01 * expected.abs().max()


def test_a_bias_that_the_kernel_does_not_add_is_added_outside():
    def no_bias(a, b, scheme, bias):
        if bias is not None:
            raise RuntimeError("bias is not supported")
        return reference_kernel(a, b, scheme, None)

    model = qwen3(attention_bias=True, num_hidden_layers=1)
    torch.nn.init.normal_(model.model.layers[0].self_attn.q_proj.bias)
    device = ReferenceDevice(no_bias)
    expected, made = native(model, "fp8-e4m3")[0], native(model, "fp8-e4m3", device)[0]

    assert [probe.bias for probe in device.probe().schemes] == [False] * 4
    assert not torch.equal(made, expected)
    assert (made.float() - expected.float()).abs().max() < 0.02 * expected.abs().max()


def test_the_model_is_restored_exactly(model):
    before, expected = state(model), logits(model)
    native(model, "fp8-e4m3")

    assert state(model) == before
    assert torch.equal(logits(model), expected)


def test_q_k_and_v_and_gate_and_up_share_their_quantised_input(model):
    class Counting(ReferenceDevice):
        calls = 0

        def quantize_act(self, x, quant, rows=1, columns=1):
            self.calls += 1
            return super().quantize_act(x, quant, rows, columns)

    device = Counting()
    with apply(model, RECIPES["fp8-ue8m0"], execution=device):
        before = device.calls
        logits(model)

    assert device.calls - before == 2 * 4  # qkv, o, gate and up, down in each of two layers


@pytest.mark.parametrize(
    ("times", "execution", "share"),
    [({"nvjet_qqtst_128x128_v_bz": 9.6, "nvjet_tst_64": 0.4, "triton_quantise": 5.0}, "native", 0.96),
     ({"nvjet_qqtst_128x128_v_bz": 9.4, "nvjet_tst_64": 0.6}, "native-unproven", 0.94),
     ({"nvjet_tst_64": 1.0}, "native-unproven", 0.0),
     ({"triton_quantise": 1.0}, "native-unproven", None)],
)  # fmt: skip
def test_an_arm_is_native_only_where_fp8_kernels_took_95_percent_of_the_gemm_time(model, times, execution, share):
    realised = native(model, "fp8-e4m3", Proven(**times))[1].realised

    assert realised.execution == execution
    assert realised.kernel_share == (None if share is None else pytest.approx(share))
    assert set(realised.kernels) == {name for name in times if "nvjet" in name}


@pytest.mark.parametrize("name", [
    "nvjet_qqtst_128x256_128x6_2x2_2cta_h_bz_Avec32UE8M0_Bvec32UE8M0_TNT", "sm90_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n",
    "void cutlass::device_kernel<GemmUniversal<float_e4m3_t>>", "Cijk_Alik_Bljk_F8BS_gemm_fp8",
])  # fmt: skip
def test_fp8_kernels_are_known_by_their_names(name):
    assert proof_of({name: 1.0}).native


@pytest.mark.parametrize("name", ["nvjet_tst_128x64", "sm90_xmma_gemm_bf16bf16_bf16f32", "ampere_sgemm_32x32",
                                  "aten::mm"])  # fmt: skip
def test_other_kernels_are_no_proof(name):
    assert proof_of({name: 1.0}).share == 0


def test_the_reference_kernel_never_counts_as_native(model):
    realised = native(model, "fp8-ue8m0")[1].realised

    assert realised.execution == "native-unproven"
    assert realised.kernel.startswith("reference_kernel ")
    assert realised.kernel_share == 0


def test_realised_says_how_scales_travelled(model):
    for recipe_id, storage in (("fp8-ue8m0", "fp32"), ("fp8-e4m3", "fp32"), ("mxfp8-rceil", "e8m0")):
        realised = native(model, recipe_id)[1].realised

        assert (realised.scale_storage, realised.gemm_mode, realised.recipe) == (storage, "none", recipe_id)


def test_auto_emulates_where_no_kernel_passes_its_probe_and_says_so(model):
    with apply(model, RECIPES["fp8-ue8m0"]):
        expected = logits(model)
    with apply(model, RECIPES["fp8-ue8m0"], execution="auto") as applied:
        assert torch.equal(logits(model), expected)
    assert (applied.realised.execution, applied.native) == ("emulated", None)


@pytest.mark.parametrize(("recipe_id", "why"), [
    ("fp8-e4m3", "multiply FP8 in software"), ("w8a16-e4m3", "no scaled kernel takes"),
    ("fp8-e4m3-kv8", "KV cache has no native kernel"),
])  # fmt: skip
def test_native_where_it_cannot_be_is_an_error_with_the_reason_and_what_to_do(model, recipe_id, why):
    before = state(model)
    with (
        pytest.raises(CannotRunError, match=f"{why}.*execution 'emulated'"),
        apply(model, RECIPES[recipe_id], execution="native"),
    ):
        pass

    assert state(model) == before


def test_static_scales_never_run_natively_since_devices_would_make_their_own():
    assert "none takes static ones" in (cannot_run(RECIPES["fp8-e4m3-tensor-static"], REFERENCE) or "")
    assert cannot_run(RECIPES["fp8-e4m3-tensor"], REFERENCE) is None


def test_native_layers_count_no_activations_and_the_same_emulated_ones_do(model):
    with apply(model, RECIPES["fp8-ue8m0"], execution=REFERENCE) as applied:
        logits(model)
        native_counts = applied.activity()
    with apply(model, RECIPES["fp8-ue8m0"]) as applied:
        logits(model)
        emulated = applied.activity()

    assert native_counts == {}
    assert set(emulated) == set(applied.realised.modules)


def test_a_kernel_that_fails_its_probe_is_not_used(model):
    device = ReferenceDevice(lambda a, b, scheme, bias: reference_kernel(a, b, scheme, bias) * 1.01)

    assert "dB from the FP32 product" in cannot_run(RECIPES["fp8-e4m3"], device)
    with pytest.raises(CannotRunError, match="dB from the FP32 product"):
        native(model, "fp8-e4m3", device)


def test_recipes_that_quantise_nothing_are_native_on_every_device(model):
    for execution in ("native", "auto"):
        with apply(model, RECIPES["bf16"], execution=execution) as applied:
            assert (applied.realised.execution, applied.native) == ("native", None)


def test_an_empty_input_stays_empty(model):
    with apply(model, RECIPES["fp8-e4m3"], execution=ReferenceDevice()):
        made = model.model.layers[0].mlp.up_proj(torch.ones(0, 256, dtype=torch.bfloat16))

    assert made.shape == (0, 640)


def test_another_number_of_tokens_gives_the_same_tokens(model):
    """Padding rows do not reach the result: one token alone, and among others."""
    with apply(model, RECIPES["fp8-e4m3"], execution=ReferenceDevice()):
        layer = model.model.layers[0].mlp.up_proj
        x = torch.randn(7, 256).bfloat16()
        for m in (1, 3, 4, 5):
            assert torch.allclose(layer(x[:m]).float(), layer(x)[:m].float(), rtol=2**-7, atol=1e-3)


def test_a_device_that_is_not_the_models_is_refused(model):
    class Elsewhere(ReferenceDevice):
        def torch_device(self):
            return torch.device("meta")

    with (
        pytest.raises(CannotRunError, match="the model is on cpu, and the device asked for is cpu"),
        apply(model, RECIPES["fp8-e4m3"], execution=Elsewhere()),
    ):
        pass
