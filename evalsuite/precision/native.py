"""Native FP8: the quantised layers of an arm on a chip's own scaled matrix multiplication.

`emulate.apply(model, recipe, execution="native")` puts these layers in place of the emulated ones. Weights are
quantised once, by `formats`, and kept as codes; activations are quantised as they come, by the device's quantiser, once
for all layers that share an input; the kernel multiplies codes and applies the scales. Codes and scales are those of
the emulation bit for bit; sums are the chip's own (Hopper keeps about 14 bits within 128 products), so logits are near
to the emulation's and not equal. `faults` tells the two apart.

Nothing is native by declaration:

* `cannot_run` asks the device's probe of the scheme. Where it fails, `native` is an error with the reason; `auto` falls
  back to emulation, and `Realised.execution` says which of the two ran.
* `prove` runs each shape of layer under the profiler. An arm is `native` only where at least 95 % of the time of its
  matrix multiplications went into kernels that carry an FP8 name; otherwise it is `native-unproven`.

KV caches and attention have no native kernels here: recipes with a KV cache of their own stay emulated.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from evalsuite.errors import CannotRunError
from evalsuite.precision.coverage import Gemm
from evalsuite.precision.devices import Device
from evalsuite.precision.fake import SharedInput
from evalsuite.precision.layers import Arm, Forward, Kernel, bias_of, master_weight
from evalsuite.precision.packing import Operand, Scheme, pack_activation, pack_weight, scheme_of
from evalsuite.records import Recipe

GEMM = re.compile(r"gemm|nvjet|xmma|wgmma|matmul|_mm\b|\bmm\b|::addmm|::linear", re.IGNORECASE)
"""Names of matrix multiplication kernels (CUDA, HIP) and operators (CPU)."""
FP8 = re.compile(r"nvjet_qq|e4m3|e5m2|fp8|f8f8|float8|_f8_|bf8", re.IGNORECASE)
"""Those of them that multiply 8-bit floats. cuBLAS 12 and later: `nvjet_qq...`; `q` is E4M3."""
ENOUGH = 0.95
"""Share of the multiplication time from which an arm is native."""

Observer = Callable[["NativeMatrix", Tensor, Operand, Tensor], None]
"""Matrix, input (tokens, K), its operand, output (tokens, N)."""


def cannot_run(recipe: Recipe, device: Device) -> str | None:
    """Why a recipe that quantises does not run natively on a device, or None."""
    scheme = scheme_of(recipe)
    if recipe.kv_cache is not None:
        return "its KV cache has no native kernel"
    if recipe.static:
        return "devices make activation scales as activations come; none takes static ones yet"
    if scheme is None:
        return "no scaled kernel takes its elements, scales and blocks"
    return device.probe().cannot(scheme.name)


class NativeMatrix:
    """One quantised matrix: activations in BF16 -> BF16, through the device's kernel."""

    def __init__(self, arm: "NativeArm", name: str, weight: Operand, bias: Tensor | None, size: int) -> None:
        self.name = name
        self.weight = weight
        self._arm = arm
        self.size = size
        """N, without padding."""
        self.bias = bias if bias is None else F.pad(bias, (0, weight.codes.shape[0] - size))

    def __call__(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.size)
        operand = self._arm.operand_of(x)
        product = self._product(operand)[: x.numel() // x.shape[-1], : self.size]
        if self._arm.observer is not None:
            self._arm.observer(self, x.reshape(-1, x.shape[-1]), operand, product)
        return product.reshape(*x.shape[:-1], self.size)

    def _product(self, operand: Operand) -> Tensor:
        arm = self._arm
        if self.bias is None or arm.fuses_bias:
            return arm.device.linear(operand, self.weight, arm.scheme, self.bias)
        # Rounded twice, where the emulation rounds once: half of the last BF16 bit.
        product = arm.device.linear(operand, self.weight, arm.scheme, None)
        return (product.float() + self.bias.float()).to(torch.bfloat16)


class NativeArm(Arm):
    """Operands and forwards of one recipe on a device with a kernel for it; unquantised layers are those of `Arm`.

    Raises:
        CannotRunError: the recipe does not run on the device.
    """

    def __init__(self, recipe: Recipe, device: Device, kernel: Kernel) -> None:
        super().__init__(recipe, "fast", kernel, device.torch_device())
        why, scheme = cannot_run(recipe, device), scheme_of(recipe)
        if why or scheme is None:
            raise CannotRunError(
                f"Recipe '{recipe.id}' does not run natively on {device.probe().label}: {why}. Run it with "
                f"execution 'emulated' (same codes and scales, no speed), or see `evalsuite conformance --device "
                f"{device.name}` for what the device does run."
            )
        probe = device.probe().probe_of(scheme.name)
        self.device = device
        self.scheme: Scheme = scheme
        self.fuses_bias = probe is not None and probe.bias
        self.observer: Observer | None = None
        self.matrices: dict[str, list[NativeMatrix]] = {}
        """Layer -> its matrix; for experts one matrix an expert."""
        self.operand_of = SharedInput(self._pack)

    def clear(self) -> None:
        """Forget the last inputs."""
        super().clear()
        self.operand_of.clear()

    def kernel_name(self, found: list[Gemm]) -> str:
        """The scaled kernel, and that of the unquantised layers."""
        plain = [self.kernel] * any(not gemm.quantised for gemm in found)
        return "+".join([f"{self.device.kernel} {self.scheme.label}", *plain])

    def _pack(self, x: Tensor) -> Operand:
        assert self.recipe.activations is not None
        flat = x.reshape(-1, x.shape[-1])
        blocks = self.device.quantize_act(flat, self.recipe.activations, self.scheme.rows, self.scheme.columns)
        return pack_activation(blocks.codes, blocks.scales, self.scheme)

    def _matrices(self, gemm: Gemm, bias: Tensor | None) -> list[NativeMatrix]:
        """The matrix of a layer, or those of a set of experts."""
        quant = self.recipe.weights
        assert quant is not None
        weight = master_weight(gemm)
        size = weight.shape[-2]
        multiple = self.scheme.columns
        weight = F.pad(weight, (0, -weight.shape[-1] % multiple, 0, -size % multiple))
        biases = [None] * weight[..., 0, 0].numel() if bias is None else list(bias.reshape(-1, size))
        made = []
        for q, b in zip(self._codes(gemm.name, weight), biases, strict=True):
            operand = pack_weight(q.codes.view(torch.float8_e4m3fn), q.scales, quant, self.scheme)
            made.append(NativeMatrix(self, gemm.name, operand, b, size))
        self.matrices[gemm.name] = made
        return made

    def _linear(self, gemm: Gemm) -> Forward:
        if not gemm.quantised:
            return super()._linear(gemm)
        matrix = self._matrices(gemm, bias_of(gemm.module, "bias", torch.bfloat16))[0]

        def forward(input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's own name for it
            return matrix(input)

        return forward

    def _expert(self, gemm: Gemm) -> Callable[[int, Tensor], Tensor]:
        if not gemm.quantised:
            return super()._expert(gemm)
        matrices = self._matrices(gemm, bias_of(gemm.module, f"{gemm.parameter}_bias", torch.bfloat16))
        return lambda expert, x: matrices[expert](x)


@dataclass(frozen=True)
class Proof:
    """What the profiler saw of an arm's quantised layers."""

    kernels: tuple[str, ...]
    """Matrix multiplication kernels, the longest first."""
    share: float | None
    """Of their time, what went into FP8 kernels; None where no such kernel was seen."""

    @property
    def native(self) -> bool:
        """Whether this is proof."""
        return self.share is not None and self.share >= ENOUGH


def proof_of(times: dict[str, float]) -> Proof:
    """What kernel times (name -> seconds) prove."""
    gemms = {name: seconds for name, seconds in times.items() if GEMM.search(name)}
    total = sum(gemms.values())
    names = tuple(sorted(gemms, key=lambda name: -gemms[name]))
    return Proof(names, sum(s for name, s in gemms.items() if FP8.search(name)) / total if total else None)


def prove(arm: NativeArm, tokens: int = 128) -> Proof:
    """Run each shape of the arm's matrices once under the profiler, on random activations of *tokens* rows."""
    shapes = {matrix.weight.codes.shape: matrix for matrix in _all(arm.matrices.values())}
    generator = torch.Generator().manual_seed(0)
    inputs = {shape: torch.randn(tokens, shape[1], generator=generator).bfloat16() for shape in shapes}
    work: list[tuple[NativeMatrix, Tensor]] = [
        (matrix, inputs[shape].to(arm.device.torch_device())) for shape, matrix in shapes.items()
    ]

    def run() -> None:
        for matrix, x in work:
            # A view is another input: a fresh one is quantised afresh.
            matrix(x.view(x.shape))

    with torch.no_grad():
        run()
        proof = proof_of(arm.device.kernel_times(run))
    arm.clear()
    return proof


def _all(lists: Iterable[list[Any]]) -> list[Any]:
    return [one for each in lists for one in each]
