"""Quantised checkpoints into transformers models, through our own reader.

transformers' loaders cannot be used for this: on a CPU they dequantise to BF16 and run BF16 activations without saying
so, and they refuse shapes that are no multiple of the block. Here the model is built without its quantisation and
loaded with dequantised weights (code x scale), each made when transformers asks for it; names and fusions (experts) are
transformers' own. `precision.apply` then runs it with the activations of the checkpoint's label.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evalsuite.errors import CannotRunError
from evalsuite.precision.checkpoints import Checkpoint
from evalsuite.precision.coverage import gemms
from evalsuite.precision.emulate import refuse_nonfinite
from evalsuite.precision.shards import Shards
from evalsuite.precision.shipped import Shipped
from evalsuite.precision.writing import Plan
from evalsuite.records import Recipe


class _Lazy:
    """One tensor of a checkpoint, made when it is indexed: what transformers expects of a safetensors slice."""

    def __init__(self, checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> None:
        self._parts = checkpoint, name, dtype

    def __getitem__(self, index: Any) -> Tensor:
        checkpoint, name, dtype = self._parts
        return checkpoint.weight(name, dtype)[index]


def unquantised_config(folder: Path) -> Any:
    """The transformers configuration of a model folder, without its quantisation."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    for part in (config, config.get_text_config()):
        for key in ("quantization_config", "compression_config"):
            vars(part).pop(key, None)
    return config


def skeleton(folder: Path) -> Any:
    """The model of a folder in BF16 without data (on the meta device): its layers, names and shapes."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(unquantised_config(folder), dtype=torch.bfloat16)
    except (OSError, ValueError) as error:
        raise CannotRunError(f"{folder}: {str(error).splitlines()[0]}") from None


def load_shipped(checkpoint: Checkpoint, *, exact: bool) -> tuple[Any, Shipped]:
    """The model of a checkpoint in BF16, and what `apply` needs to run its codes.

    With *exact*, the quantised weights are kept in FP32 beside the model: four more bytes a parameter.
    """
    parts = targets(checkpoint)
    names = frozenset(parts.values())
    wide: dict[str, Tensor] = {}
    if exact:
        model = _load(checkpoint, torch.float32)
        wide = {_gemm(name): p.detach() for name, p in model.named_parameters() if _gemm(name) in names}
        del model
    shipped = Shipped(checkpoint.recipe, names, wide, _input_scales(checkpoint, parts))
    model = _load(checkpoint, torch.bfloat16)
    refuse_nonfinite(model)  # codes are checked where they are read, weights that are not quantised only here
    return model, shipped


def _load(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    folder = checkpoint.shards.folder
    config = unquantised_config(folder)
    state = {name: _Lazy(checkpoint, name, dtype) for name in checkpoint.names}
    try:
        kind = AutoModelForCausalLM._model_mapping[type(config)]
        model, info = kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CannotRunError(f"{folder}: weights cannot be loaded: {str(error).splitlines()[0]}") from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise CannotRunError(f"{folder}: {len(missing)} weights of {type(model).__name__} are not in the checkpoint, "
                             f"{missing[0]} first.")  # fmt: skip
    return model


def targets(checkpoint: Checkpoint) -> dict[str, str]:
    """Name of each quantised weight -> name of the `Gemm` that it becomes a part of."""
    targets = _Names(skeleton(checkpoint.shards.folder)).targets(checkpoint.names)
    parts = {name: gemm for name, (gemm, _) in targets.items() if name in checkpoint.layers}
    mixed = sorted({gemm for name, (gemm, _) in targets.items() if name not in parts} & set(parts.values()))
    if mixed:
        raise CannotRunError(f"{checkpoint.shards.folder}: {mixed[0]} is made of quantised and of plain weights; "
                             "evalsuite runs a layer in one of the two.")  # fmt: skip
    return parts


class _Names:
    """What transformers makes of the names in a checkpoint."""

    def __init__(self, model: Any) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        rules = get_model_conversion_mapping(model) or []
        self._model, self._state = model, model.state_dict()
        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]

    def targets(self, names: Iterable[str]) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Name -> (name of the `Gemm` or parameter, kinds of the operations that make it from its parts).

        Names that the model does not load (layers for speculative decoding) are left out.
        """
        from transformers.core_model_loading import rename_source_key

        found = {}
        for name in names:
            target, pattern = rename_source_key(
                name, self._renamings, self._converters, self._model.base_model_prefix, self._state
            )
            if target not in self._state and name in self._state:
                target, pattern = name, None
            if target in self._state:
                rule = next((c for c in self._converters if pattern in c.source_patterns), None)
                kinds = tuple(type(step).__name__ for step in rule.operations) if rule else ()
                found[name] = (_gemm(target), kinds)
        return found


def plan(folder: Path, recipe: Recipe) -> Plan:
    """Which tensors of a BF16 checkpoint a recipe quantises, so that each becomes what the emulated arm runs.

    Raises:
        CannotRunError: a layer that the recipe quantises is not stored as matrices of its own.
    """
    model, shards = skeleton(folder), Shards(folder)
    layers = {gemm.name: gemm for gemm in gemms(model, recipe)}
    parts: dict[str, list[str]] = {}
    for name, (target, kinds) in _Names(model).targets(shards.entries).items():
        if target in layers and layers[target].quantised:
            if set(kinds) - {"MergeModulelist", "Concatenate"} or len(shards.entries[name].shape) != 2:
                raise CannotRunError(f"{folder}: '{name}' is stored in a form ({', '.join(kinds) or 'fused experts'}) "
                                     "that the FP8 layouts do not hold.")  # fmt: skip
            parts.setdefault(target, []).append(name)
    lost = [name for name, gemm in layers.items() if gemm.quantised and name not in parts]
    if lost:
        raise CannotRunError(f"{folder}: the checkpoint has no weight for {lost[0]} and {len(lost) - 1} more layers.")
    for target, names in parts.items():
        experts = layers[target].weight.shape[0] if layers[target].weight.dim() == 3 else 1
        _check_alignment(target, recipe, shards.entries[names[0]].shape, joined=len(names) > experts)
    return Plan(
        folder, recipe, frozenset(name for names in parts.values() for name in names),
        tuple(name for name, gemm in layers.items() if not gemm.quantised),
    )  # fmt: skip


def _check_alignment(target: str, recipe: Recipe, shape: tuple[int, ...], *, joined: bool) -> None:
    """Gate and up of experts are one matrix in the arm, two in the checkpoint: no block may span both."""
    rows = recipe.weights.block[0] if recipe.weights else 1
    if joined and (rows == -1 or shape[0] % rows):
        raise CannotRunError(
            f"{target}: the arm quantises gate and up as one matrix, and a block of {rows} rows would span both (each "
            f"has {shape[0]} rows); the checkpoint stores them apart and cannot hold that. Row-wise recipes can."
        )


def _input_scales(checkpoint: Checkpoint, targets: dict[str, str]) -> dict[str, float]:
    """Constant scales of activations by `Gemm` name, where the checkpoint has static activations."""
    found: dict[str, float] = {}
    for name, value in _static(checkpoint):
        if name in targets and found.setdefault(targets[name], value) != value:
            raise CannotRunError(f"{checkpoint.shards.folder}: the parts of {targets[name]} have different input "
                                 "scales; evalsuite runs one a layer.")  # fmt: skip
    return found


def _static(checkpoint: Checkpoint) -> Iterator[tuple[str, float]]:
    if checkpoint.declared.static:
        for name, layer in checkpoint.layers.items():
            value = layer.static_scale(checkpoint.shards)
            if value is not None:
                yield name, value


def _gemm(parameter: str) -> str:
    return parameter.removesuffix(".weight")
