"""Checkpoints as arms: static activations, other models beside the run's own, whole runs, and refusals."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_precision_checkpoints import FP8, MODELOPT, declare, ship
from test_precision_models import logits
from torch import nn

from evalsuite import spec as suites
from evalsuite import workflow
from evalsuite.engines import ScoreRequest
from evalsuite.engines.local import LocalEngine
from evalsuite.engines.shipped import load_shipped, skeleton
from evalsuite.errors import CannotRunError
from evalsuite.harness import noted
from evalsuite.precision import RECIPES, apply
from evalsuite.precision.checkpoints import read
from evalsuite.precision.recipes import AS_SHIPPED, is_as_shipped
from evalsuite.records import Arm, Cell, CellRecord, ModelRef

SUITE = """\
schema: 1
name: shipped
model: {model}
arms: [bf16, fp8-ue8m0, {{id: shipped, model: {shipped}, recipe: as-shipped}}]
baseline: bf16
engine: {{name: local, options: {{group_tokens: 1024}}}}
tasks: [ref_ordering_mc, {{task: ref_chain_sum, modes: [direct], max_gen_toks: 8}}]
decision: {{margin: 0.02}}
limit: 12
"""


def arm(folder: Path, recipe=AS_SHIPPED) -> Arm:
    return Arm(id="shipped", model=ModelRef(id=str(folder)), recipe=recipe)


def static_e4m3(x: torch.Tensor, scale: float) -> torch.Tensor:
    """Code x scale by numpy and ml_dtypes alone."""
    s = np.float32(scale)
    q = np.clip(x.float().numpy() / s, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    return torch.from_numpy(q * s)


def test_static_activations_use_the_scale_beside_each_weight_and_clip_beyond_it(tiny_model: Path, tmp_path: Path):
    """Against a plain model with dequantised weights and quantising hooks; layers get scales of their own."""
    folder = ship(tiny_model, tmp_path / "c", "modelopt-fp8")
    tensors = load_file(folder / "model.safetensors")
    scales = {}
    for i, key in enumerate(sorted(k for k in tensors if k.endswith("input_scale"))):
        tensors[key] = torch.tensor(0.002 * (1 + i))  # 0.9 to 12 at most: the small ones clip
        scales[key.removesuffix(".input_scale")] = float(tensors[key])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model, shipped = load_shipped(read(folder), exact=False)
    rewritten, _ = load_shipped(read(folder), exact=False)
    clipped = []
    for name, module in rewritten.named_modules():
        if name in scales:
            def hook(_: nn.Module, args: tuple[torch.Tensor], scale: float = scales[name]) -> tuple[torch.Tensor]:
                clipped.append(bool((args[0].abs() > 448 * scale).any()))
                return (static_e4m3(args[0], scale).bfloat16(),)

            assert isinstance(module, nn.Linear)
            module.register_forward_pre_hook(hook)
    with apply(model, shipped, kernel="linear-bf16") as applied:
        actual = logits(model)

    assert applied.realised.recipe == "as-shipped: fp8-e4m3-tensor-static"
    assert shipped.input_scales == scales
    assert torch.equal(actual, logits(rewritten))
    assert any(clipped)


def test_activations_of_a_checkpoint_are_counted_and_what_its_static_scales_clip_is_a_finding(
    tiny_model: Path, tmp_path: Path
):
    folder = ship(tiny_model, tmp_path / "c", "modelopt-fp8")
    tensors = load_file(folder / "model.safetensors")
    narrow = "model.layers.1.mlp.down_proj"
    for key in [k for k in tensors if k.endswith("input_scale")]:
        tensors[key] = torch.tensor(1e-9 if key.startswith(narrow) else 10.0)  # below the floor of scales made here
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    engine = LocalEngine(ModelRef(id=str(tiny_model)), {})
    shipped, _ = engine.resolve(arm(folder))
    with engine.open(shipped) as session:
        session.score([ScoreRequest((1, 2, 3), (4, 5))])
        counts = session.activity()
    record = CellRecord(cell=Cell(arm="a", task="t", mode="direct"), status="running", resume_key="0", n_planned=1)

    assert set(counts) == set(session.realised.modules)
    assert {name for name, c in counts.items() if c["clipped_blocks"]} == {narrow}
    assert [f.code for f in noted(record, shipped.recipe, counts).findings] == ["CALIBRATION_EXCEEDED"]
    assert engine.cannot_run(shipped) is None  # its scales are its own; nothing is to be calibrated


def test_weights_with_nan_are_refused_as_shipped_too(tiny_model: Path, tmp_path: Path):
    folder = ship(tiny_model, tmp_path / "c", "deepseek-v3")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CannotRunError, match=r"model\.norm\.weight: NaN or Inf"):
        load_shipped(read(folder), exact=False)


def test_mixed_and_unexpected_quantised_layers_are_errors(tiny_model: Path, tmp_path: Path):
    folder = ship(tiny_model, tmp_path / "c", "deepseek-v3")
    tensors = load_file(folder / "model.safetensors")
    table = "model.embed_tokens.weight"
    tensors |= {table: tensors[table].to(torch.float8_e4m3fn),
                table + "_scale_inv": torch.ones(-(-tensors[table].shape[0] // 128), 1)}  # fmt: skip
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model, shipped = load_shipped(read(folder), exact=False)
    with pytest.raises(CannotRunError, match="no matrix multiplication of Qwen3ForCausalLM, model.embed_tokens"), apply(
        model, shipped
    ):
        pass


def test_a_weight_that_is_missing_is_an_error_not_a_random_layer(tiny_model: Path, tmp_path: Path):
    folder = ship(tiny_model, tmp_path / "c", "deepseek-v3")
    tensors = load_file(folder / "model.safetensors")
    for key in [k for k in tensors if "layers.1.mlp.up_proj" in k]:
        del tensors[key]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CannotRunError, match="1 weights of Qwen3ForCausalLM are not in the checkpoint, model.layers.1"):
        load_shipped(read(folder), exact=False)


def test_a_skeleton_has_the_shapes_and_no_data(tiny_model: Path):
    model = skeleton(tiny_model)

    assert all(p.is_meta for p in model.parameters())
    with pytest.raises(CannotRunError, match="not in memory"), apply(model, RECIPES["fp8-ue8m0"]):
        pass


# ------------------------------------------------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> workflow.Run:
    folder = tmp_path_factory.mktemp("shipped")
    ship(tiny_model, folder / "fp8", "deepseek-v3.1")
    declare(folder / "fp8", FP8)  # forgets to say ue8m0
    (folder / "s.yaml").write_text(SUITE.format(model=tiny_model, shipped=folder / "fp8"))
    spec = suites.resolve(suites.load(str(folder / "s.yaml")))[0]
    assert spec.arm("shipped").recipe == AS_SHIPPED
    return workflow.run(spec, workflow.Options(results=folder / "results"))


def test_an_as_shipped_arm_answers_as_the_recipe_arm_item_by_item(run: workflow.Run):
    samples = run.samples().sort_values(["task", "mode", "position"])
    columns = ["item_hash", "output_text", "gold_loglikelihood", "margin", "correct"]
    base, ours, theirs = (samples[samples["arm"] == name][columns].reset_index(drop=True)
                          for name in ("bf16", "fp8-ue8m0", "shipped"))  # fmt: skip

    assert run.manifest.status == "done"
    assert len(ours) == 24
    assert ours.equals(theirs)
    assert not ours.equals(base)


def test_the_manifest_says_what_the_checkpoint_turned_out_to_be(run: workflow.Run):
    found = run.manifest.spec.arm("shipped")
    record = run.manifest.cells["shipped.ref_ordering_mc.direct.r0"]

    assert found.recipe.id == "as-shipped: fp8-ue8m0"
    assert found.recipe.weights == RECIPES["fp8-ue8m0"].weights
    assert is_as_shipped(found.recipe)
    assert found.model.weights_sha256 != run.manifest.spec.model.weights_sha256
    assert record.realised is not None
    assert record.realised.recipe == found.recipe.id
    assert record.realised.execution == "emulated"


def test_a_finding_of_the_checkpoint_reaches_the_decision_of_its_arm_and_no_other(run: workflow.Run):
    codes = {d.pooled.subject.candidate: [f.code for f in d.findings] for d in run.decisions()}

    assert "CHECKPOINT_MISDECLARED" in codes["shipped"]
    assert "CHECKPOINT_MISDECLARED" not in codes["fp8-ue8m0"]


def test_a_resumed_run_reads_the_checkpoint_again_and_keeps_what_is_done(run: workflow.Run, tmp_path: Path):
    copy = tmp_path / "results" / run.path.name
    shutil.copytree(run.path, copy)
    again = workflow.run(run.manifest.spec, workflow.Options(results=tmp_path / "results"),
                         resume=workflow.load_run(copy).stored)  # fmt: skip

    assert again.manifest.cells == run.manifest.cells
    assert again.samples().equals(run.samples())


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def engine(tiny_model: Path) -> LocalEngine:
    return LocalEngine(ModelRef(id=str(tiny_model)), {})


def test_a_recipe_of_a_quantised_checkpoint_is_refused(engine: LocalEngine, tiny_model: Path, tmp_path: Path):
    folder = ship(tiny_model, tmp_path / "c", "qwen3")

    assert engine.cannot_run(arm(folder)) is None
    for recipe in ("bf16", "fp8-ue8m0"):
        assert "recipes start from a BF16 master. Say `recipe: as-shipped`" in str(
            engine.cannot_run(arm(folder, RECIPES[recipe])))  # fmt: skip


def test_another_bf16_model_runs_beside_the_runs_own(engine: LocalEngine, tiny_model: Path, tmp_path: Path):
    from evalsuite.engines import ScoreRequest

    folder = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v * 2 if "norm" in k else v for k, v in tensors.items()}, folder / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    scores = []
    for one in (arm(tiny_model, RECIPES["bf16"]), arm(folder, RECIPES["bf16"]), arm(tiny_model, RECIPES["bf16"])):
        assert engine.cannot_run(one) is None
        with engine.open(engine.resolve(one)[0]) as session:
            scores.append(session.score([ScoreRequest((5, 6), (7, 8))]))

    assert scores[0] == scores[2] != scores[1]


def test_a_quantised_head_scores_through_its_own_codes(engine: LocalEngine, tiny_model: Path, tmp_path: Path):
    """Scoring multiplies by the head in FP32; that would leave out a quantised head's activations."""
    from evalsuite.engines import ScoreRequest
    from evalsuite.precision import formats

    folder = ship(tiny_model, tmp_path / "c", "deepseek-v3.1")
    tensors = load_file(folder / "model.safetensors")
    q = formats.quantize(tensors["model.embed_tokens.weight"], block=(128, 128))
    tensors |= {"lm_head.weight": q.codes.view(torch.float8_e4m3fn), "lm_head.weight_scale_inv": q.scales}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    shipped = engine.resolve(arm(folder))[0]
    with engine.open(shipped) as session:
        score = session.score([ScoreRequest((5, 6, 7), (8,))])[0]
        realised = session.realised
    model, codes = load_shipped(read(folder), exact=False)
    with torch.no_grad(), apply(model, codes):
        expected = model(torch.tensor([[5, 6, 7]])).logits[0, -1].float().log_softmax(-1)[8]

    assert "lm_head" in realised.modules
    assert realised.logits_dtype == "bfloat16"
    assert score.loglikelihood == pytest.approx(float(expected), abs=2e-2)


CHANGES = {
    "tokenizer": ("tokenizer.json", lambda text: json.dumps({**json.loads(text), "normalizer": {"type": "Lowercase"}}),
                  "its tokenizer is another"),
    "template": ("chat_template.jinja", lambda text: text + "\n", "its chat template is another"),
    "end": ("config.json", lambda text: json.dumps({**json.loads(text), "eos_token_id": 5}), "its answers end at"),
    "context": ("config.json", lambda text: json.dumps({**json.loads(text), "max_position_embeddings": 64}),
                "its context is 64 tokens, shorter"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_model_that_would_get_other_prompts_is_refused(what: str, engine: LocalEngine, tiny_model: Path, tmp_path):
    name, change, reason = CHANGES[what]
    folder = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    text = (folder / name).read_text()
    (folder / name).write_text(change(text))
    (folder / "generation_config.json").unlink(missing_ok=True)

    assert change(text) != text
    assert f"would differ: {reason}" in str(engine.cannot_run(arm(folder)))


def test_a_damaged_checkpoint_stops_a_run_before_any_item(tiny_model: Path, tmp_path: Path):
    folder = ship(tiny_model, tmp_path / "fp8", "modelopt-fp8")
    declare(folder, {**MODELOPT, "quant_algo": "NVFP4"})
    (tmp_path / "s.yaml").write_text(SUITE.format(model=tiny_model, shipped=folder))
    spec = suites.resolve(suites.load(str(tmp_path / "s.yaml")))[0]
    with pytest.raises(CannotRunError, match="quant_algo = 'NVFP4'"):
        workflow.run(spec, workflow.Options(results=tmp_path / "results"))

    assert not list((tmp_path / "results").glob("*-shipped-*"))
