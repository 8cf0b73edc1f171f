"""No hardware: the FP32 product of the same codes and scales, in the same layout, in place of a kernel.

Everything native but the kernel runs on this, on a CPU: quantisers, padding, packing, the layers, the fault report and
the benchmark's rehearsal. It counts as no chip: its multiplications are FP32, so an arm on it is `native-unproven`.
"""

import torch
from torch import Tensor

from evalsuite.precision.devices.torch_device import CpuDevice, Kernel
from evalsuite.precision.packing import Operand, Scheme, reference_product


def reference_kernel(a: Operand, b: Operand, scheme: Scheme, bias: Tensor | None) -> Tensor:
    """FP32 operands, FP32 accumulation, bias, one rounding to BF16."""
    return reference_product(a, b, scheme, bias).to(torch.bfloat16)


class ReferenceDevice(CpuDevice):
    """The reference kernel as a device; see the module docstring."""

    verified = False
    obstacle = None

    def __init__(self, kernel: Kernel = reference_kernel) -> None:
        super().__init__(kernel)

    def label(self) -> str:
        """What it is, so that no result can be taken for a chip's."""
        return "reference kernel, no hardware"
