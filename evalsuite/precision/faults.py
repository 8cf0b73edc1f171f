"""Format loss apart from kernel fault: the same arm emulated and native, on the same inputs.

    report = compare(model, RECIPES["fp8-ue8m0"], ids, device)
    report.format_loss      # BF16 against the exact emulation: what the number format costs
    report.kernel_gap       # the exact emulation against the native run: what kernels add
    report.layers           # per layer: code and scale mismatches, SQNR of the product, and the fault's name

An accuracy number cannot tell "FP8 is worse" from "this kernel is wrong". Emulation gives the specified codes and
scales with FP32 sums, so the first gap is the format's alone. The second should be as small as a chip's own order of
summation makes it; where it is not, `diagnosis` names what happened, layer by layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evalsuite.precision.coverage import gemms
from evalsuite.precision.devices import Device
from evalsuite.precision.diagnosis import NEAR_DB, Diagnosis, of_operand, of_product
from evalsuite.precision.emulate import apply
from evalsuite.precision.formats import dequantize, quantize_as
from evalsuite.precision.layers import master_weight
from evalsuite.precision.native import NativeArm, NativeMatrix
from evalsuite.precision.packing import Operand, sqnr_db
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Noun, Realised, Recipe


class Gap(Noun):
    """How far apart two runs of one model on the same tokens are."""

    tokens: int
    kl_nats: float
    """Mean over tokens of KL(first || second) of the next-token distributions."""
    flips: int
    """Tokens whose most likely successor differs."""


class LayerReport(Noun):
    """One quantised layer (all its experts, all its calls)."""

    name: str
    tokens: int
    codes: int
    """Codes of activations that differ from the specification's."""
    scales: int
    """Activations whose scale differs from the specification's."""
    weight_codes: int
    weight_scales: int
    sqnr_db: float | None
    """Smallest SQNR of the product against the exact one of specified operands; None where it is the same number."""
    faults: tuple[str, ...]
    """Names from `diagnosis`, prefixed by where: `weight: `, `activation: `, `kernel: `. Empty where all is well."""


class FaultReport(Noun):
    """What separates a native run from its emulation, and both from BF16."""

    realised: Realised
    """Of the native run."""
    format_loss: Gap
    kernel_gap: Gap
    layers: tuple[LayerReport, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """Every fault that was found, once; an ambiguous one is left out where one of its names was found alone."""
        found = tuple(dict.fromkeys(fault for layer in self.layers for fault in layer.faults))
        alone = set(found)
        return tuple(fault for fault in found if not _names(fault)[1:] or not alone & set(_names(fault)))


def _names(fault: str) -> list[str]:
    """`weight: a or b` -> `weight: a`, `weight: b`."""
    where, _, names = fault.partition(": ")
    return [f"{where}: {name}" for name in names.split(" or ")]


class _Layer:
    """What was seen of one layer so far."""

    def __init__(self) -> None:
        self.tokens = self.codes = self.scales = self.weight_codes = self.weight_scales = 0
        self.sqnr: float | None = None
        self.faults: dict[str, None] = {}

    def fault(self, where: str, diagnosis: Diagnosis) -> None:
        if not diagnosis.harmless:
            self.faults[f"{where}: {' or '.join([diagnosis.fault, *diagnosis.also])}"] = None

    def product(self, found: float) -> None:
        if found != float("inf"):
            # Never below any product's, and a number JSON can hold where a product is not finite.
            self.sqnr = max(min(found, self.sqnr if self.sqnr is not None else found), -999.0)


class _Watch:
    """Looks at every native multiplication and keeps counts and names, not tensors."""

    def __init__(self, arm: NativeArm, masters: dict[str, Tensor]) -> None:
        assert arm.recipe.weights
        assert arm.recipe.activations
        self.layers: dict[str, _Layer] = {name: _Layer() for name in arm.matrices}
        self._arm, self._quant = arm, arm.recipe.activations
        self._exact: dict[int, Tensor] = {}
        for name, matrices in arm.matrices.items():
            weights = masters[name].reshape(-1, *masters[name].shape[-2:])
            for matrix, weight in zip(matrices, weights, strict=True):
                self._look_at_weight(matrix, weight.cpu(), arm.recipe)

    def _look_at_weight(self, matrix: NativeMatrix, weight: Tensor, recipe: Recipe) -> None:
        assert recipe.weights
        if recipe.weights_via is not None:
            weight = dequantize(quantize_as(weight, recipe.weights_via))
        found = of_operand(matrix.weight, self._arm.scheme, weight, recipe.weights, weight=True)
        layer = self.layers[matrix.name]
        layer.weight_codes += found.codes
        layer.weight_scales += found.scales
        layer.fault("weight", found)
        self._exact[id(matrix)] = dequantize(quantize_as(weight, recipe.weights))

    def __call__(self, matrix: NativeMatrix, x: Tensor, operand: Operand, product: Tensor) -> None:
        layer, scheme = self.layers[matrix.name], self._arm.scheme
        found = of_operand(operand, scheme, x, self._quant)
        layer.tokens += len(x)
        layer.codes += found.codes
        layer.scales += found.scales
        layer.fault("activation", found)
        layer.fault("kernel", of_product(product, operand, matrix.weight, scheme, matrix.bias))
        exact = nn.functional.linear(dequantize(quantize_as(x.cpu(), self._quant)), self._exact[id(matrix)])
        if matrix.bias is not None:
            exact += matrix.bias[: matrix.size].float().cpu()
        layer.product(sqnr_db(product.float().cpu(), exact))


def compare(model: nn.Module, recipe: Recipe, ids: Tensor, device: Device) -> FaultReport:
    """Run a model in BF16, in a recipe emulated exactly, and in it natively, on token ids (rows, tokens).

    Raises:
        CannotRunError: the recipe does not run natively on *device*.
    """
    with apply(model, RECIPES["bf16"]):
        base = _logits(model, ids)
    with apply(model, recipe, gemm_mode="exact"):
        emulated = _logits(model, ids)
    masters = {gemm.name: master_weight(gemm) for gemm in gemms(model, recipe) if gemm.quantised}
    with apply(model, recipe, execution=device) as applied:
        assert applied.native is not None
        watch = _Watch(applied.native, masters)
        with _watching(applied.native, watch):
            native = _logits(model, ids)
    layers = tuple(
        LayerReport(name=name, tokens=seen.tokens, codes=seen.codes, scales=seen.scales,
                    weight_codes=seen.weight_codes, weight_scales=seen.weight_scales, sqnr_db=seen.sqnr,
                    faults=tuple(seen.faults))
        for name, seen in watch.layers.items()
    )  # fmt: skip
    return FaultReport(realised=applied.realised, format_loss=gap(base, emulated), kernel_gap=gap(emulated, native),
                       layers=layers)  # fmt: skip


@contextmanager
def _watching(arm: NativeArm, watch: _Watch) -> Iterator[None]:
    arm.observer = watch
    try:
        yield
    finally:
        arm.observer = None


def _logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(ids.to(next(model.parameters()).device)).logits
    return logits.float().cpu().flatten(0, 1)


def gap(first: Tensor, second: Tensor) -> Gap:
    """How far apart two sets of logits (tokens, vocabulary) are; a run that is not finite flips every token."""
    p, q = first.double().log_softmax(-1), second.double().log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1).mean()
    flips = (first.argmax(-1) != second.argmax(-1)) | ~second.isfinite().all(-1)
    return Gap(tokens=len(first), kl_nats=float(kl.nan_to_num(float("inf")).clamp(0, 1e9)), flips=int(flips.sum()))


def sentence(report: FaultReport) -> str:
    """The report in one sentence."""
    loss, kernel = report.format_loss, report.kernel_gap
    cost = f"the format changes {loss.flips} of {loss.tokens} tokens (KL {loss.kl_nats:.2g} nats a token)"
    more = f"the kernels {kernel.flips} (KL {kernel.kl_nats:.2g})"
    if report.faults:
        return f"{cost}, {more}; faults: {'; '.join(report.faults)}."
    return f"{cost}, {more}; codes and scales are the specification's, every product within {NEAR_DB:.0f} dB."
