"""Quantised checkpoints in every dialect, and with every fault that can be planted in one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evalsuite.errors import CannotRunError
from evalsuite.precision import RECIPES, formats
from evalsuite.precision.checkpoints import is_quantized, read
from evalsuite.precision.dialects import METHODS, declared
from evalsuite.precision.scales import encode_ue8m0
from evalsuite.records import FINDINGS

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True}


def compressed(weights: dict[str, Any], inputs: dict[str, Any] | None, form: str = "float-quantized") -> dict[str, Any]:
    group = {
        "targets": ["Linear"], "weights": {**FLOAT8, "dynamic": False, **weights},
        "input_activations": None if inputs is None else {**FLOAT8, "dynamic": True, **inputs},
    }  # fmt: skip
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group},
            "ignore": ["lm_head"], "quantization_status": "compressed"}  # fmt: skip


CHANNEL, TOKEN, WHOLE = {"strategy": "channel"}, {"strategy": "token"}, {"strategy": "tensor"}
BLOCKS, GROUPS = {"strategy": "block", "block_structure": [128, 128]}, {"strategy": "group", "group_size": 128}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}
# configuration, name of the scales, scale format, block, label
DIALECTS: dict[str, tuple[dict[str, Any], str, str, tuple[int, int], str]] = {
    "deepseek-v3": (FP8, "weight_scale_inv", "fp32", (128, 128), "fp8-e4m3"),
    "deepseek-v3.1": ({**FP8, "scale_fmt": "ue8m0"}, "weight_scale_inv", "ue8m0", (128, 128), "fp8-ue8m0"),
    "qwen3": ({**FP8, "modules_to_not_convert": ["lm_head"]}, "weight_scale_inv", "fp32", (128, 128), "fp8-e4m3"),
    "fp8-tensor": ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "weight_scale", "fp32", (-1, -1),
                   "fp8-e4m3-tensor"),
    "ct-channel": (compressed(CHANNEL, TOKEN), "weight_scale", "fp32", (1, -1), "fp8-e4m3-row"),
    "ct-naive": (compressed(CHANNEL, TOKEN, "naive-quantized"), "weight_scale", "fp32", (1, -1), "fp8-e4m3-row"),
    "ct-block": (compressed(BLOCKS, GROUPS), "weight_scale", "fp32", (128, 128), "fp8-e4m3"),
    "ct-block-w8a16": (compressed(BLOCKS, None), "weight_scale", "fp32", (128, 128), "w8a16-e4m3"),
    "ct-tensor": (compressed(WHOLE, WHOLE), "weight_scale", "fp32", (-1, -1), "fp8-e4m3-tensor"),
    "ct-static": (compressed(WHOLE, {**WHOLE, "dynamic": False}), "weight_scale", "fp32", (-1, -1),
                  "fp8-e4m3-tensor-static"),
    "ct-mxfp8": (compressed({**GROUPS, "group_size": 32}, {**GROUPS, "group_size": 32}, "mxfp8-quantized"),
                 "weight_scale", "ue8m0", (1, 32), "mxfp8-rceil"),
    "modelopt-fp8": (MODELOPT, "weight_scale", "fp32", (-1, -1), "fp8-e4m3-tensor-static"),
    "modelopt-row": ({**MODELOPT, "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, "weight_scale", "fp32", (1, -1),
                     "fp8-e4m3-row"),
    "modelopt-block": ({**MODELOPT, "quant_algo": "fp8_pb_wo"}, "weight_scale", "fp32", (128, 128), "w8a16-e4m3"),
}  # fmt: skip
WEIGHT = "model.layers.1.mlp.down_proj.weight"
SCALE = "model.layers.1.mlp.down_proj.weight_scale_inv"


def shaped(name: str, scales: torch.Tensor) -> torch.Tensor:
    """Scales in the shapes that the dialects' writers use."""
    if name == "modelopt-block":
        return scales[:, None, :, None]
    if name == "modelopt-row":
        return scales[:, 0]
    if name == "ct-mxfp8":
        return encode_ue8m0(scales)
    return scales.reshape(()) if name == "modelopt-fp8" else scales.reshape(1) if scales.numel() == 1 else scales


def ship(master: Path, folder: Path, name: str) -> Path:
    """A checkpoint of the tiny model in one dialect, made by the test itself."""
    config, ending, scale, block, label = DIALECTS[name]
    shutil.copytree(master, folder)
    tensors = load_file(master / "model.safetensors")
    for key in [k for k in tensors if k.endswith("_proj.weight")]:
        floor = 0.0 if block == (1, 32) else 1e-4
        q = formats.quantize(tensors[key], "e4m3", scale, block, amax_floor=floor)
        tensors[key] = q.codes.view(torch.float8_e4m3fn)
        tensors[key.replace("weight", ending)] = shaped(name, q.scales).contiguous()
        if label.endswith("static"):
            tensors[key.replace("weight", "input_scale")] = torch.tensor(0.01)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    declare(folder, config)
    return folder


def declare(folder: Path, config: dict[str, Any] | None) -> None:
    known = json.loads((folder / "config.json").read_text())
    known.pop("quantization_config", None)
    made = known if config is None else {**known, "quantization_config": config}
    (folder / "config.json").write_text(json.dumps(made))


@pytest.fixture
def fault(tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """A checkpoint with tensors changed: a function of the table of tensors, in place."""

    def make(change: Callable[[dict[str, torch.Tensor]], Any], name: str = "deepseek-v3.1") -> Path:
        folder = ship(tiny_model, tmp_path / "fault", name)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
        return folder

    return make


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_is_read_bit_for_bit_and_labelled(name: str, tiny_model: Path, tmp_path: Path):
    _, _, scale, block, label = DIALECTS[name]
    checkpoint = read(ship(tiny_model, tmp_path / "c", name))
    master = load_file(tiny_model / "model.safetensors")
    floor = 0.0 if block == (1, 32) else 1e-4

    assert checkpoint.recipe.id == f"as-shipped: {label}"
    assert checkpoint.findings == ()
    assert (checkpoint.found.weights, checkpoint.found.block, checkpoint.found.scale) == (14, block, scale)
    if label in RECIPES:
        known = RECIPES[label]
        assert (checkpoint.recipe.weights, checkpoint.recipe.activations, checkpoint.recipe.exclude) == (
            known.weights, known.activations, known.exclude)  # fmt: skip
    for key, value in master.items():
        q = formats.quantize(value, "e4m3", scale, block, amax_floor=floor)
        expected = formats.dequantize(q) if key.endswith("_proj.weight") else value
        assert torch.equal(checkpoint.weight(key), expected), key
    assert set(checkpoint.names) == set(master)


def test_hf_quant_config_declares_what_config_json_does_not(tiny_model: Path, tmp_path: Path):
    folder = ship(tiny_model, tmp_path / "c", "modelopt-fp8")
    declare(folder, None)
    with pytest.raises(CannotRunError, match="hold FP8 codes, but config.json says nothing"):
        read(folder)
    inner = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    (folder / "hf_quant_config.json").write_text(json.dumps({"producer": {}, "quantization": inner}))
    found = read(folder)

    assert found.declared.kv8
    assert found.recipe.kv_cache == RECIPES["bf16-kv8"].kv_cache
    assert found.recipe.id == "as-shipped: fp8-e4m3-tensor-static-kv8"
    assert found.recipe.label == "As shipped: FP8 E4M3, FP32 scales per tensor, activations calibrated, E4M3 KV cache"


# --------------------------------------------------------------------------------------------- declared against found


def codes_of(findings: tuple[Any, ...]) -> list[str]:
    assert all(f.code in FINDINGS for f in findings)
    return [f.code for f in findings]


def test_scales_that_are_not_the_powers_of_two_declared_are_found_and_the_label_follows_them(
    tiny_model: Path, tmp_path: Path
):
    folder = ship(tiny_model, tmp_path / "c", "deepseek-v3")
    declare(folder, {**FP8, "scale_fmt": "ue8m0"})
    checkpoint = read(folder)

    assert (checkpoint.declared.scale, checkpoint.found.scale) == ("ue8m0", "fp32")
    assert checkpoint.recipe.id == "as-shipped: fp8-e4m3"
    assert codes_of(checkpoint.findings) == ["CHECKPOINT_MISDECLARED"]
    assert "0 of 20 scales are powers of two" in checkpoint.findings[0].message


def test_powers_of_two_that_nobody_declared_are_found_too(tiny_model: Path, tmp_path: Path):
    folder = ship(tiny_model, tmp_path / "c", "deepseek-v3.1")
    declare(folder, FP8)
    checkpoint = read(folder)

    assert checkpoint.recipe.id == "as-shipped: fp8-ue8m0"
    assert codes_of(checkpoint.findings) == ["CHECKPOINT_MISDECLARED"]


def test_scales_rounded_after_the_codes_are_told_by_the_codes(fault):
    """Scales alone cannot tell: they are the powers of two that were declared, and every one is right."""

    def late(tensors: dict[str, torch.Tensor]) -> None:
        for key in [k for k in tensors if k.endswith("scale_inv")]:
            tensors[key] = torch.exp2(tensors[key].log2().ceil())

    folder = fault(late, "deepseek-v3")
    declare(folder, {**FP8, "scale_fmt": "ue8m0"})
    checkpoint = read(folder)

    assert checkpoint.recipe.id == "as-shipped: fp8-ue8m0"
    assert codes_of(checkpoint.findings) == ["SCALES_ROUNDED_LATER"]
    assert checkpoint.findings[0].severity == "error"


def test_another_block_than_declared_and_layers_listed_as_plain_are_found(tiny_model: Path, tmp_path: Path):
    folder = ship(tiny_model, tmp_path / "c", "deepseek-v3")
    skipped = ["model.layers.0.mlp.up_proj"]
    declare(folder, {**FP8, "weight_block_size": [64, 64], "modules_to_not_convert": skipped})
    checkpoint = read(folder)
    message = checkpoint.findings[0].message

    assert checkpoint.recipe.id == "as-shipped: fp8-e4m3"
    assert "128x128 elements where the configuration says 64x64" in message
    assert "1 modules that it lists as not quantised are (model.layers.0.mlp.up_proj)" in message


@pytest.mark.parametrize("rounding", ["ceil", "floor"])
def test_the_rounding_of_scales_is_read_off_the_largest_codes(rounding: str, tiny_model: Path, tmp_path: Path):
    """Nothing declares it. 1,000s of blocks of 32: rounded down, none has its largest code below 256."""
    folder = ship(tiny_model, tmp_path / "c", "ct-mxfp8")
    tensors, master = load_file(folder / "model.safetensors"), load_file(tiny_model / "model.safetensors")
    for key in [k for k in tensors if k.endswith("_proj.weight")]:
        q = formats.quantize(master[key], "e4m3", "ue8m0", (1, 32), rounding, 0.0)
        tensors |= {key: q.codes.view(torch.float8_e4m3fn), key.replace("weight", "weight_scale"): q.scale_codes}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    assert read(folder).recipe.id == f"as-shipped: mxfp8-{'rceil' if rounding == 'ceil' else rounding}"


def test_a_scheme_without_a_name_is_described(tiny_model: Path, tmp_path: Path):
    folder = ship(tiny_model, tmp_path / "c", "ct-tensor")
    declare(folder, compressed(WHOLE, TOKEN))

    assert read(folder).recipe.id == "as-shipped: e4m3(w=fp32-allxall a=fp32-1xall)"


def test_modules_left_plain_beyond_the_convention_stand_in_the_recipe(fault, tiny_model: Path):
    master = load_file(tiny_model / "model.safetensors")
    folder = fault(lambda t: (t.update({WEIGHT: master[WEIGHT]}), t.pop(SCALE)))

    assert "model\\.layers\\.1\\.mlp\\.down_proj" in read(folder).recipe.exclude


# ------------------------------------------------------------------------------------------------- types of the scales


def test_uint8_exponents_e8m0_and_f32_scales_are_the_same_checkpoint(fault):
    def exponents(kind: torch.dtype) -> Callable[[dict[str, torch.Tensor]], None]:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            for key in [k for k in tensors if k.endswith("scale_inv")]:
                tensors[key] = encode_ue8m0(tensors[key]).view(kind)

        return change

    seen = []
    for change, kind in ((lambda _: None, "F32"), (exponents(torch.uint8), "U8"),
                         (exponents(torch.float8_e8m0fnu), "F8_E8M0")):  # fmt: skip
        folder = fault(change)
        checkpoint = read(folder)
        assert (checkpoint.found.scale_types, checkpoint.findings) == ((kind,), ())
        seen.append(checkpoint.weight(WEIGHT))
        shutil.rmtree(folder)

    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_bf16_scales_are_multiplied_in_fp32(fault):
    folder = fault(lambda t: t.update({k: v.bfloat16() for k, v in t.items() if k.endswith("_inv")}), "qwen3")
    checkpoint, tensors = read(folder), load_file(folder / "model.safetensors")
    expected = tensors[WEIGHT].float() * tensors[SCALE].float().repeat_interleave(128, -1)

    assert checkpoint.found.scale_types == ("BF16",)
    assert checkpoint.recipe.id == "as-shipped: fp8-e4m3"
    assert torch.equal(checkpoint.weight(WEIGHT), expected)


def test_scales_under_the_short_name_are_read(fault):
    folder = fault(lambda t: [t.update({k.replace(".weight_scale_inv", ".scale"): t.pop(k)})
                              for k in list(t) if k.endswith("_inv")])  # fmt: skip

    assert read(folder).recipe.id == "as-shipped: fp8-ue8m0"


def test_fused_experts_have_a_grid_an_expert(tiny_model: Path, tmp_path: Path):
    folder, key = ship(tiny_model, tmp_path / "c", "deepseek-v3"), "model.layers.0.mlp.experts.gate_up_proj"
    experts = torch.randn(3, 256, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    q = formats.quantize(experts, "e4m3", "fp32", (128, 128))
    tensors = load_file(folder / "model.safetensors")
    tensors |= {key: q.codes.view(torch.float8_e4m3fn), f"{key}_scale_inv": q.scales}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    assert q.scales.shape == (3, 2, 1)
    assert torch.equal(read(folder).weight(key), formats.dequantize(q))


# ------------------------------------------------------------------------------------------------------------ refusals


def edit(key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.update({key: change(tensors[key])})


def one(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda t: t.index_fill(0, torch.tensor([0]), value)


FAULTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing scales": (lambda t: t.pop(SCALE), "holds FP8 codes but no tensor holds their scales"),
    "NaN scale": (edit(SCALE, one(float("nan"))), "2 of 2 scales are NaN, infinite, zero or negative"),
    "infinite scale": (edit(SCALE, one(float("inf"))), "NaN, infinite, zero or negative"),
    "zero scale": (edit(SCALE, one(0.0)), "NaN, infinite, zero or negative"),
    "negative scale": (edit(SCALE, lambda s: -s), "NaN, infinite, zero or negative"),
    "integers as scales": (edit(SCALE, lambda s: s.to(torch.int32)), "torch.int32; scales are F32"),
    "transposed grid": (edit(SCALE, lambda s: s.T), r"shape \(2, 1\) beside a weight of \(128, 256\).*transposed"),
    "wrong shape": (edit(SCALE, lambda s: s.repeat(3, 3)), r"shape \(3, 6\).*fits no block"),
    "a scale for each part of a fused layer": (edit(SCALE, lambda _: torch.ones(3)), r"shape \(3,\).*fused layer"),
    "NaN codes": (edit(WEIGHT, lambda w: w.view(torch.uint8).index_fill(0, torch.tensor([0]), 0x7F)
                       .view(torch.float8_e4m3fn)), "256 codes that are NaN in E4M3FN.*E4M3FNUZ"),
    "E5M2 codes": (edit(WEIGHT, lambda w: w.float().to(torch.float8_e5m2)), "is F8_E5M2; evalsuite runs E4M3FN"),
    "half converted": (edit(WEIGHT, lambda w: w.float().bfloat16()), "is BF16, not F8_E4M3. The checkpoint is half"),
    "no codes at all": (lambda t: [t.update({k: v.bfloat16()}) for k, v in t.items() if k.endswith("_proj.weight")]
                        and [t.pop(k) for k in list(t) if k.endswith("_inv")], "no tensor holds FP8 codes"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_checkpoint_is_an_error_that_names_the_tensor_never_bf16(name: str, fault):
    change, message = FAULTS[name]
    with pytest.raises(CannotRunError, match=message):
        read(fault(change))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "awq"}, "method 'awq' is not one that evalsuite reads.*It is not run as BF16"),
        ({"bits": 4}, "method 'no quant_method'"),
        ({**FP8, "fmt": "e5m2"}, "fmt = 'e5m2'"),
        ({**FP8, "expert_dtype": "fp4"}, "expert_dtype = 'fp4'"),
        ({**FP8, "scale_fmt": "e5m3"}, "scale_fmt = 'e5m3'"),
        ({**FP8, "weight_block_size": "big"}, r"quantization_config \(fp8\) cannot be read"),
        (compressed({**CHANNEL, "num_bits": 4, "type": "int"}, TOKEN), "numbers = 'int of 4 bits'"),
        (compressed(CHANNEL, TOKEN, "pack-quantized"), "format = 'pack-quantized'"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "0 different quantization schemes"),
        ({**MODELOPT, "quant_algo": "NVFP4"}, "quant_algo = 'NVFP4'"),
        ({**MODELOPT, "kv_cache_quant_algo": "NVFP4"}, "kv_cache_quant_algo = 'NVFP4'"),
    ],
)
def test_a_declaration_that_evalsuite_cannot_run_is_an_error(config, message: str, tiny_model: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "c"))
    declare(folder, config)
    with pytest.raises(CannotRunError, match=message):
        declared(folder)


def test_static_activations_without_their_scales_are_an_error(fault):
    with pytest.raises(CannotRunError, match="declared static, but 1 weights have no input_scale"):
        read(fault(lambda t: t.pop(WEIGHT.replace("weight", "input_scale")), "modelopt-fp8"))


def test_a_scaled_kv_cache_is_refused(fault):
    folder = fault(lambda t: t.update({"model.layers.0.self_attn.k_scale": torch.tensor(0.5)}), "modelopt-fp8")
    declare(folder, {**MODELOPT, "kv_cache_scheme": FLOAT8})
    with pytest.raises(CannotRunError, match="k_scale' is 0.5"):
        read(folder)


def test_a_plain_checkpoint_is_not_as_shipped_of_anything(tiny_model: Path, tmp_path: Path):
    with pytest.raises(CannotRunError, match="holds no quantised weights.*`recipe: bf16`"):
        read(tiny_model)

    assert not is_quantized(tiny_model)
    assert is_quantized(ship(tiny_model, tmp_path / "c", "qwen3"))


def test_the_methods_of_the_table_are_those_of_the_dialects():
    assert {config["quant_method"] for config, *_ in DIALECTS.values()} == set(METHODS)


def test_missing_and_doubled_weight_files_are_errors(tiny_model: Path, tmp_path: Path):
    folder = ship(tiny_model, tmp_path / "c", "qwen3")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
    with pytest.raises(CannotRunError, match=r"a.safetensors and b.safetensors both hold"):
        read(folder)
    table = {"weight_map": {WEIGHT: "a.safetensors", SCALE: "gone.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(table))
    with pytest.raises(CannotRunError, match=r"1 of 2 weight files are missing, gone.safetensors"):
        read(folder)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(CannotRunError, match="not a readable safetensors file"):
        read(folder)
