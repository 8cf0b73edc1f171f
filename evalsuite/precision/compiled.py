"""`kernel.cpp`, built on demand: one pass over memory where eager PyTorch takes twelve.

It is compiled once for this machine's processor (`c++`, or what the variable CXX names) into the user's cache folder,
in about two seconds, and loaded from there afterwards. Where there is no compiler, the build fails, or
EVALSUITE_COMPILE=off is set, there is no kernel and `fake.py` stays eager: the same numbers, slower. Compiled
quantisers have been seen to be wrong for one length of row and right for all others, so each length is checked on all
BF16 numbers before its first use (`Fast.agrees`), and a length that differs stays eager.

The library is plain C called through ctypes: no headers of torch to compile, and OpenMP's threads are torch's own.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evalsuite.precision.elements import Element, Int8, Minifloat

FLAGS = ("-O3", "-march=native", "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp",
         "-shared", "-fPIC")  # fmt: skip
SECONDS = 120
SERIAL = 1 << 15
"""Elements below which one thread is faster."""
Eager = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(rows, K) in BF16 -> the numbers in float32, and the blocks' amax patterns."""


class _Format(ctypes.Structure):
    _fields_ = (("factor", ctypes.c_float), ("least", ctypes.c_float), ("max", ctypes.c_float),
                ("clamps", ctypes.c_int32), ("signs", ctypes.c_int32), ("fixed", ctypes.c_int32))  # fmt: skip


def _format(element: Element, clamps: bool) -> _Format | None:
    """What the kernel is told of a format; None for one that it does not know."""
    if isinstance(element, Int8):
        factor = 1.5 * 2.0**23
        return _Format(factor, factor, element.max, clamps, False, True)
    if isinstance(element, Minifloat):
        factor = 1.5 * 2.0 ** (23 - element.mantissa_bits)
        least = factor * 2.0 ** (1 - element.bias)
        return _Format(factor, least, element.max, clamps, element.negative_zero, False)
    return None


class Fast:
    """One format with its scales, for rows cut into blocks of `width` (-1: the row is one block)."""

    def __init__(self, kernel: Any, told: _Format, scales: Tensor, width: int) -> None:
        self._kernel, self._told, self._scales, self._width = kernel, told, scales.contiguous(), width
        self._checked: dict[int, bool] = {}

    @classmethod
    def of(cls, element: Element, clamps: bool, scales: Tensor, width: int) -> "Fast | None":
        """The kernel for a format, if there is a kernel and it knows the format. `scales`: by BF16 amax pattern."""
        told = _format(element, clamps)
        found = loaded() if told is not None and scales.device.type == "cpu" else None
        return None if told is None or found is None else cls(found, told, scales, width)

    def agrees(self, k: int, eager: Eager) -> bool:
        """Whether rows of `k` come out as eager PyTorch makes them, bit for bit: all BF16 numbers, tried once."""
        if k not in self._checked:
            x = _all_numbers(k)
            values, amax = eager(x)
            ways = ((torch.float32, False), (torch.float32, True), (torch.bfloat16, True))
            self._checked[k] = all(self._equals(x, values, amax, way) for way in ways)
        return self._checked[k]

    def _equals(self, x: Tensor, values: Tensor, amax: Tensor, way: tuple[torch.dtype, bool]) -> bool:
        dtype, rounded = way
        expected = (values.bfloat16() if rounded else values).to(dtype)
        found, blocks = self(x, dtype, rounded)
        whole = torch.int32 if dtype == torch.float32 else torch.int16
        same = (found.view(whole) == expected.view(whole)) | (found.isnan() & expected.isnan())
        return bool(same.all()) and torch.equal(blocks, amax)

    def __call__(self, x: Tensor, dtype: torch.dtype, rounded: bool) -> tuple[Tensor, Tensor]:
        """Quantised and dequantised (..., K), rounded to BF16 or not, and the blocks' amax patterns."""
        x, k = x.contiguous(), x.shape[-1]
        width = k if self._width == -1 else self._width
        out, amax = torch.empty(x.shape, dtype=dtype), torch.empty(x.numel() // k * -(-k // width), dtype=torch.int16)
        mode = 2 if dtype == torch.bfloat16 else int(rounded)
        threads = 1 if x.numel() < SERIAL else torch.get_num_threads()
        self._kernel(x.data_ptr(), x.numel() // k, k, width, self._scales.data_ptr(), ctypes.byref(self._told),
                     out.data_ptr(), amax.data_ptr(), mode, threads)  # fmt: skip
        return out, amax


def _all_numbers(k: int) -> Tensor:
    """Every BF16 number once in rows of `k`, shuffled so that blocks hold small and large ones, then once sorted."""
    patterns = torch.arange(1 << 16, dtype=torch.int32)
    finite = patterns[((patterns & 0x7F80) != 0x7F80)]
    shuffled = finite[torch.randperm(len(finite), generator=torch.Generator().manual_seed(k))]
    by_size = finite[(finite & 0x7FFF).argsort()]
    both = torch.cat((shuffled, by_size, patterns)).to(torch.int16).view(torch.bfloat16)
    return both[: len(both) // k * k].view(-1, k) if len(both) >= k else both.repeat(-(-k // len(both)))[:k][None]


@cache
def loaded() -> Any:
    """The compiled function, or None where it cannot be had."""
    if os.environ.get("EVALSUITE_COMPILE", "").lower() in ("off", "0", "no"):
        return None
    try:
        function = ctypes.CDLL(str(_built())).evalsuite_qdq
    except (OSError, RuntimeError, AttributeError, subprocess.SubprocessError):
        return None
    function.restype = None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [pointer, *[number] * 3, *[pointer] * 4, *[ctypes.c_int] * 2]
    return function


def _built() -> Path:
    """The library's path, built if it is not there; OSError or SubprocessError if it cannot be."""
    source = files("evalsuite.precision").joinpath("kernel.cpp").read_bytes()
    name, *more = shlex.split(os.environ.get("CXX") or "c++")
    compiler = shutil.which(name)
    if compiler is None:
        raise FileNotFoundError(f"no C++ compiler '{name}'")
    made_for = [source, " ".join((*more, *FLAGS)).encode(), compiler.encode(), _processor().encode()]
    digest = hashlib.sha256(b"\0".join(made_for)).hexdigest()[:16]
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evalsuite"
    target = cached / f"kernel-{digest}.so"
    if not target.is_file():
        cached.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached) as folder:
            (Path(folder) / "kernel.cpp").write_bytes(source)
            made = Path(folder) / "kernel.so"
            command = [compiler, *more, *FLAGS, str(Path(folder) / "kernel.cpp"), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)  # noqa: S603 - the user's compiler
            made.replace(target)  # whole or not at all, also where two processes build
    return target


def _processor() -> str:
    """What code for this very processor depends on: a home folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return platform.machine() + next((line for line in lines if line.startswith(("flags", "Features"))), "")
