"""Muon for the matrices inside the layers, AdamW for embeddings and norms.

Muon (momentum, then the nearest orthogonal matrix by five Newton-Schulz steps) learns from fewer tokens than AdamW, which is what
counts on two cores. torch.optim.Muon works in BF16, slow on a CPU without it; this one stays in FP32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix with the same singular vectors and singular values near 1."""
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.size(0) <= matrix.size(1) else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.size(0) <= matrix.size(1) else x.T


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates, for two-dimensional parameters."""

    def __init__(self, parameters: list[torch.nn.Parameter], rate: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": rate, "peak": rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                update = matrix.grad.lerp(state["momentum"], group["momentum"])
                scale = max(1.0, matrix.size(0) / matrix.size(1)) ** 0.5
                matrix.add_(orthogonalise(update), alpha=-group["lr"] * scale)


def build_optimisers(model: torch.nn.Module, rate: float, matrix_rate: float) -> list[torch.optim.Optimizer]:
    """The two optimisers of a model; each group remembers its peak learning rate."""
    matrices = [
        p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name and "lm_head" not in name
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    adam = torch.optim.AdamW([{"params": rest, "peak": rate}], lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    return [Muon(matrices, matrix_rate), adam]
