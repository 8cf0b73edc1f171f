"""What a checkpoint says about its own numbers: `quantization_config` in the three ways it is written.

`declared` reads config.json (and modelopt's hf_quant_config.json) into one noun, `Declared`. It says what is claimed
and nothing more: `checkpoints` reads the tensors and says what is so. A method, a format or a number type that
evalsuite cannot run is an error that names it; nothing is ever read as BF16 because it was not understood.

    fp8                  DeepSeek, Qwen3-FP8: `weight_block_size` (without it one scale a weight), `activation_scheme`,
                         `scale_fmt: ue8m0` for scales that are powers of two
    compressed-tensors   llm-compressor: groups with a `strategy` for weights and for inputs
    modelopt             NVIDIA: one word, `quant_algo`

A new method is one function and one line in `METHODS`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evalsuite.errors import CannotRunError, did_you_mean

Block = tuple[int, int]
ROW: Block = (1, -1)
TENSOR: Block = (-1, -1)
BLOCK: Block = (128, 128)
FORMATS = ("float-quantized", "naive-quantized", "mxfp8-quantized")
"""`format` of compressed-tensors checkpoints that hold E4M3 codes, one a byte."""


@dataclass(frozen=True)
class Declared:
    """What a configuration claims."""

    method: str
    """`fp8`, `compressed-tensors` or `modelopt`."""
    block: Block
    """Rows x columns of a weight that share a scale; -1 means all."""
    scale: Literal["fp32", "ue8m0"]
    """UE8M0 only where it is said; a configuration that is silent declares FP32."""
    activations: Block | None
    """The same for activations; None leaves them in BF16."""
    static: bool = False
    """Activations have a constant scale, stored beside the weight."""
    kv8: bool = False
    """The KV cache is to be E4M3."""
    skipped: tuple[str, ...] = ()
    """Modules declared as not quantised, as written (names, prefixes or patterns of the method)."""


def declared(folder: Path) -> Declared | None:
    """What the configuration of a model folder declares; None if it declares nothing.

    Raises:
        CannotRunError: an unknown `quant_method`, a number type or a scheme that evalsuite does not run.
    """
    found = claim(folder)
    if found is None:
        return None
    method = str(found.get("quant_method", "no quant_method"))
    if method not in METHODS:
        raise CannotRunError(
            f"{folder}: quantization method '{method}' is not one that evalsuite reads.{did_you_mean(method, METHODS)} "
            "It is not run as BF16 instead."
        )
    try:
        return METHODS[method](found, folder)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CannotRunError(f"{folder}: its quantization_config ({method}) cannot be read: {error!r}.") from None


def claim(folder: Path) -> dict[str, Any] | None:
    """The configuration's own words about quantisation, unread; None if there are none."""
    config, legacy = _json(folder / "config.json"), folder / "hf_quant_config.json"
    for place in (config, config.get("text_config") or {}):
        found = place.get("quantization_config") or place.get("compression_config")
        if found:
            return dict(found)
    return {"quant_method": "modelopt"} | _json(legacy) if legacy.is_file() else None


def _fp8(config: dict[str, Any], folder: Path) -> Declared:
    if config.get("fmt", "e4m3") not in ("e4m3", "float8_e4m3fn"):
        raise _unknown(folder, "fmt", config["fmt"], ("e4m3",))
    if config.get("expert_dtype", "fp8") != "fp8":
        raise _unknown(folder, "expert_dtype", config["expert_dtype"], ("fp8",))
    scheme, scale = config.get("activation_scheme", "dynamic"), config.get("scale_fmt") or "float"
    if scheme not in ("dynamic", "static"):
        raise _unknown(folder, "activation_scheme", scheme, ("dynamic", "static"))
    if scale not in ("float", "ue8m0"):
        raise _unknown(folder, "scale_fmt", scale, ("float", "ue8m0"))
    size = config.get("weight_block_size")
    block = TENSOR if size is None else _pair(size)
    return Declared(
        "fp8", block, "ue8m0" if scale == "ue8m0" else "fp32", TENSOR if size is None else (1, block[1]),
        static=scheme == "static",
        skipped=tuple(config.get("modules_to_not_convert") or config.get("ignored_layers") or ()),
    )  # fmt: skip


def _compressed_tensors(config: dict[str, Any], folder: Path) -> Declared:
    kind = config.get("format")
    groups = list((config.get("config_groups") or {}).values())
    kinds = {group.get("format") or kind for group in groups} | ({kind} if kind else set())
    for name in sorted(str(k) for k in kinds):
        if name not in FORMATS:
            raise _unknown(folder, "format", name, FORMATS)
    schemes = {json.dumps([_scheme(g.get("weights")), _scheme(g.get("input_activations"))]) for g in groups}
    if len(schemes) != 1 or groups[0].get("weights") is None:
        raise CannotRunError(f"{folder}: {len(schemes)} different quantization schemes in config_groups; evalsuite "
                             "runs checkpoints with one scheme for all quantised layers.")  # fmt: skip
    weights, inputs = groups[0]["weights"], groups[0].get("input_activations")
    for what in filter(None, (weights, inputs)):
        if (what.get("type"), what.get("num_bits")) != ("float", 8):
            numbers = f"{what.get('type')} of {what.get('num_bits')} bits"
            raise _unknown(folder, "numbers", numbers, ("float of 8 bits",))
    static = bool(inputs) and inputs.get("dynamic") is False
    if static and inputs["strategy"] != "tensor":
        raise _unknown(folder, "static input strategy", inputs["strategy"], ("tensor",))
    return Declared(
        "compressed-tensors", _strategy(weights, folder), "ue8m0" if kind == "mxfp8-quantized" else "fp32",
        _strategy(inputs, folder) if inputs else None, static, kv8=_is_fp8(config.get("kv_cache_scheme")),
        skipped=tuple(config.get("ignore") or ()),
    )  # fmt: skip


def _scheme(args: dict[str, Any] | None) -> list[Any] | None:
    keys = ("type", "num_bits", "strategy", "block_structure", "group_size", "dynamic")
    return None if args is None else [args.get(key) for key in keys]


def _strategy(args: dict[str, Any], folder: Path) -> Block:
    """The block that a compressed-tensors `strategy` stands for."""
    strategy = args.get("strategy")
    if strategy in ("channel", "token"):
        return ROW
    if strategy == "tensor":
        return TENSOR
    if strategy == "block":
        return _pair(args["block_structure"])
    if strategy == "group":
        return (1, int(args["group_size"]))
    raise _unknown(folder, "strategy", strategy, ("channel", "token", "tensor", "block", "group"))


ALGORITHMS: dict[str, tuple[Block, Literal["fp32", "ue8m0"], Block | None, bool]] = {
    "FP8": (TENSOR, "fp32", TENSOR, True),
    "FP8_PER_CHANNEL_PER_TOKEN": (ROW, "fp32", ROW, False),
    "FP8_PB_WO": (BLOCK, "fp32", None, False),
    "MXFP8": ((1, 32), "ue8m0", (1, 32), False),
}
"""modelopt's `quant_algo`: block of the weights, scales, block of the activations, static."""


def _modelopt(config: dict[str, Any], folder: Path) -> Declared:
    inner = config.get("quantization") or config
    name = str(inner.get("quant_algo", "missing")).upper()
    if name not in ALGORITHMS:
        raise _unknown(folder, "quant_algo", name, tuple(ALGORITHMS))
    block, scale, activations, static = ALGORITHMS[name]
    cache = inner.get("kv_cache_quant_algo")
    if cache not in (None, "FP8"):
        raise _unknown(folder, "kv_cache_quant_algo", cache, ("FP8",))
    return Declared(
        "modelopt", block, scale, activations, static, kv8=cache == "FP8" or _is_fp8(inner.get("kv_cache_scheme")),
        skipped=tuple(inner.get("exclude_modules") or inner.get("ignore") or ()),
    )  # fmt: skip


METHODS: dict[str, Callable[[dict[str, Any], Path], Declared]] = {
    "fp8": _fp8,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
}
"""`quant_method` -> its reader."""


def _is_fp8(scheme: dict[str, Any] | None) -> bool:
    return bool(scheme) and (scheme or {}).get("num_bits") == 8 and (scheme or {}).get("type") == "float"


def _pair(value: Any) -> Block:
    rows, columns = (int(size) for size in value)
    if rows < 1 or columns < 1:
        raise ValueError(f"block {value}")
    return rows, columns


def _unknown(folder: Path, key: str, value: Any, allowed: tuple[str, ...]) -> CannotRunError:
    return CannotRunError(
        f"{folder}: its quantization_config says {key} = {value!r}, which evalsuite does not run (it runs "
        f"{', '.join(allowed)}). It is not run as BF16 instead."
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotRunError(f"{path}: cannot be read as JSON ({error}).") from None
    if not isinstance(document, dict):
        raise CannotRunError(f"{path}: expected a JSON object.")
    return document
