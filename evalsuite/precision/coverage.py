"""Which matrix multiplications of a model a recipe quantises, and what share of the model that is.

Every layer is accounted for before anything changes. A layer is

    quantised      an `nn.Linear`, or one of the two expert projections of a mixture of experts (3-D parameters of the
                   layout that transformers' `use_experts_implementation` describes), whose name no pattern excludes;
    left in BF16   excluded by a pattern, or an output head that shares its weight with the embedding (always);
    refused        anything else with a matrix in it: a Linear with its own forward, a weight that is not plain BF16, an
                   unknown module with 2-D parameters. Libraries skip these in silence; a study of FP8 must not.

Names: a pattern matches when it matches a whole module name or any dotted tail of it, so `.*\\.gate` is the router
`model.layers.0.mlp.gate` and not `...mlp.gate_proj`. The output head also answers to `lm_head` whatever its name is.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evalsuite.errors import CannotRunError
from evalsuite.records import Recipe

TOP_K_NAMES = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "top_k_experts", "moe_k")
"""What configurations call the number of experts that a token visits."""


@dataclass(frozen=True)
class Gemm:
    """One weight that tokens are multiplied with."""

    name: str
    """Module name for an `nn.Linear`; module name + parameter name for an expert projection."""
    module: nn.Module
    parameter: str
    """Attribute of the module that holds the weight."""
    macs: int
    """Multiply-adds a token: rows x columns, times the experts that a token visits."""
    quantised: bool

    @property
    def weight(self) -> Tensor:
        """The weight: (out, in), or one matrix an expert: (experts, out, in), transposed where the module says so."""
        weight: Tensor = getattr(self.module, self.parameter)
        return weight


def is_experts(module: nn.Module) -> bool:
    """Whether this is a set of experts in the layout of transformers' `use_experts_implementation`."""
    described = all(hasattr(module, flag) for flag in ("has_gate", "has_bias", "is_transposed"))
    return described and isinstance(getattr(module, "down_proj", None), nn.Parameter)


def projections(module: nn.Module) -> tuple[str, str]:
    """Parameter names of the two projections of a set of experts: into the experts, and out of them."""
    return ("gate_up_proj" if module.has_gate else "up_proj"), "down_proj"


def excluded(name: str, recipe: Recipe, *, head: bool = False) -> bool:
    """Whether a module of that full name stays in BF16; *head*: it is the output head."""
    parts = name.split(".")
    tails = [".".join(parts[i:]) for i in range(len(parts))] + ["lm_head"] * head
    return any(re.fullmatch(pattern, tail) for pattern in recipe.exclude for tail in tails)


def gemms(model: nn.Module, recipe: Recipe, names: Collection[str] | None = None) -> list[Gemm]:
    """All matrix multiplications with weights, in module order; routers and the output head included.

    Args:
        model: loaded, or without data (on the `meta` device) to learn names and shapes.
        recipe: which modules stay in BF16.
        names: the layers that a checkpoint has quantised, instead of the recipe's own choice.

    Raises:
        CannotRunError: the recipe quantises, and a layer can neither be quantised nor is it excluded; or nothing in
            the model would be quantised. The message lists the layers.
    """
    wanted = recipe.weights is not None or recipe.activations is not None
    tied = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    found, refused = [], []
    for name, module in model.named_modules():
        for full_name, parameter, macs in _matrices(name, module):
            shared = id(getattr(module, parameter)) in tied
            quantised = wanted and not shared and not excluded(full_name, recipe, head=module is head)
            if names is not None:
                quantised = full_name in names
            found.append(Gemm(full_name, module, parameter, macs, quantised))
            reason = _obstacle(found[-1]) if quantised else None
            if reason:
                refused.append(f"{full_name} ({reason})")
    lost = sorted(set(names or ()) - {gemm.name for gemm in found})
    if lost:
        raise CannotRunError(
            f"{recipe.id}: {len(lost)} quantised weights of the checkpoint are no matrix multiplication of "
            f"{type(model).__name__}, {lost[0]} first. Evalsuite runs quantised layers only."
        )
    if refused:
        raise CannotRunError(
            f"Recipe '{recipe.id}' cannot quantise: {', '.join(refused)}. Nothing is skipped silently: "
            "to leave them in BF16, add their names to the recipe's `exclude`."
        )
    if wanted and not any(gemm.quantised for gemm in found):
        raise CannotRunError(f"Recipe '{recipe.id}' would quantise no layer of {type(model).__name__}.")
    return found


def shares(model: nn.Module, found: list[Gemm], recipe: Recipe) -> tuple[float, float]:
    """(share of the parameters quantised, share of a token's multiply-adds in linear layers that are quantised).

    Shared parameters count once. Attention scores, which no recipe here quantises, are not linear layers.
    """
    sizes = {id(p): p.numel() for p in model.parameters()}
    weights = {id(g.weight) for g in found if g.quantised and recipe.weights is not None}
    macs = sum(g.macs for g in found)
    quantised_macs = sum(g.macs for g in found if g.quantised)
    return (
        sum(sizes[key] for key in weights) / max(sum(sizes.values()), 1),
        quantised_macs / max(macs, 1),
    )


def _matrices(name: str, module: nn.Module) -> Iterator[tuple[str, str, int]]:
    """(full name, parameter, multiply-adds a token) of each weight matrix that a module itself holds."""
    if is_experts(module):
        for parameter in projections(module):
            weight = getattr(module, parameter)
            yield f"{name}.{parameter}", parameter, _top_k(name, module) * weight[0].numel()
    elif isinstance(module, nn.Linear):
        yield name, "weight", module.weight.numel()
    elif not isinstance(module, nn.Embedding) and not _is_depthwise(module):
        for parameter, value in module.named_parameters(recurse=False):
            if value.dim() > 1:
                # A router or the like: its own name where it has one weight, as for a Linear.
                yield (name if parameter == "weight" else f"{name}.{parameter}"), parameter, value.numel()


def _is_depthwise(module: nn.Module) -> bool:
    """A convolution over time of each channel by itself (linear attention): no matrix multiplication."""
    return isinstance(module, nn.Conv1d) and module.groups == module.in_channels


def _top_k(name: str, module: nn.Module) -> int:
    """Experts that a token visits, from the module's configuration."""
    config: Any = getattr(module, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    for key in TOP_K_NAMES:
        if isinstance(getattr(config, key, None), int):
            return int(getattr(config, key))
    raise CannotRunError(f"{name}: the configuration does not say how many experts a token visits ({TOP_K_NAMES}).")


def _obstacle(gemm: Gemm) -> str | None:
    """Why a layer cannot be quantised; None if it can."""
    module, weight = gemm.module, gemm.weight
    if isinstance(module, nn.Linear):
        if type(module).forward is not nn.Linear.forward:
            return f"{type(module).__name__} has a forward of its own"
    elif not is_experts(module):
        return f"{type(module).__name__} is neither nn.Linear nor experts of a known layout"
    elif getattr(module, "_is_expert_parallel", False):
        return "its experts are spread over devices"
    if type(weight.data) is not Tensor:
        return f"its weight is a {type(weight.data).__name__} on {weight.device}, not a plain tensor"
    return None if weight.dtype == torch.bfloat16 else f"its weight is {weight.dtype}, not the BF16 master"
