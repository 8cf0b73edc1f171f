"""Planted faults: outlier channels change nothing in BF16 and break INT8; noise is a loss; refusals leave nothing."""

from pathlib import Path

import pytest
import torch

from evalsuite.engines import TraceRequest
from evalsuite.engines.local import LocalEngine
from evalsuite.errors import CannotRunError, RefusedError, UsageError
from evalsuite.measure.trajectories import compare, trace
from evalsuite.precision.recipes import RECIPES
from evalsuite.precision.stress import plant
from evalsuite.records import Arm, ModelRef

TEXT = TraceRequest(tuple(range(30, 60)), tuple(range(60, 90)))


@pytest.fixture(scope="module")
def outliers(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stress") / "outliers"
    plant(tiny_model, "outlier-channels", 256.0, out)
    return out


def traced(folder: Path, recipe: str, support=None):
    engine = LocalEngine(ModelRef(id=str(folder)), {})
    with engine.open(Arm(id=recipe, model=engine.model, recipe=RECIPES[recipe])) as session:
        return trace(session, [TEXT], 64, support)


def divergence(folder: Path, recipe: str) -> float:
    base = traced(folder, "bf16")
    return float(compare(base[0], traced(folder, recipe, base)[0])["kl"].mean())


def test_outlier_channels_change_no_bit_in_bf16(tiny_model: Path, outliers: Path):
    before, after = traced(tiny_model, "bf16")[0], traced(outliers, "bf16")[0]

    assert (before.logprobs == after.logprobs).all()
    assert (before.chosen == after.chosen).all()


def test_outlier_channels_break_int8_and_not_fp8(tiny_model: Path, outliers: Path):
    fp8 = divergence(outliers, "fp8-ue8m0")

    assert divergence(outliers, "int8-row") > 4 * fp8
    assert fp8 < 3 * divergence(tiny_model, "fp8-ue8m0")


def test_weight_noise_is_a_loss_and_the_same_every_time(tiny_model: Path, tmp_path: Path):
    from safetensors.torch import load_file

    for name in ("a", "b"):
        assert plant(tiny_model, "weight-noise", 0.1, tmp_path / name) == 14
    a, b, old = (load_file(folder / "model.safetensors") for folder in (tmp_path / "a", tmp_path / "b", tiny_model))
    name = "model.layers.0.mlp.up_proj.weight"

    assert all(torch.equal(a[key], b[key]) for key in a)
    assert ((a[name] - old[name]).float().std() / old[name].float().std()).item() == pytest.approx(0.1, rel=0.05)
    assert torch.equal(a["model.norm.weight"], old["model.norm.weight"])


@pytest.mark.parametrize(
    ("fault", "strength", "error", "words"),
    [
        ("outlier-channel", 64.0, UsageError, "Did you mean 'outlier-channels'"),
        ("outlier-channels", 60.0, UsageError, "power of two"),
        ("weight-noise", 0.0, UsageError, "must be positive"),
    ],
)
def test_what_cannot_be_planted_is_told_and_leaves_nothing(tiny_model, tmp_path, fault, strength, error, words):
    with pytest.raises(error, match=words):
        plant(tiny_model, fault, strength, tmp_path / "out")

    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_refused(tiny_model: Path, tmp_path: Path):
    (tmp_path / "mine").touch()
    with pytest.raises(RefusedError, match="not an empty folder"):
        plant(tiny_model, "weight-noise", 0.1, tmp_path)


def test_a_model_of_other_names_is_told(tmp_path: Path):
    from safetensors.torch import save_file

    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    save_file({"transformer.h.0.ln_1.weight": torch.ones(4)}, tmp_path / "m" / "model.safetensors")
    with pytest.raises(CannotRunError, match="Llama- or Qwen-type"):
        plant(tmp_path / "m", "outlier-channels", 64.0, tmp_path / "out")

    assert not (tmp_path / "out").exists()
