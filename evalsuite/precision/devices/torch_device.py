"""A device through plain torch: the base of all adapters, and the CPU.

`scaled_mm` is the one place where a scaled kernel is called. It is handed to a device at construction, so a test puts
another function in its place (`devices.reference`) and everything around it stays what runs on hardware.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from evalsuite import machine
from evalsuite.errors import CannotRunError
from evalsuite.precision.devices import MINIMUM_DB, Capabilities, Probe
from evalsuite.precision.formats import quantize_as
from evalsuite.precision.packing import (
    SCHEMES,
    Operand,
    Scheme,
    pack_activation,
    pack_weight,
    reference_product,
    sqnr_db,
)
from evalsuite.precision.quantiser import Blocks, Quantiser
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Quant

Kernel = Callable[[Operand, Operand, Scheme, Tensor | None], Tensor]
"""Activations, weight, scheme, BF16 bias or None -> BF16 (M, N)."""
FAILURES = (RuntimeError, ValueError, TypeError, AttributeError)
"""What a kernel that is not there raises; NotImplementedError is a RuntimeError."""
PROBE_RECIPES = {"block": "fp8-e4m3", "row": "fp8-e4m3-row", "tensor": "fp8-e4m3-tensor", "mx": "mxfp8-rceil"}
"""Scheme -> the recipe that its probe quantises by."""


def scaled_mm(a: Operand, b: Operand, scheme: Scheme, bias: Tensor | None) -> Tensor:
    """torch's scaled matrix multiplication. Fast accumulation is off: it skips the promotion to FP32 registers."""
    scaling = [getattr(F.ScalingType, name) for name in scheme.scaling]
    swizzle = F.SwizzleType.SWIZZLE_32_4_4 if scheme.name == "mx" else None
    return F.scaled_mm(
        a.codes, b.codes.t(), a.packed, scaling[0], b.packed, scaling[1], swizzle, swizzle,
        bias=bias, output_dtype=torch.bfloat16, use_fast_accum=False,
    )  # fmt: skip


class TorchDevice:
    """A device that torch reaches; see `devices.Device`."""

    name = "cpu"
    """Of the device, and of torch's backend."""
    package: str | None = None
    """The package that brings torch's backend, if torch itself does not."""
    verified = False
    obstacle: str | None = None
    """Why nothing counts as native here, whatever the probes say."""
    compiled = True
    """Whether activations are quantised by a compiled kernel (where that gives the same bits)."""

    def __init__(self, kernel: Kernel = scaled_mm) -> None:
        self._kernel = kernel
        self.kernel = kernel.__name__.strip("_")

    def missing(self) -> str | None:
        """Why the device is not there, or None."""
        if self.package is not None:
            try:
                __import__(self.package)
            except (ImportError, OSError, RuntimeError) as error:
                return f"package '{self.package}' cannot be imported ({str(error).splitlines()[0]})"
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if found is None or found.type != self.name:
            return f"torch's accelerator is {found.type if found else 'none'}"
        return None

    def torch_device(self) -> torch.device:
        """Where its tensors live."""
        return torch.device(self.name)

    def label(self) -> str:
        """The product's name, as far as torch tells."""
        return self.name

    def probe(self) -> Capabilities:
        """Try every scheme once."""
        return self._capabilities

    @cached_property
    def _capabilities(self) -> Capabilities:
        probes = tuple(self._probe(scheme) for scheme in SCHEMES.values())
        return Capabilities(
            device=self.name, label=self.label(), verified=self.verified, obstacle=self.obstacle,
            fp8="e4m3fn" if any(probe.works for probe in probes) else self._other_fp8(), schemes=probes,
        )  # fmt: skip

    def _probe(self, scheme: Scheme) -> Probe:
        a, b, bias = probe_problem(scheme, self.torch_device())
        try:
            product = self.linear(a, b, scheme, None)
            self.synchronize()
        except FAILURES as error:
            return Probe(scheme=scheme.name, works=False, sqnr_db=None, bias=False, reason=_first_line(error))
        found = sqnr_db(product.cpu(), reference_product(a, b, scheme).cpu())
        works = found >= MINIMUM_DB
        reason = None if works else f"its product is {found:.1f} dB from the FP32 product, under {MINIMUM_DB:.0f} dB"
        return Probe(scheme=scheme.name, works=works, sqnr_db=round(max(found, -999.0), 2),
                     bias=works and self._adds_bias(a, b, scheme, bias), reason=reason)  # fmt: skip

    def _adds_bias(self, a: Operand, b: Operand, scheme: Scheme, bias: Tensor) -> bool:
        try:
            product = self.linear(a, b, scheme, bias)
            self.synchronize()
        except FAILURES:
            return False
        return sqnr_db(product.cpu(), reference_product(a, b, scheme, bias).cpu()) >= MINIMUM_DB

    def _other_fp8(self) -> str | None:
        """The one FP8 format of a chip that refuses OCP's: AMD's MI300 knows only e4m3fnuz."""
        ones = torch.ones(32, 32, device=self.torch_device())
        scale = torch.ones((), device=self.torch_device())
        kind = F.ScalingType.TensorWise
        try:
            codes = ones.to(torch.float8_e4m3fnuz)
            product = F.scaled_mm(codes, codes.t(), scale, kind, scale, kind)
            self.synchronize()
        except FAILURES:
            return None
        return "e4m3fnuz" if bool((product == 32).all()) else None

    def quantize_act(self, x: Tensor, quant: Quant, rows: int = 1, columns: int = 1) -> Blocks:
        """Quantise activations; the bits of `formats`."""
        if quant.element != "e4m3" or quant.scale not in ("fp32", "ue8m0"):
            raise CannotRunError(f"No quantiser for {quant.element} elements with {quant.scale} scales on {self.name}.")
        return self._quantiser(x, quant, rows, columns)

    def quantiser(self, quant: Quant) -> str:
        """`compiled`, or `eager` with the reason."""
        return self._quantiser.kind(quant)

    @cached_property
    def _quantiser(self) -> Quantiser:
        return Quantiser(self.torch_device(), compiled=self.compiled)

    def linear(self, a: Operand, b: Operand, scheme: Scheme, bias: Tensor | None) -> Tensor:
        """The kernel call."""
        return self._kernel(a, b, scheme, bias)

    def synchronize(self) -> None:
        """Wait until everything has run."""
        torch.accelerator.synchronize()

    def kernel_times(self, call: Callable[[], Any]) -> dict[str, float]:
        """Seconds by kernel, from torch's profiler."""
        self.synchronize()
        with profile(activities=torch.profiler.supported_activities()) as seen:  # type: ignore[no-untyped-call]
            call()
            self.synchronize()
        # An operator's event carries its kernels' time once more; only the kernels' own events count.
        on_chip = [event for event in seen.key_averages() if event.device_type.name != "CPU"]
        return {event.key: event.self_device_time_total / 1e6 for event in on_chip}


class CpuDevice(TorchDevice):
    """The processor. torch multiplies FP8 on it in software, 10 to 70 times slower than BF16; nothing is native."""

    name = "cpu"
    verified = True
    obstacle: str | None = "processors multiply FP8 in software only, slower than BF16"
    # A first compilation takes most of a minute on one core; the emulation has its own fast quantiser.
    compiled = False

    def missing(self) -> str | None:
        """Always there."""
        return None

    def label(self) -> str:
        """The processor's name."""
        return machine.facts()["processor"] or "cpu"

    def synchronize(self) -> None:
        """Nothing runs behind our back."""

    def kernel_times(self, call: Callable[[], Any]) -> dict[str, float]:
        """Seconds by operator."""
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            call()
        return {event.key: event.self_cpu_time_total / 1e6 for event in seen.key_averages()}


def probe_problem(scheme: Scheme, device: torch.device) -> tuple[Operand, Operand, Tensor]:
    """A small multiplication, 256 x 384 x 640, that shows a wrong layout: not square, K/128 no multiple of 4, and
    blocks of very different magnitude. Activations, weight, bias."""
    generator = torch.Generator().manual_seed(20)
    recipe = RECIPES[PROBE_RECIPES[scheme.name]]
    assert recipe.activations
    assert recipe.weights

    def values(rows: int) -> Tensor:
        x = torch.randn(rows, 640, generator=generator)
        sizes = torch.exp2(torch.randint(-3, 4, (rows // 128, 5), generator=generator).float())
        return (x * sizes.repeat_interleave(128, 0).repeat_interleave(128, 1)).bfloat16()

    x, w = quantize_as(values(256), recipe.activations), quantize_as(values(384), recipe.weights)
    bias = torch.randn(384, generator=generator).mul_(100).bfloat16().to(device)
    codes = [q.codes.to(device).view(torch.float8_e4m3fn) for q in (x, w)]
    return (
        pack_activation(codes[0], x.scales.to(device), scheme),
        pack_weight(codes[1], w.scales.to(device), recipe.weights, scheme),
        bias,
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
