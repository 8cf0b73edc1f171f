"""Devices: what a chip does with 8-bit numbers, behind one small interface.

A device is one class (`Device` says what it offers) and one line in `DEVICES`. Packages of others add theirs through
the entry-point group `evalsuite.devices`: the name is the device's, the object is called without arguments.

What a device can do is found by trying (`probe`): each scheme of `packing` multiplies a small problem, and the result
is held against the FP32 product of the same codes and scales. Versions and product names decide nothing.

`cpu` and `cuda` are ours to vouch for once they have run; `npu`, `mlu`, `musa` and `xpu` were written from public
source code, for hardware that we do not have, and say so (`verified`). `reference` is no hardware at all: the FP32
product in place of the kernel call, for tests and rehearsals; it has to be asked for by an object, not by a name.
"""

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Protocol

import torch
from torch import Tensor

from evalsuite.errors import CannotRunError, UsageError, did_you_mean
from evalsuite.precision.packing import Operand, Scheme
from evalsuite.precision.quantiser import Blocks
from evalsuite.records import Noun, Quant

NOT_VERIFIED = "not verified on hardware"
ENTRY_POINTS = "evalsuite.devices"
MINIMUM_DB = 50.0
"""A kernel with BF16 output is within this of the FP32 product (rounding to BF16 alone leaves 55 dB)."""


class Probe(Noun):
    """What became of one scheme on one device."""

    scheme: str
    works: bool
    """It ran, and its result was within `MINIMUM_DB`."""
    sqnr_db: float | None
    """Of the product against the FP32 product of the same operands; None where it did not run."""
    bias: bool
    """Whether the kernel also adds a bias before it rounds; otherwise that is done outside, after rounding to BF16."""
    reason: str | None
    """Why it does not work."""


class Capabilities(Noun):
    """What a device was seen to do."""

    device: str
    label: str
    """Product name, or the processor's."""
    verified: bool
    """Whether this adapter has been run on its hardware by its authors."""
    obstacle: str | None
    """Why nothing counts as native although kernels may answer, e.g. a processor without FP8 units."""
    fp8: str | None
    """Element format that its kernels multiply: `e4m3fn` (OCP), `e4m3fnuz` (AMD MI300), None."""
    schemes: tuple[Probe, ...]

    def probe_of(self, scheme: str) -> Probe | None:
        """The result for a scheme; None where the device was not asked."""
        return next((probe for probe in self.schemes if probe.scheme == scheme), None)

    def cannot(self, scheme: str) -> str | None:
        """Why a scheme does not run natively here, or None."""
        if self.obstacle:
            return self.obstacle
        probe = self.probe_of(scheme)
        if probe is None:
            return f"no kernel of scheme '{scheme}' is known for it"
        return None if probe.works else probe.reason


class Device(Protocol):
    """What a device offers. `devices.torch_device.TorchDevice` does all of it in plain torch; adapters override."""

    name: str
    verified: bool
    kernel: str
    """Which function multiplies, e.g. `scaled_mm`."""

    def missing(self) -> str | None:
        """Why the device is not there, or None."""

    def torch_device(self) -> torch.device:
        """Where its tensors live."""

    def probe(self) -> Capabilities:
        """Try everything once; later calls give the same answer."""

    def quantize_act(self, x: Tensor, quant: Quant, rows: int = 1, columns: int = 1) -> Blocks:
        """Quantise BF16 activations (M, K), padded to multiples of *rows* and *columns*.

        Raises:
            CannotRunError: the device has no such quantiser.
        """

    def quantiser(self, quant: Quant) -> str:
        """Which quantiser that is, for people."""

    def linear(self, a: Operand, b: Operand, scheme: Scheme, bias: Tensor | None) -> Tensor:
        """BF16 (M, N): the product of activations and weight, plus a BF16 bias (N)."""

    def synchronize(self) -> None:
        """Wait until everything has run."""

    def kernel_times(self, call: Callable[[], Any]) -> dict[str, float]:
        """Kernel name -> seconds that it took in *call*."""


def _cpu() -> Device:
    from evalsuite.precision.devices.torch_device import CpuDevice

    return CpuDevice()


def _cuda() -> Device:
    from evalsuite.precision.devices.cuda import CudaDevice

    return CudaDevice()


def _vendor(name: str) -> Callable[[], Device]:
    def make() -> Device:
        from evalsuite.precision.devices import vendors

        return vendors.VENDORS[name]()

    return make


DEVICES: dict[str, Callable[[], Device]] = {
    "cpu": _cpu,
    "cuda": _cuda,  # NVIDIA; AMD's ROCm and MetaX answer to the same name
    "npu": _vendor("npu"),  # Huawei Ascend
    "mlu": _vendor("mlu"),  # Cambricon
    "musa": _vendor("musa"),  # Moore Threads
    "xpu": _vendor("xpu"),  # Intel
}
"""Device name (torch's) -> constructor."""


def known() -> dict[str, Callable[[], Device]]:
    """`DEVICES` and those that installed packages add; a package cannot replace one of ours."""
    added = {point.name: point.load for point in entry_points(group=ENTRY_POINTS)}
    return {name: (lambda load=load: load()()) for name, load in added.items()} | DEVICES


@cache
def device(name: str) -> Device:
    """The device of that name, made once. UsageError if there is none; whether it is there says `missing`."""
    makers = known()
    if name not in makers:
        raise UsageError(f"Unknown device '{name}'.{did_you_mean(name, makers)}")
    return makers[name]()


def present(name: str) -> Device:
    """The device of that name; CannotRunError where it is not there."""
    found = device(name)
    why = found.missing()
    if why:
        raise CannotRunError(f"Device '{name}' is not there: {why}. Devices here: {', '.join(here())}.")
    return found


def here() -> list[str]:
    """Names of the devices that are there."""
    return [name for name in known() if device(name).missing() is None]


def of(where: torch.device) -> Device | None:
    """The device on which a model's tensors live; None for a backend that has no adapter."""
    return device(where.type) if where.type in known() else None


def best() -> str:
    """The device that a model runs on: the accelerator, or the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator.type if accelerator is not None else "cpu"
