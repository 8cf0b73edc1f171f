"""Adapters for accelerators that we do not have: *not verified on hardware*, written from public source code.

Each needs its vendor's torch backend (`torch_npu`, `torch_mlu`, `torch_musa`; Intel's is part of torch). Where nothing
else is said the device runs our quantiser in torch operators and torch's `scaled_mm`, if its probe passes.

Ascend has operators of its own: `npu_dynamic_mx_quant` quantises in blocks of 32 (`scale_alg` 0 rounds scales down,
the OCP rule, and is the default of most users; 1 rounds up), and `npu_quant_matmul` multiplies. Only Ascend 950 has
them. Sources: vllm-ascend `quantization/methods/w8a8_mxfp8.py`, Ascend op-plugin `DynamicMxQuantKernelNpuOpApi.cpp`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evalsuite.errors import CannotRunError
from evalsuite.precision.devices.torch_device import TorchDevice
from evalsuite.precision.packing import Operand, Scheme, pad, unswizzled
from evalsuite.precision.quantiser import Blocks
from evalsuite.precision.scales import decode_ue8m0, encode_ue8m0
from evalsuite.records import Quant

SCALE_ALGORITHMS = {"floor": 0, "ceil": 1}
"""Scale rounding -> `scale_alg` of Ascend's quantiser."""


class NpuDevice(TorchDevice):
    """Huawei Ascend."""

    name = "npu"
    package = "torch_npu"

    def __init__(self, operators: Any = None) -> None:
        super().__init__(self._quant_matmul)
        self._given = operators

    @property
    def _operators(self) -> Any:
        if self._given is None:
            import importlib

            self._given = importlib.import_module("torch_npu")
        return self._given

    def quantize_act(self, x: Tensor, quant: Quant, rows: int = 1, columns: int = 1) -> Blocks:
        """Quantise by the chip's own operator: blocks of 32, scales rounded up or down."""
        if (quant.element, quant.scale, quant.block) != ("e4m3", "ue8m0", (1, 32)):
            raise CannotRunError("Ascend's quantiser has E4M3 elements with UE8M0 scales in blocks of 1x32 only.")
        if quant.rounding not in SCALE_ALGORITHMS:
            raise CannotRunError(f"Ascend's quantiser rounds scales by {', '.join(SCALE_ALGORITHMS)} only.")
        codes, scales = self._operators.npu_dynamic_mx_quant(
            pad(x, rows, columns), axis=-1, round_mode="rint", dst_type=torch.float8_e4m3fn, block_size=32,
            scale_alg=SCALE_ALGORITHMS[quant.rounding],
        )  # fmt: skip
        # Newer builds give scales in pairs, (M, K/64, 2); a K of an odd number of blocks has one of padding.
        blocks = -(-codes.shape[1] // 32)
        grid = scales.view(torch.uint8).reshape(codes.shape[0], -1)[:, :blocks].contiguous()
        return Blocks(codes, decode_ue8m0(grid))

    def quantiser(self, quant: Quant) -> str:
        """The vendor's operator."""
        return f"npu_dynamic_mx_quant, scale_alg={SCALE_ALGORITHMS.get(quant.rounding)}"

    def _quant_matmul(self, a: Operand, b: Operand, scheme: Scheme, bias: Tensor | None) -> Tensor:
        if scheme.name != "mx":
            raise NotImplementedError(f"no kernel of scheme '{scheme.name}' is known for Ascend")
        e8m0 = self._operators.float8_e8m0fnu
        product: Tensor = self._operators.npu_quant_matmul(
            a.codes, b.codes.t(), _pairs(b).transpose(0, 1), scale_dtype=e8m0, pertoken_scale=_pairs(a),
            pertoken_scale_dtype=e8m0, bias=bias, output_dtype=torch.bfloat16,
            group_sizes=[1, 1, 32],
        )  # fmt: skip
        return product


def _pairs(operand: Operand) -> Tensor:
    """E8M0 bytes of 1x32 blocks as Ascend takes them: (rows, K/64, 2), an odd last block padded."""
    rows, k = operand.codes.shape
    codes = encode_ue8m0(unswizzled(operand.packed, rows, k // 32))
    return torch.nn.functional.pad(codes, (0, codes.shape[1] % 2)).view(rows, -1, 2)


class MluDevice(TorchDevice):
    """Cambricon. Public repositories show no FP8 operator; what it does is what the probes find."""

    name = "mlu"
    package = "torch_mlu"


class MusaDevice(TorchDevice):
    """Moore Threads."""

    name = "musa"
    package = "torch_musa"


class XpuDevice(TorchDevice):
    """Intel GPUs; torch's own backend."""

    name = "xpu"


VENDORS: dict[str, Callable[[], TorchDevice]] = {
    "npu": NpuDevice,
    "mlu": MluDevice,
    "musa": MusaDevice,
    "xpu": XpuDevice,
}
"""Device name -> adapter."""
