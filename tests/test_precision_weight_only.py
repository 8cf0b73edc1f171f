"""INT8 weights on the processor's own kernel: the recipe's codes and scales, and the emulation's numbers."""

from pathlib import Path

import pytest
import torch

from evalsuite.engines.models import load_master
from evalsuite.errors import CannotRunError
from evalsuite.precision import apply, weight_only
from evalsuite.precision.packing import sqnr_db
from evalsuite.precision.recipes import RECIPES


@pytest.fixture(scope="module")
def model(tiny_model: Path):
    return load_master(tiny_model).eval().requires_grad_(False)


def logits(model, execution: str, recipe: str = "w8a16-int8") -> tuple[torch.Tensor, object]:
    ids = torch.arange(1, 40)[None]
    with apply(model, RECIPES[recipe], execution) as applied, torch.no_grad():
        return model(input_ids=ids).logits.float(), applied.realised


def test_the_kernel_is_there_and_agrees_with_the_product_of_the_dequantised_weight():
    assert weight_only.works() is None


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("shape", [(128, 256), (352, 96), (33, 40)])
def test_products_are_the_dequantised_ones_up_to_two_roundings(rows: int, shape: tuple[int, int]):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, shape[1], generator=generator).bfloat16()
    codes = torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
    scales, bias = torch.rand(shape[0], generator=generator), torch.randn(shape[0], generator=generator)
    expected = x.float() @ (codes.float() * scales[:, None]).t() + bias

    assert sqnr_db(weight_only.product(x, codes, scales, bias), expected) > weight_only.MINIMUM_DB


def test_it_runs_natively_where_asked_or_where_nothing_is_said_and_says_so(model):
    emulated, told = logits(model, "emulated")
    native, found = logits(model, "native")
    auto, _ = logits(model, "auto")

    assert told.execution == "emulated"
    assert found.execution == "native"
    assert weight_only.KERNEL in found.kernel
    assert found.modules == told.modules
    assert torch.equal(native, auto)
    # One rounding more a layer changes the logits about as much as BF16 arithmetic itself does.
    arithmetic = sqnr_db(logits(model, "auto", "bf16")[0], logits(model, "auto", "fp32")[0])
    assert sqnr_db(native, emulated) > arithmetic - 6


def test_other_recipes_are_not_its_kind():
    kinds = {name for name, recipe in RECIPES.items() if weight_only.takes(recipe)}

    assert kinds == {"w8a16-int8"}


def test_without_the_kernel_it_is_emulated_or_refused_with_the_reason(model, monkeypatch):
    monkeypatch.setattr(weight_only, "works", lambda: "torch has no such kernel here (test)")

    assert logits(model, "auto")[1].execution == "emulated"
    with pytest.raises(CannotRunError, match="no such kernel"):
        logits(model, "native")
