"""What this machine reaches at most, measured at the start of a bench: a large matrix product, a read of memory.

The limit of an arm is stated against the data sheet where there is one (`roofline.PEAKS`) and against these.
"""

import time
from collections.abc import Callable

import torch

from evalsuite.precision import devices
from evalsuite.precision.emulate import best_kernel
from evalsuite.records import Peaks

SIZE = {"cpu": 1024}
"""Rows and columns of the product; 8192 on accelerators."""
SECONDS = 0.4
LEAST_BYTES = 64 << 20


def measure(weights_bytes: int) -> Peaks:
    """Peaks of the device that models run on. Takes about two seconds.

    Args:
        weights_bytes: of the model: memory is read in a buffer as large as the weights, since a small model lies in the
            processor's caches and is read faster than memory is.
    """
    where = torch.device(devices.best())
    size = SIZE.get(where.type, 8192)
    flops = {"fp32": 2 * size**3 / _best(_product(size, torch.float32, where))}
    native = 2 * size**3 / _best(_product(size, torch.bfloat16, where))
    widened = best_kernel(where) != "linear-bf16"
    flops["bf16"] = max(native, flops["fp32"]) if widened else native
    count = max(weights_bytes, LEAST_BYTES if where.type != "cpu" else 1 << 20) // 4
    buffer, one = torch.ones(count // 512, 512, device=where), torch.ones(512, device=where)
    rate = 4 * buffer.numel() / min(_best(buffer.sum), _best(lambda: buffer @ one))
    how = "BF16 widened to FP32, as the engine does" if widened else "BF16"
    source = f"measured: product of {size} x {size} ({how}), read of {4 * buffer.numel() / 1e6:.0f} MB"
    label = devices.present(devices.best()).probe().label
    return Peaks(device=label, flops=flops, bytes_per_s=rate, source=source)


def _product(size: int, dtype: torch.dtype, where: torch.device) -> Callable[[], object]:
    a, b = (torch.randn(size, size, device=where).to(dtype) for _ in range(2))
    return lambda: a @ b


def _best(call: Callable[[], object]) -> float:
    """Seconds of the fastest call, each with the device waited for; at least three, for about `SECONDS`."""
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < 3 or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        call()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        found.append(time.perf_counter() - start)
        if len(found) >= 3 and time.perf_counter() - began > 4 * SECONDS:
            break
    return min(found)
