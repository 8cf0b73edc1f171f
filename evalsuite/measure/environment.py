"""What else may explain a speed: written into every bench. Nothing is changed, and nothing that is secret is kept."""

import os
import platform
from pathlib import Path
from typing import Any

SWITCHES = ("OMP_", "MKL_", "KMP_", "PYTORCH_", "TORCH_", "CUDA_", "NVIDIA_", "VLLM_", "HIP_", "ASCEND_", "EVALSUITE_")
"""Beginnings of the environment variables that change speed."""
SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")


def facts() -> dict[str, Any]:
    """Governor, affinity, load, limits, switches and torch's build; None where the system does not say."""
    import torch

    cpu = Path("/sys/devices/system/cpu")
    return {
        "kernel": platform.release(),
        "affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "load_average": _load(),
        "governor": _read(cpu / "cpu0/cpufreq/scaling_governor"),
        "turbo_off": _read(cpu / "intel_pstate/no_turbo"),
        "smt": _read(cpu / "smt/active"),
        "cgroup_cpu": _read(Path("/sys/fs/cgroup/cpu.max")),
        "cgroup_memory": _read(Path("/sys/fs/cgroup/memory.max")),
        "hypervisor": _hypervisor(),
        "threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "torch_build": torch.__config__.show().splitlines(),
        "switches": {name: value for name, value in sorted(os.environ.items())
                     if name.startswith(SWITCHES) and not any(word in name for word in SECRET)},
    }  # fmt: skip


def _load() -> list[float] | None:
    try:
        return [round(x, 2) for x in os.getloadavg()]
    except OSError:
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _hypervisor() -> bool | None:
    """Whether the processor says that it is a virtual machine's."""
    text = _read(Path("/proc/cpuinfo"))
    return None if text is None else " hypervisor" in text
