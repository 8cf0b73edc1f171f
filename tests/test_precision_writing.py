"""`quantize`: what is written is what was judged; transformers and our own reader get the same bits back."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_precision_models import IDS, logits, qwen3_moe

from evalsuite import resources
from evalsuite.engines.local import LocalEngine
from evalsuite.engines.shipped import load_shipped, plan
from evalsuite.errors import CannotRunError, RefusedError, UsageError
from evalsuite.precision import RECIPES, apply, folders, writing
from evalsuite.precision.checkpoints import read
from evalsuite.precision.layouts import LAYOUTS, layout_of
from evalsuite.precision.writing import write
from evalsuite.records import Arm, ModelRef

transformers = pytest.importorskip("transformers")
WRITABLE = ["fp8-e4m3", "fp8-ue8m0", "fp8-e4m3-row", "fp8-e4m3-tensor"]


def master(folder: Path):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()


def made(folder: Path, recipe: str, out: Path) -> writing.Written:
    return write(plan(folder, RECIPES[recipe]), out)


@pytest.mark.parametrize("recipe", ["fp8-e4m3", "fp8-ue8m0"])
def test_transformers_loads_the_reference_model_with_the_operands_of_the_emulated_arm(recipe: str, tmp_path: Path):
    """transformers dequantises on a CPU, so its weights are the operands of the `fast` mode."""
    source = resources.reference_model()
    done = made(source, recipe, tmp_path / "out")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    model = master(source)
    with apply(model, RECIPES[recipe], kernel="linear-bf16") as applied:
        operands = dict(applied.operands)

    assert done.odd == ()
    assert (len(operands), done.layout, done.checkpoint.found.weights) == (42, "deepseek", 42)
    assert loaded.dtype == torch.bfloat16
    for name, weight in loaded.state_dict().items():
        expected = operands.get(name.removesuffix(".weight"), model.state_dict()[name])
        assert torch.equal(weight, expected), name
    assert done.size_bytes < 0.7 * (source / "model.safetensors").stat().st_size


@pytest.mark.parametrize("recipe", ["fp8-e4m3-row", "fp8-e4m3-tensor"])
def test_transformers_loads_compressed_tensors_with_the_same_operands(recipe: str, tmp_path: Path):
    pytest.importorskip("compressed_tensors")
    source = resources.reference_model()
    made(source, recipe, tmp_path / "out")
    config = transformers.CompressedTensorsConfig(dequantize=True)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", quantization_config=config)
    with apply(master(source), RECIPES[recipe], kernel="linear-bf16") as applied:
        for name, operand in applied.operands.items():
            assert torch.equal(loaded.get_submodule(name).weight, operand), name


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("recipe", WRITABLE)
def test_our_reader_runs_it_bit_for_bit_as_the_emulated_arm(recipe: str, mode, tiny_model: Path, tmp_path: Path):
    made(tiny_model, recipe, tmp_path / "out")
    checkpoint = read(tmp_path / "out")
    model, shipped = load_shipped(checkpoint, exact=mode == "exact")
    emulated = master(tiny_model)
    with apply(emulated, RECIPES[recipe], gemm_mode=mode) as applied:
        expected, operands = logits(emulated), dict(applied.operands)
    with apply(model, shipped, gemm_mode=mode) as applied:
        actual = logits(model)

    assert checkpoint.findings == ()
    assert applied.realised.recipe == f"as-shipped: {recipe}"
    assert set(applied.realised.modules) == shipped.names
    assert len(shipped.names) == 14
    assert all(torch.equal(applied.operands[name], operands[name]) for name in shipped.names)
    assert torch.equal(actual, expected)


def test_a_third_party_checkpoint_whose_layers_are_no_multiple_of_the_block(data: Path, tmp_path: Path):
    """Layers 352 wide: transformers' own FP8 loader refuses them, ours pads, quantises and crops as the arm does."""
    source = data / "checkpoints" / "babyllama-tok105"
    if not source.is_dir():
        pytest.skip("no third-party checkpoint in the data folder")
    odd = made(source, "fp8-ue8m0", tmp_path / "out").odd
    with pytest.raises((ValueError, RuntimeError)):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    model, shipped = load_shipped(read(tmp_path / "out"), exact=False)
    emulated, ids = master(source), IDS % 105
    with apply(emulated, RECIPES["fp8-ue8m0"]) as applied:
        expected, operands = logits(emulated, ids), dict(applied.operands)
    with apply(model, shipped) as applied:
        assert torch.equal(logits(model, ids), expected)
        assert all(torch.equal(applied.operands[name], operands[name]) for name in shipped.names)

    assert model.model.layers[0].mlp.down_proj.weight.shape == (128, 352)
    assert len(odd) == 5 * 5  # k and v are 64 rows, the MLP 352 wide


@pytest.mark.parametrize("recipe", WRITABLE)
def test_a_mixture_of_experts_is_written_expert_by_expert_or_refused(recipe: str, tmp_path: Path):
    """Gate and up of an expert are one matrix in the arm: 96 rows each, so blocks of 128 rows would span both."""
    source = tmp_path / "moe"
    qwen3_moe().save_pretrained(source)
    if recipe != "fp8-e4m3-row":
        with pytest.raises(CannotRunError, match="experts.gate_up_proj: .* would span both"):
            plan(source, RECIPES[recipe])
        return
    made(source, recipe, tmp_path / "out")
    model, shipped = load_shipped(read(tmp_path / "out"), exact=True)
    emulated = master(source)
    with apply(emulated, RECIPES[recipe], gemm_mode="exact") as applied:
        expected, names = logits(emulated), applied.realised.modules
    with apply(model, shipped, gemm_mode="exact") as applied:
        assert torch.equal(logits(model), expected)

    assert applied.realised.modules == names
    assert "model.layers.1.mlp.experts.gate_up_proj" in names
    assert "model.layers.1.mlp.gate" not in names


def test_the_local_engine_runs_an_as_shipped_arm_as_the_recipe_arm(tiny_model: Path, tmp_path: Path):
    from evalsuite.engines import GenerateRequest, ScoreRequest
    from evalsuite.precision.recipes import AS_SHIPPED

    made(tiny_model, "fp8-ue8m0", tmp_path / "out")
    engine = LocalEngine(ModelRef(id=str(tiny_model)), {})
    asked = Arm(id="shipped", model=ModelRef(id=str(tmp_path / "out")), recipe=AS_SHIPPED)
    arm, findings = engine.resolve(asked)
    answers = []
    for one in (Arm(id="r", model=engine.model, recipe=RECIPES["fp8-ue8m0"]), arm,
                Arm(id="b", model=engine.model, recipe=RECIPES["bf16"])):  # fmt: skip
        assert engine.cannot_run(one) is None
        with engine.open(one) as session:
            prompts = [tuple(engine.tokenizer.encode(p)) for p in ("1 + 1 =", "Sort these: pear, apple.", "x")]
            answers.append((session.generate([GenerateRequest(p, 12, ()) for p in prompts]),
                            session.score([ScoreRequest(p[:1], p[1:] or (5,)) for p in prompts])))  # fmt: skip
            assert session.realised.recipe == one.recipe.id

    assert (arm.recipe.id, findings) == ("as-shipped: fp8-ue8m0", ())
    assert arm.model.weights_sha256 not in (None, engine.model.weights_sha256)
    assert answers[0] == answers[1] != answers[2]


# --------------------------------------------------------------------------------------------------------------- files


def test_every_other_file_is_copied_and_the_configuration_says_how(tiny_model: Path, tmp_path: Path):
    source = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    (source / "LICENSE").write_text("free")
    (source / "pytorch_model.bin").write_bytes(b"old weights")
    made(source, "fp8-ue8m0", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())

    assert config["quantization_config"] == {
        "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic",
        "scale_fmt": "ue8m0", "modules_to_not_convert": ["lm_head"],
    }  # fmt: skip
    kept = {p.name for p in source.iterdir()} - {"pytorch_model.bin"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == kept
    for name in ("tokenizer.json", "LICENSE"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    assert os.access(tmp_path / "out" / "model.safetensors", os.R_OK)
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode == (tmp_path / "out" / "config.json").stat().st_mode


def test_a_large_model_is_written_in_shards_that_together_are_the_one_file(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made(tiny_model, "fp8-e4m3", tmp_path / "one")
    monkeypatch.setattr(folders, "SHARD_BYTES", 100_000)
    made(tiny_model, "fp8-e4m3", tmp_path / "many")
    files = sorted(p.name for p in (tmp_path / "many").glob("*.safetensors"))
    tensors = {}
    for file in files:
        part = load_file(tmp_path / "many" / file)
        index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())["weight_map"]
        assert {index[name] for name in part} == {file}
        tensors |= part
    whole = load_file(tmp_path / "one" / "model.safetensors")

    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert tensors.keys() == whole.keys()
    assert all(torch.equal(tensors[k].view(torch.uint8), whole[k].view(torch.uint8)) for k in whole)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "many")
    assert torch.equal(loaded.model.layers[0].mlp.up_proj.weight,
                       read(tmp_path / "one").weight("model.layers.0.mlp.up_proj.weight", torch.bfloat16))  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_a_master_with_nan_or_inf_is_an_error_and_leaves_nothing(value, key: str, tiny_model: Path, tmp_path: Path):
    source = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    tensors = load_file(source / "model.safetensors")
    tensors[key].view(-1)[3] = value
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(CannotRunError, match=f"'{key}' holds NaN or Inf"):
        made(source, "fp8-e4m3", tmp_path / "out")

    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_what_is_there_is_never_overwritten_and_an_empty_folder_is_filled(tiny_model: Path, tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(RefusedError, match="exists already"):
        made(tiny_model, "fp8-e4m3", tmp_path / "full")
    assert (tmp_path / "full" / "note.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    made(tiny_model, "fp8-e4m3", tmp_path / "empty")
    assert read(tmp_path / "empty").found.weights == 14
    with pytest.raises(CannotRunError, match="quantised already"):
        made(tmp_path / "empty", "fp8-ue8m0", tmp_path / "again")


def test_recipes_without_a_layout_are_refused_with_those_that_have_one():
    can = {recipe for recipe in RECIPES if any(layout.holds(RECIPES[recipe]) for layout in LAYOUTS)}

    assert can >= {*WRITABLE, "fp8-ue8m0-requant"}
    for recipe in RECIPES:
        if recipe not in can:
            with pytest.raises(UsageError, match="Recipes that can be written: fp8-e4m3, fp8-ue8m0, fp8-e4m3-row"):
                layout_of(RECIPES[recipe])


def test_a_checkpoint_that_does_not_read_back_as_its_recipe_is_discarded(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Scales rounded after the codes, here on the way to the file."""
    monkeypatch.setattr(writing.Layout, "shaped", lambda _, scales: torch.exp2(scales.log2().ceil()))
    with pytest.raises(Exception, match="reads back as .* not as 'fp8-e4m3'; discarded"):
        made(tiny_model, "fp8-e4m3", tmp_path / "out")

    assert list(tmp_path.iterdir()) == []
