"""Muon for the matrices inside the layers, AdamW for embeddings and norms.

Muon (momentum, then the nearest orthogonal matrix by five Newton-Schulz steps) learns from fewer tokens than AdamW,
which is what counts on two cores. torch.optim.Muon works in BF16, slow on a CPU without it; this one stays in FP32.
It is a quarter of the work of a step, so the processes of a team each update their share of the matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MOMENTUM = 0.95
DECAY = 0.2
CLIP = 1.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Peak learning rates."""

    matrix: float = 0.008
    rest: float = 3e-3


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix with the same singular vectors and singular values near 1."""
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.size(0) <= matrix.size(1) else matrix.T
    x: torch.Tensor = wide / (wide.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram: torch.Tensor = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.size(0) <= matrix.size(1) else x.T


def matrices_of(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that Muon trains."""
    named = model.named_parameters()
    return [p for name, p in named if p.ndim == 2 and "embed" not in name and "lm_head" not in name]


class Optimiser:
    """What process `rank` of `size` updates: its share of the matrices, and the first process also the rest."""

    def __init__(
        self, model: torch.nn.Module, momenta: list[torch.Tensor], place: tuple[int, int], rates: Rates
    ) -> None:
        rank, size = place
        matrices = matrices_of(model)
        chosen = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in chosen] if rank == 0 else []
        self.mine = {id(p) for p in [*matrices[rank::size], *rest]}
        self.matrices = list(zip(matrices, momenta, strict=True))[rank::size]
        self.momenta, self.rest, self.rates = momenta, rest, rates
        self.adam = torch.optim.AdamW(rest, lr=rates.rest, betas=(0.9, 0.95), weight_decay=0.0) if rest else None

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update at this share of the peak rates, from the gradients the parameters hold."""
        for matrix, momentum in self.matrices:
            if matrix.grad is None:
                raise ValueError("a matrix has no gradient: the loss does not reach the whole model")
            momentum.lerp_(matrix.grad, 1 - MOMENTUM)
            update = matrix.grad.lerp(momentum, MOMENTUM)
            shape = max(1.0, matrix.size(0) / matrix.size(1)) ** 0.5
            matrix.mul_(1 - factor * self.rates.matrix * DECAY)
            matrix.add_(orthogonalise(update), alpha=-factor * self.rates.matrix * shape)
        if self.adam:
            torch.nn.utils.clip_grad_norm_(self.rest, CLIP)
            self.adam.param_groups[0]["lr"] = factor * self.rates.rest
            self.adam.step()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"momenta": self.momenta, "adam": self.adam.state_dict() if self.adam else None}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; momenta are copied in place, since other processes share them."""
        for momentum, saved in zip(self.momenta, state["momenta"], strict=True):
            momentum.copy_(saved)
        if self.adam:
            self.adam.load_state_dict(state["adam"])
