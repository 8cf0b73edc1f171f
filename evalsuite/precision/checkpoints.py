"""A checkpoint as shipped: what it declares, what its tensors show, and the recipe that it therefore is.

    checkpoint = read(folder)
    checkpoint.declared, checkpoint.found          # kept apart
    checkpoint.recipe                              # the label; it follows the tensors
    checkpoint.findings                            # where the two differ
    checkpoint.weight("model.layers.0.mlp.up_proj.weight")

The configuration is a claim. `read` looks at every code and every scale: are scales finite, positive, powers of two, of
which type and grid; are codes E4M3; what is quantised. What cannot be right (a weight without scales, a NaN scale, a
transposed grid) is an error. What can be run but is not as declared is a finding, and the label follows the tensors.

The largest code of each block tells how the scale was made, since scales alone do not. A scale amax/448 in FP32 makes
it 448 in every block. A power of two rounded up leaves it anywhere above 224, rounded down anywhere above 256. So
power of two scales with 448 in *every* block were rounded after the codes were made: the values are off by up to a
factor of two (31.5 -> 9.5 dB), and no engine says so. What is not visible in a checkpoint alone: scales rounded to BF16
afterwards (the codes stay at 448), a transposed grid that is square, and codes made from other weights than those
claimed; for these compare with the master.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from evalsuite.errors import CannotRunError
from evalsuite.precision.blocks import Layer, layers_of
from evalsuite.precision.coverage import excluded
from evalsuite.precision.dialects import BLOCK, TENSOR, Block, Declared, claim, declared
from evalsuite.precision.formats import Quantized, dequantize
from evalsuite.precision.labels import mirrored, named, plain, words
from evalsuite.precision.recipes import AS_SHIPPED, KV8
from evalsuite.precision.shards import Shards
from evalsuite.records import DEFAULT_EXCLUDE, Finding, Quant, Recipe

FEW, MANY = 8, 64
"""Blocks from which their largest codes tell that scales were rounded later (power of two scales leave 448 in one block
of 20), and that they were rounded down (rounded up, one block of 5 has its largest code below 256)."""


@dataclass(frozen=True)
class Found:
    """What the tensors show, over all quantised weights."""

    weights: int
    """Quantised weights."""
    elements: int
    scale_types: tuple[str, ...]
    """Types in which scales are stored, as safetensors writes them."""
    scales: int
    powers_of_two: int
    """How many of the scales are."""
    block: Block
    blocks: int
    """Blocks with at least one code that is not zero."""
    at_maximum: int
    """Blocks whose largest code is 448."""
    below_256: int
    """Blocks whose largest code is 240 or less: more than rounding down can leave."""
    static: int
    """Weights with a scale for their activations beside them."""

    @property
    def scale(self) -> str:
        """`ue8m0` if every scale is a power of two, else `fp32`."""
        return "ue8m0" if self.powers_of_two == self.scales else "fp32"

    @property
    def rounding(self) -> str:
        """The rule of `scales.RULES` that fits the largest codes (`floor` and `even` cannot be told apart)."""
        if self.scale == "fp32":
            return "none"
        down = self.blocks >= MANY and not self.below_256 and self.at_maximum > 0.1 * self.blocks
        return "floor" if down and not self.rounded_later else "ceil"

    @property
    def rounded_later(self) -> bool:
        """Power of two scales beside codes that were made with other scales."""
        return self.scale == "ue8m0" and self.blocks >= FEW and self.at_maximum > 0.9 * self.blocks


@dataclass(frozen=True)
class Checkpoint:
    """One quantised checkpoint, checked. Weights are read when asked for."""

    shards: Shards
    declared: Declared
    found: Found
    layers: dict[str, Layer] = field(repr=False)
    """Name of a quantised weight -> its parts."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors that a model loads: weights, without what stands beside them."""
        aside = {name for layer in self.layers.values() for name in layer.aside}
        return tuple(name for name in self.shards.entries if name not in aside and not _is_kv_scale(name))

    def weight(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """A weight: code x scale in FP32, rounded once to *dtype*; one that is not quantised keeps its own type."""
        layer = self.layers.get(name)
        if layer is None:
            return self.shards.get(name)
        codes, scales = layer.codes(self.shards), layer.scales(self.shards)
        return dequantize(Quantized(codes, scales, None, None, self._quant(layer.block), {}), dtype)

    @cached_property
    def recipe(self) -> Recipe:
        """The label. Its weights are as they lie there; nothing is quantised again."""
        weights, activations = self._quant(self.found.block), None
        block = self.declared.activations
        if block == mirrored(self.declared.block):  # declared by the same words as the weights' block
            block = mirrored(self.found.block)
        if self.declared.static:
            activations = plain(TENSOR, static=True)
        elif block is not None:
            grouped = block[0] == 1 and block[1] > 0
            activations = self._quant(block) if grouped else plain(block)
        made = Recipe(
            id="", label="", weights=weights, activations=activations, kv_cache=KV8 if self.declared.kv8 else None,
            exclude=self._exclude(),
        )  # fmt: skip
        known, label = named(made)
        names = {"id": f"{AS_SHIPPED.id}: {known}", "label": f"{AS_SHIPPED.label}: {label}"}
        return made.model_copy(update=names)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Where the tensors are not what is declared, and what no engine would say."""
        found, said, seen = self.found, [], []
        if self.declared.scale != found.scale:
            seen.append(f"{found.powers_of_two:,} of {found.scales:,} scales are powers of two, so they are "
                        f"{_SCALES[found.scale]} where the configuration says {_SCALES[self.declared.scale]}")
        if self.declared.block != found.block:
            seen.append(f"a scale belongs to {words(found.block)} where the configuration says "
                        f"{words(self.declared.block)}")  # fmt: skip
        modules = [name.removesuffix(".weight") for name in self.layers]
        listed = [name for name in modules if name in self.declared.skipped]
        if listed:
            seen.append(f"{len(listed)} modules that it lists as not quantised are ({listed[0]})")
        if seen:
            message = (
                f"The checkpoint is not what its configuration declares: {'; '.join(seen)}. It was run as its tensors "
                f"show ({self.recipe.id}); an engine that trusts the configuration runs something else. Mend "
                "config.json."
            )
            said.append(Finding(code="CHECKPOINT_MISDECLARED", severity="warning", message=message))
        if found.rounded_later:
            message = (
                f"All scales are powers of two, yet the largest code is 448 in {found.at_maximum:,} of "
                f"{found.blocks:,} blocks, as only FP32 scales leave it: the scales were rounded after the codes were "
                "made, and weights are off by up to a factor of two. Quantise again from the BF16 master (`evalsuite "
                "quantize`)."
            )
            said.append(Finding(code="SCALES_ROUNDED_LATER", severity="error", message=message))
        return tuple(said)

    def _quant(self, block: Block) -> Quant:
        found = self.found
        floor = 0.0 if block == (1, 32) else 1e-4
        scale = "ue8m0" if found.scale == "ue8m0" else "fp32"
        return Quant.model_validate(
            {"element": "e4m3", "scale": scale, "rounding": found.rounding, "block": block, "amax_floor": floor}
        )

    def _exclude(self) -> tuple[str, ...]:
        """The default list if it explains what is not quantised, else the names of those modules."""
        default = Recipe(id="", label="", exclude=DEFAULT_EXCLUDE)
        entries = self.shards.entries
        left = [name.removesuffix(".weight") for name in self.names
                 if name not in self.layers and name.endswith(".weight") and len(entries[name].shape) > 1]  # fmt: skip
        quantised = [name.removesuffix(".weight") for name in self.layers]
        if all(excluded(name, default) for name in left) and not any(excluded(name, default) for name in quantised):
            return DEFAULT_EXCLUDE
        return tuple(re.escape(name) for name in left)


_SCALES = {"fp32": "FP32 scales", "ue8m0": "UE8M0 scales"}


def read(folder: Path) -> Checkpoint:
    """Read and check the quantised checkpoint in a folder.

    Raises:
        CannotRunError: it declares nothing, or something that evalsuite does not run (`dialects`); no tensor holds
            codes; a weight has no scales, or scales of the wrong shape, type or value; codes are not E4M3.
    """
    said, shards = declared(folder), Shards(folder)
    layers = layers_of(shards, BLOCK if said is None else said.block)
    if said is None:
        what = f"{len(layers)} weights hold FP8 codes, but config.json says nothing of it" if layers else (
            "it holds no quantised weights and declares none; a BF16 checkpoint runs under `recipe: bf16`")  # fmt: skip
        raise CannotRunError(f"{folder}: {what}.")
    if not layers:
        raise CannotRunError(f"{folder}: its configuration declares '{said.method}' weights, but no tensor holds FP8 "
                             "codes. The folder mixes two checkpoints; it is not run as BF16 instead.")  # fmt: skip
    if said.static and (bare := [name for name, layer in layers.items() if layer.input_scale is None]):
        raise CannotRunError(f"{folder}: activations are declared static, but {len(bare)} weights have no input_scale "
                             f"beside them, {bare[0]} first.")  # fmt: skip
    if said.kv8:
        _check_kv_scales(shards)
    return Checkpoint(shards, said, _look(shards, layers), layers)


def is_quantized(folder: Path) -> bool:
    """Whether a model folder declares quantised weights, or holds FP8 tensors."""
    return claim(folder) is not None or any(entry.dtype.startswith("F8_") for entry in Shards(folder).entries.values())


def _look(shards: Shards, layers: dict[str, Layer]) -> Found:
    """One pass over all codes and scales."""
    totals: dict[str, int] = dict.fromkeys(("elements", "scales", "powers_of_two", "blocks", "at_maximum", "below_256",
                                            "static"), 0)  # fmt: skip
    for layer in layers.values():
        for key, value in layer.counts(shards).items():
            totals[key] += value
    block = next(iter(layers.values())).block
    types = sorted({shards.entries[layer.scale].dtype for layer in layers.values()})
    return Found(weights=len(layers), scale_types=tuple(types), block=block, **totals)


def _is_kv_scale(name: str) -> bool:
    return name.endswith((".k_scale", ".v_scale", ".k_proj.output_scale", ".v_proj.output_scale"))


def _check_kv_scales(shards: Shards) -> None:
    for name in filter(_is_kv_scale, shards.entries):
        value = float(shards.get(name).float().flatten()[0])
        if value != 1.0:
            raise CannotRunError(f"{shards.folder}: '{name}' is {value:g}. Evalsuite emulates an FP8 KV cache with the "
                                 "scale 1 only.")  # fmt: skip
