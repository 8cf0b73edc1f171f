"""Static activation scales: how large each layer's input becomes, measured on texts before anything is judged.

    calibration = calibrate(model, RECIPES["fp8-e4m3-tensor-static"], Texts("mine.txt", digest, tokens))
    recipe = RECIPES["fp8-e4m3-tensor-static"].model_copy(update={"calibration": calibration})
    with apply(model, recipe): ...

The texts run through the model's BF16 arm, one at a time, so that padding is never seen; each layer that the recipe
quantises keeps the largest magnitude of its inputs. That number becomes the layer's scale; what exceeds it later clips
and is counted (finding `CALIBRATION_EXCEEDED`). Which texts is the user's decision, never a default in secret: they
stand in the arm, their hash in the result, and a run whose calibration texts hold a judged item is refused.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evalsuite.errors import CannotRunError
from evalsuite.precision.coverage import gemms
from evalsuite.precision.emulate import best_kernel, check_free
from evalsuite.precision.layers import Arm
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Calibration, Recipe


@dataclass(frozen=True)
class Texts:
    """Tokenised calibration texts."""

    source: str
    sha256: str
    """Of the texts; see `Calibration`."""
    tokens: Sequence[Sequence[int]]
    """Token ids of each text, within the model's context; empty ones are left out."""


def calibrate(model: nn.Module, recipe: Recipe, texts: Texts) -> Calibration:
    """Largest input magnitude of every layer that *recipe* quantises, over all *texts*, in BF16.

    Raises:
        CannotRunError: there are no texts, an input held NaN or Inf, or a layer that the recipe quantises saw none
            (an expert projection to which nothing was routed).
    """
    wanted = [gemm.name for gemm in gemms(model, recipe) if gemm.quantised]
    rows = [tokens for tokens in texts.tokens if len(tokens)]
    if not rows:
        raise CannotRunError(f"{texts.source}: no calibration texts.")
    device = next(model.parameters()).device
    with torch.no_grad(), _watched(model) as seen:
        for tokens in rows:
            model(input_ids=torch.tensor([list(tokens)], device=device), use_cache=False)
    amax = {name: float(seen[name]) for name in wanted if name in seen}
    silent = [name for name in wanted if name not in amax]
    if silent:
        raise CannotRunError(f"{texts.source}: the calibration texts never reach {silent[0]}; use more texts.")
    broken = [name for name, value in amax.items() if value != value or value == float("inf")]
    if broken:
        raise CannotRunError(f"{texts.source}: the input of {broken[0]} holds NaN or Inf in BF16; no scale fits it.")
    n_tokens = sum(map(len, rows))
    return Calibration(amax=amax, source=texts.source, texts_sha256=texts.sha256, n_texts=len(rows), n_tokens=n_tokens)


@contextmanager
def _watched(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The BF16 arm; yields layer name -> largest magnitude so far (NaN once there was one)."""
    seen: dict[str, Tensor] = {}

    def observe(name: str, x: Tensor) -> None:
        if x.numel():
            amax = x.abs().amax().float()
            seen[name] = torch.maximum(seen[name], amax) if name in seen else amax

    bf16 = RECIPES["bf16"]
    device = next(model.parameters()).device
    arm = Arm(bf16, "fast", best_kernel(device), device)
    arm.observe = observe
    found = gemms(model, bf16)
    check_free(found)
    replaced = []
    try:
        for module, forward in arm.forwards(found):
            vars(module)["forward"] = forward
            replaced.append(module)
        yield seen
    finally:
        arm.clear()
        for module in replaced:
            del vars(module)["forward"]
