"""The rigs that a bench can run on. A new one is one class and one line in `RIGS`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from evalsuite.measure.loads import Rig
from evalsuite.measure.presets import Runner
from evalsuite.records import ModelRef

Lengths = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Rigged:
    """A rig, and what the bench must know of it."""

    rig: Rig
    model: ModelRef
    config: Any = None
    max_length: int | None = None
    cores: int = 1
    weights_bytes: int | None = None
    """None where the model is not in this process: its device's peaks are not measured here."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One entry of the table."""

    make: Callable[[ModelRef, dict[str, Any], Lengths], Rigged]
    runner: Runner
    options: tuple[str, ...] = field(default=())
    """Options that a suite may set."""


def _local(model: ModelRef, options: dict[str, Any], lengths: Lengths) -> Rigged:
    import torch

    from evalsuite.engines.models import locate
    from evalsuite.measure.local import LocalRig

    rig = LocalRig(model, options, lengths)
    weights = sum(path.stat().st_size for path in locate(model).glob("*.safetensors"))
    return Rigged(rig, rig.model, rig.config, rig.max_length, torch.get_num_threads(), weights)


RIGS: dict[str, Kind] = {
    "local": Kind(_local, "static", ("threads", "gemm_mode", "execution", "forward")),
}
"""Engine name -> its rig."""
