"""The parts of one quantised weight in a checkpoint: codes, scales, and which scale belongs to which codes.

A weight `X.weight` has its scales beside it under one of a few names. Values are always code x scale, also where the
name ends in `_inv`. Scales come as F32, BF16, F16, or as the bytes of UE8M0 exponents (`F8_E8M0`, or plain `U8`, which
must not be taken for numbers). Their shape gives the block, against the one that is declared.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evalsuite.errors import CannotRunError
from evalsuite.precision.dialects import ROW, TENSOR, Block
from evalsuite.precision.formats import _to_blocks
from evalsuite.precision.scales import decode_ue8m0, is_power_of_two
from evalsuite.precision.shards import Shards

CODES = "F8_E4M3"
SCALE_NAMES = ("weight_scale_inv", "weight_scale", "scale", "qscale_weight")
"""Of a module's `weight`; a bare parameter `P` (fused experts) has `P_scale_inv` or `P_scale`."""
INPUT_NAMES = ("input_scale", "activation_scale", "act_scale", "qscale_act")
KNOWN_BLOCKS: tuple[Block, ...] = ((128, 128), (1, 128), (1, 32), (64, 64), (256, 256))
"""Blocks that are tried when the grids are not the declared ones."""
NAN, MAXIMUM, C256 = 0x7F, 0x7E, 0x78
"""E4M3 codes without their sign: NaN, 448, 256. Codes are ordered like the numbers."""


@dataclass(frozen=True)
class Layer:
    """One quantised weight: names of its tensors, and its block."""

    name: str
    scale: str
    input_scale: str | None
    block: Block

    @property
    def aside(self) -> tuple[str, ...]:
        """Names of the tensors that stand beside the codes."""
        return (self.scale,) if self.input_scale is None else (self.scale, self.input_scale)

    def codes(self, shards: Shards) -> Tensor:
        """uint8 codes, (out, in) or (experts, out, in)."""
        return shards.get(self.name).view(torch.uint8)

    def scales(self, shards: Shards) -> Tensor:
        """float32 scales.

        Raises:
            CannotRunError: a type that is no scale, or a scale that is NaN, infinite, zero or negative.
        """
        return as_scales(shards.get(self.scale), f"{shards.folder}: '{self.scale}'")

    def static_scale(self, shards: Shards) -> float | None:
        """The constant scale of the layer's activations, or None."""
        if self.input_scale is None:
            return None
        values = as_scales(shards.get(self.input_scale), f"{shards.folder}: '{self.input_scale}'").flatten()
        if values.numel() != 1:
            raise CannotRunError(f"{shards.folder}: '{self.input_scale}' holds {values.numel()} scales; one a layer is "
                                 "what evalsuite runs.")  # fmt: skip
        return float(values[0])

    def counts(self, shards: Shards) -> dict[str, int]:
        """What `checkpoints.Found` adds up.

        Raises:
            CannotRunError: a code is NaN: the bytes are damaged, or of another FP8 (E4M3FNUZ uses 0x7F for 240).
        """
        codes, scales = self.codes(shards), self.scales(shards)
        blocks, _ = _to_blocks(codes & 0x7F, self.block)
        largest = blocks.amax(dim=(-3, -1)).flatten()
        nans = int((codes & 0x7F == NAN).sum())
        if nans:
            raise CannotRunError(
                f"{shards.folder}: '{self.name}' holds {nans:,} codes that are NaN in E4M3FN. It is damaged, or its "
                "codes are of another format (E4M3FNUZ)."
            )
        largest = largest[largest > 0]
        return {
            "elements": codes.numel(), "scales": scales.numel(), "powers_of_two": int(is_power_of_two(scales).sum()),
            "blocks": largest.numel(), "at_maximum": int((largest == MAXIMUM).sum()),
            "below_256": int((largest < C256).sum()), "static": int(self.input_scale is not None),
        }  # fmt: skip


def layers_of(shards: Shards, declared: Block) -> dict[str, Layer]:
    """All quantised weights, by name.

    Raises:
        CannotRunError: a weight of another 8-bit type, codes without scales, scales without codes, or a grid of scales
            that does not fit its weight.
    """
    entries, scales = shards.entries, dict[str, str]()
    for name, entry in entries.items():
        if entry.dtype.startswith("F8_") and entry.dtype not in (CODES, "F8_E8M0"):
            raise CannotRunError(f"{shards.folder}: '{name}' is {entry.dtype}; evalsuite runs E4M3FN ({CODES}) codes.")
        if entry.dtype != CODES:
            continue
        scale = next((s for s in _beside(name, SCALE_NAMES) if s in entries), None)
        if scale is None:
            raise CannotRunError(f"{shards.folder}: '{name}' holds FP8 codes but no tensor holds their scales (looked "
                                 f"for {', '.join(_beside(name, SCALE_NAMES))}).")  # fmt: skip
        scales[name] = scale
    block = _block(shards, scales, declared)
    for name in entries:
        ending = next((e for e in SCALE_NAMES[:2] if name.endswith(f".{e}")), None)
        weight = name.removesuffix(f".{ending}") + ".weight"
        if ending and name not in scales.values() and weight in entries:
            raise CannotRunError(f"{shards.folder}: '{name}' holds scales, but '{weight}' is {entries[weight].dtype}, "
                                 f"not {CODES}. The checkpoint is half converted.")  # fmt: skip
    inputs = {name: next((s for s in _beside(name, INPUT_NAMES) if s in entries), None) for name in scales}
    return {name: Layer(name, scale, inputs[name], block) for name, scale in scales.items()}


def as_scales(stored: Tensor, where: str) -> Tensor:
    """float32 scales from any type they are stored in; see the module docstring. CannotRunError names *where*."""
    if stored.dtype in (torch.uint8, torch.float8_e8m0fnu):
        values = decode_ue8m0(stored.view(torch.uint8))
    elif stored.dtype in (torch.float32, torch.bfloat16, torch.float16):
        values = stored.float()
    else:
        raise CannotRunError(f"{where} is {stored.dtype}; scales are F32, BF16, F16, or UE8M0 bytes.")
    bad = int((~values.isfinite() | (values <= 0)).sum())
    if bad:
        raise CannotRunError(f"{where}: {bad:,} of {values.numel():,} scales are NaN, infinite, zero or negative. The "
                             "checkpoint is damaged, or was made from weights that held NaN.")  # fmt: skip
    return values


def _beside(name: str, endings: tuple[str, ...]) -> list[str]:
    if name.endswith(".weight"):
        return [f"{name.removesuffix('weight')}{ending}" for ending in endings]
    return [f"{name}_{ending.removeprefix('weight_')}" for ending in endings if ending != "scale"]


def _grid(shape: tuple[int, ...], block: Block) -> tuple[int, ...]:
    """Shape of the scales of a weight in blocks."""
    rows, columns = (full if size == -1 else size for size, full in zip(block, shape[-2:], strict=True))
    return (*shape[:-2], -(-shape[-2] // rows), -(-shape[-1] // columns))


def _block(shards: Shards, scales: dict[str, str], declared: Block) -> Block:
    """The block that all grids fit, the declared one first. *scales*: weight -> its scales."""
    shapes = {name: (shards.entries[name].shape, _stored_grid(shards, name, scale)) for name, scale in scales.items()}
    for block in (declared, TENSOR, ROW, *KNOWN_BLOCKS):
        if all(grid == _grid(shape, block) for shape, grid in shapes.values()):
            return block
    name, shape, grid = next((n, s, g) for n, (s, g) in shapes.items() if g != _grid(s, declared))
    expected = _grid(shape, declared)
    if grid == (*expected[:-2], expected[-1], expected[-2]):
        why = "the grid is transposed: columns x rows of blocks instead of rows x columns"
    else:
        why = "it fits no block that evalsuite knows (a fused layer with a scale for each part, or a wrong tensor)"
    raise CannotRunError(f"{shards.folder}: '{scales[name]}' has shape {grid} beside a weight of {shape}; in blocks of "
                         f"{declared} it would be {expected}: {why}.")  # fmt: skip


def _stored_grid(shards: Shards, name: str, scale: str) -> tuple[int, ...]:
    """Shape of the scales as (..., row blocks, column blocks)."""
    shape, grid = shards.entries[name].shape, shards.entries[scale].shape
    if len(shape) < 2:
        raise CannotRunError(f"{shards.folder}: '{name}' holds FP8 codes but has one dimension.")
    if len(grid) == 4 and grid[1] == grid[3] == 1:  # modelopt: (row blocks, 1, column blocks, 1)
        return (grid[0], grid[2])
    if all(size == 1 for size in grid):
        return (1,) * len(shape)
    return (*grid, 1) if grid == shape[:-1] else grid
