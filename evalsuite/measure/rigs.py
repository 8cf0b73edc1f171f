"""The rigs that a bench can run on. A new one is one class and one line in `RIGS`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from evalsuite.errors import CannotRunError
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
    """Threads that a load uses."""
    weights_bytes: int | None = None
    """None where the model is not in this process: its device's peaks are not measured here."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a rig is made from."""

    model: ModelRef
    options: dict[str, Any]
    lengths: Lengths = ()
    devices: tuple[int, ...] = (1,)


@dataclass(frozen=True, slots=True)
class Kind:
    """One entry of the table."""

    make: Callable[[Asked], Rigged]
    runner: Runner
    options: tuple[str, ...] = field(default=())
    """Options that a suite may set."""


def _local(asked: Asked) -> Rigged:
    import torch

    from evalsuite.engines.models import locate
    from evalsuite.measure.local import LocalRig

    weights = sum(path.stat().st_size for path in locate(asked.model).glob("*.safetensors"))
    rig = LocalRig(asked.model, asked.options, asked.lengths)
    if asked.devices == (1,):
        return Rigged(rig, rig.model, rig.config, rig.max_length, torch.get_num_threads(), weights)
    from evalsuite.measure.parallel import ParallelRig, Setting

    rig.close()
    most = max(asked.devices)
    if torch.accelerator.is_available() and torch.accelerator.device_count() < most:
        raise CannotRunError(f"--devices asks for {most}, and there are {torch.accelerator.device_count()}.")
    threads = max(1, torch.get_num_threads() // most)
    setting = Setting(asked.model, asked.options, asked.lengths, asked.devices, threads, "")
    return Rigged(ParallelRig(setting), rig.model, rig.config, rig.max_length, threads * most, weights)


def _endpoint(asked: Asked) -> Rigged:
    from evalsuite.measure.endpoint import EndpointRig

    return Rigged(EndpointRig(asked.model, asked.options), asked.model)


def _vllm(asked: Asked) -> Rigged:
    import os

    from evalsuite.engines.models import locate, reader_of, weights_sha256
    from evalsuite.measure.vllm_offline import VllmRig

    folder = locate(asked.model)
    _, config = reader_of(folder)
    # vLLM runs in processes of its own and loads the folder that it is named.
    model = ModelRef(id=str(folder), revision=asked.model.revision)
    known = asked.model.model_copy(update={"weights_sha256": weights_sha256(folder)})
    return Rigged(VllmRig(model, asked.options), known, config, config.max_position_embeddings, os.cpu_count() or 1)


RIGS: dict[str, Kind] = {
    "local": Kind(_local, "static", ("threads", "gemm_mode", "execution", "forward")),
    "vllm": Kind(_vllm, "offline", ("max_num_seqs", "enforce_eager", "kv_cache_gib", "threads_bind", "llm")),
    "endpoint": Kind(
        _endpoint, "serve",
        ("endpoints", "names", "api_key_env", "tokenizer", "timeout_s", "retries", "slo", "ignore_eos"),
    ),
}
"""Engine name -> its rig."""
