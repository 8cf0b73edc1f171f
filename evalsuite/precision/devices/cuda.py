"""CUDA devices; the one module that may name `torch.cuda`.

NVIDIA from Hopper on runs `block` (sm_90), from Ada on `row` and `tensor` (sm_89), from Blackwell on `mx` (sm_100);
what a given card and build really run is what the probes say. AMD (ROCm) and MetaX builds answer here too.
"""

import torch

from evalsuite.precision.devices.torch_device import TorchDevice


def uuids() -> tuple[str, ...]:
    """UUIDs of the visible devices, in torch's order: what meters must meter."""
    return tuple(str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count()))


class CudaDevice(TorchDevice):
    """The current CUDA device."""

    name = "cuda"
    # Written and tested against the reference kernel; set when the benchmark of `benchmarks/native.py` has run on one.
    verified = False

    def label(self) -> str:
        """Product name, compute capability, CUDA or HIP version."""
        major, minor = torch.cuda.get_device_capability()
        version = f"HIP {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        return f"{torch.cuda.get_device_name()} (sm_{major}{minor}, {version})"
