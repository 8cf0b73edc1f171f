"""Data-parallel training on one machine: processes that share the weights.

Two processes of one thread each beat one process of two threads where other programs use the cores too: they meet twice
a step instead of in every matrix product. Each gets packed rows, leaves their gradients in shared memory, and then
updates its share of the weights from the sum. Shares and order are fixed, so the run is the same every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from evalsuite.reference.examples import IGNORED, Row
from evalsuite.reference.optimisers import Optimiser, Rates, matrices_of

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from transformers import Qwen3ForCausalLM

Losses = tuple[torch.Tensor, torch.Tensor]


def to_tensors(rows: list[Row], length: int, pad: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Padded tensors of packed rows, and their mask: causal, inside a document, and never across two branches."""

    def padded(name: str, fill: int) -> torch.Tensor:
        filled = [getattr(row, name) + [fill] * (length - len(row.tokens)) for row in rows]
        return torch.tensor(filled, device=device)

    documents, branches = padded("documents", 0), padded("branches", 0)
    together = documents[:, :, None] == documents[:, None, :]
    seen = (branches[:, None, :] == 0) | (branches[:, :, None] == branches[:, None, :])
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return {
        "input_ids": padded("tokens", pad),
        "labels": padded("labels", IGNORED),
        "position_ids": padded("positions", 0),
        "families": padded("families", -1),
        "attention_mask": (together & seen & causal)[:, None],
    }


def token_losses(model: Qwen3ForCausalLM, batch: dict[str, torch.Tensor]) -> Losses:
    """Loss of every response token, and its family; the output head sees those tokens alone.

    A branch begins with the tail of its prompt, which has no label, so no loss crosses from one branch to the next.
    """
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "attention_mask")}
    hidden = model.model(**inputs, use_cache=False).last_hidden_state
    targets = batch["labels"][:, 1:]
    kept = targets != IGNORED
    logits = model.lm_head(hidden[:, :-1][kept])
    return torch.nn.functional.cross_entropy(logits, targets[kept], reduction="none"), batch["families"][:, 1:][kept]


def add_gradients(model: Qwen3ForCausalLM, batch: dict[str, torch.Tensor], total: int) -> Losses:
    """Add the gradients of this share of a step whose shares hold `total` response tokens together."""
    each, families = token_losses(model, batch)
    torch.autograd.backward(each.sum() / total)
    return each.detach(), families


def response_tokens(rows: list[Row]) -> int:
    """Tokens that carry loss."""
    return sum(label != IGNORED for row in rows for label in row.labels)


@dataclass(slots=True)
class _Shared:
    """What the processes of a team have in common; all tensors lie in shared memory."""

    model: Any
    momenta: list[torch.Tensor]
    gradients: list[list[torch.Tensor]]
    """For each process, one tensor a parameter."""
    shape: tuple[int, int]
    rates: Rates


class _Member:
    """One process's part of every step."""

    def __init__(self, shared: _Shared, rank: int) -> None:
        self.shared, self.rank = shared, rank
        self.parameters: list[torch.nn.Parameter] = list(shared.model.parameters())
        self.optimiser = Optimiser(shared.model, shared.momenta, (rank, len(shared.gradients)), shared.rates)

    def gradients(self, rows: list[Row], total: int) -> Losses:
        """Compute this share's gradients and, in a team, publish them."""
        batch = to_tensors(rows, *self.shared.shape, self.parameters[0].device)
        found = add_gradients(self.shared.model, batch, total)
        if len(self.shared.gradients) > 1:
            for parameter, buffer in zip(self.parameters, self.shared.gradients[self.rank], strict=True):
                buffer.copy_(_gradient(parameter))
        return found

    def update(self, factor: float) -> None:
        """Sum all shares in fixed order for the parameters this process updates, and update them."""
        if len(self.shared.gradients) > 1:
            for index, parameter in enumerate(self.parameters):
                if id(parameter) in self.optimiser.mine:
                    parameter.grad = torch.stack([share[index] for share in self.shared.gradients]).sum(0)
        self.optimiser.step(factor)
        for parameter in self.parameters:
            parameter.grad = None


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    if parameter.grad is None:
        raise ValueError("a parameter has no gradient: the loss does not reach the whole model")
    return parameter.grad


def _shared(tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor, moved to memory that other processes can map."""
    moved: torch.Tensor = tensor.share_memory_()  # type: ignore[no-untyped-call]
    return moved


def _serve(pipe: Connection, shared: _Shared, rank: int) -> None:
    """A helper's life: rows or a rate in, losses or a nod out, until the pipe closes."""
    torch.set_num_threads(1)
    member = _Member(shared, rank)
    while True:
        try:
            order = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        if isinstance(order, float):
            member.update(order)
            pipe.send(None)
        else:
            each, families = member.gradients(*order)
            pipe.send((each.numpy(), families.numpy()))


class Team:
    """The trainer's own process and its helpers; a team of one is fine, and all there is on an accelerator."""

    def __init__(self, model: Qwen3ForCausalLM, size: int, shape: tuple[int, int], rates: Rates) -> None:
        momenta = [torch.zeros_like(matrix, requires_grad=False) for matrix in matrices_of(model)]
        gradients: list[list[torch.Tensor]] = [[] for _ in range(size)]
        if size > 1:
            model.share_memory()
            momenta = [_shared(momentum) for momentum in momenta]
            gradients = [[_shared(torch.zeros_like(p).detach()) for p in model.parameters()] for _ in gradients]
        shared = _Shared(model, momenta, gradients, shape, rates)
        self.lead = _Member(shared, 0)
        context: Any = torch.multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        for rank in range(1, size):
            ours, theirs = context.Pipe()
            context.Process(target=_serve, args=(theirs, shared, rank), daemon=True).start()
            theirs.close()
            self.pipes.append(ours)

    def gradients(self, rows: list[Row]) -> Losses:
        """Share the rows out; losses of all response tokens and their families."""
        size, total = 1 + len(self.pipes), response_tokens(rows)
        for rank, pipe in enumerate(self.pipes, start=1):
            pipe.send((rows[rank::size], total))
        found = [self.lead.gradients(rows[::size], total)]
        for pipe in self.pipes:
            each, families = pipe.recv()
            found.append((torch.from_numpy(each), torch.from_numpy(families)))
        return torch.cat([each for each, _ in found]), torch.cat([families for _, families in found])

    def update(self, factor: float) -> None:
        """Every process updates its parameters; returns when all have."""
        for pipe in self.pipes:
            pipe.send(float(factor))
        self.lead.update(factor)
        for pipe in self.pipes:
            pipe.recv()
