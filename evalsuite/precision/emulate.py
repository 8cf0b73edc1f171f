"""`apply`: run a transformers model in a recipe, emulated or natively, and leave it as it was.

    with apply(model, RECIPES["fp8-ue8m0"]) as applied:
        model.generate(...)
    applied.realised                      # what really ran

Inside the context the quantised layers multiply dequantised operands: weights were quantised once at entry, from the
BF16 master; activations are quantised as they come (`fake.py`). Codes and scales are those of the recipe bit for bit;
products accumulate in FP32; the output is rounded once to BF16. That is the accuracy of the recipe, not its speed, and
not the bits of one chip's accumulator. `gemm_mode` says how operands enter:

    fast     rounded to BF16. Exact for UE8M0 scales (E4M3 x 2^k is a BF16 number); FP32 scales lose 5 dB of the 55 dB
             that BF16 output leaves, 20 dB under the quantisation error.
    exact    FP32.

The unquantised layers of all arms, the plain `bf16` arm included, run through the same kernel, so arms differ in
operands only. On CPUs without oneDNN BF16 `F.linear` in BF16 is a naive loop (17 GFLOP/s against 150 in FP32,
measured), so there every BF16 layer runs as `linear-fp32-accumulate-bf16`: the BF16 weight is kept widened to FP32,
the input is widened, the FP32 product is rounded once to BF16. Operands are BF16 and sums FP32, which is what BF16
hardware does up to the order of summation. It costs four more bytes a parameter.

Nothing of the model changes but the `forward` entry of some modules' dictionaries (and, for the FP32 arm, the data
behind its parameters); both are put back on exit, also after an exception. Parameters stay the same objects with the
same bits. Run it under `torch.no_grad()`: operands carry no gradient.

With `execution="native"` the quantised layers run on a chip's own FP8 kernels (`native.py`); all else stays the same.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from evalsuite.errors import CannotRunError, UsageError, did_you_mean
from evalsuite.precision import weight_only
from evalsuite.precision.activity import LEVELS, Counts, Level
from evalsuite.precision.coverage import Gemm, gemms, shares
from evalsuite.precision.kv import Converted, quantised_cache
from evalsuite.precision.layers import KERNELS, Arm, GemmMode, Kernel
from evalsuite.precision.recipes import needs_calibration
from evalsuite.precision.shipped import Shipped
from evalsuite.records import Realised, Recipe

if TYPE_CHECKING:
    from evalsuite.precision.devices import Device
    from evalsuite.precision.native import NativeArm

EXECUTIONS = ("emulated", "native", "auto")
COUNTS = ("clipped", "nonfinite_blocks", "zero_flushed")
"""What is counted over the quantised weights."""


@dataclass(frozen=True)
class Applied:
    """A model running in a recipe."""

    realised: Realised
    operands: dict[str, Tensor] = field(default_factory=dict)
    """Layer name -> weight as it enters the multiplication, for every layer that `apply` took over: dequantised where
    quantised, float32 or bfloat16. Experts are stacked: (experts, out, in)."""
    counts: dict[str, Counts] = field(default_factory=dict)
    """Layer name -> `clipped`, `nonfinite_blocks`, `zero_flushed` of its quantised weight."""
    arm: Arm | None = None
    """What runs; None in the FP32 arm."""
    kv: tuple[Converted, Converted] | None = None
    """What a quantised cache makes of keys and of values; None where it is not quantised."""
    native: "NativeArm | None" = None
    """`arm` where it is native, with the codes of its layers; its quantised weights are not among `operands`."""

    def count(self, level: Level) -> None:
        """Count this of activations from now on (`activity.py`)."""
        _check_names(count=(level, LEVELS))
        if self.arm is not None:
            self.arm.level = level

    def activity(self) -> dict[str, Counts]:
        """Layer name -> counts over its quantised inputs since the last call; layers that saw none are left out.

        A chip's kernel counts nothing: native layers are always left out.
        """
        tallies = self.arm.tallies if self.arm else {}
        return {name: counts for name, tally in tallies.items() if (counts := tally.take())}


def best_kernel(device: torch.device) -> Kernel:
    """The fastest kernel with BF16 operands and FP32 accumulation on a device."""
    native = device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return "linear-bf16" if native else "linear-fp32-accumulate-bf16"


@contextmanager
def apply(
    model: nn.Module,
    recipe: Recipe | Shipped,
    execution: "Literal['emulated', 'native', 'auto'] | Device" = "emulated",
    gemm_mode: GemmMode = "fast",
    kernel: Kernel | None = None,
) -> Iterator[Applied]:
    """Run *model* in *recipe* inside a `with` block; on exit it is bit for bit what it was.

    Args:
        model: a transformers causal LM in BF16, on one device.
        recipe: an entry of `RECIPES`, or a copy with another `exclude` or with a `calibration` (`calibrate.py`); or
            `Shipped`, for a model that holds the weights of a quantised checkpoint (emulated only).
        execution: `emulated` emulates what is quantised; recipes without quantised layers run natively under it.
            `native` demands kernels of the model's device for every quantised layer, `auto` takes them where the
            device has them and emulates otherwise. A `Device` demands that one (tests give one with another kernel).
            `Applied.realised.execution` says what came of it.
        gemm_mode: operands of emulated layers, see the module docstring.
        kernel: how BF16 layers multiply; None takes `best_kernel`.

    Raises:
        CannotRunError: a layer cannot be quantised (see `coverage.gemms`), a weight holds NaN or Inf, the model is
            not BF16, or `native` was demanded and the device has no kernel for the recipe. The model is untouched.
    """
    runs, names = (recipe.recipe, recipe.names) if isinstance(recipe, Shipped) else (recipe, None)
    _check(model, runs)
    _check_names(
        execution=(execution if isinstance(execution, str) else "native", EXECUTIONS),
        gemm_mode=(gemm_mode, ("fast", "exact")),
        kernel=(kernel or KERNELS[0], KERNELS),
    )
    found = gemms(model, runs, names)
    check_free(found)
    with ExitStack() as stack:
        if runs.compute == "fp32":
            stack.enter_context(_in_float32(model))
            yield Applied(_realised(model, runs, found, "linear-fp32", "none"))
            return
        device = next(model.parameters()).device
        native = _native_arm(recipe, execution, kernel or best_kernel(device), device)
        whole = None if native else _weight_only_arm(recipe, execution, kernel or best_kernel(device), device)
        arm = native or whole or Arm(recipe, gemm_mode, kernel or best_kernel(device), device)
        stack.callback(arm.clear)
        kv = None
        if runs.kv_cache is not None:
            kv = stack.enter_context(quantised_cache(model, runs.kv_cache, arm.counted))
        for module, forward in arm.forwards(found):
            vars(module)["forward"] = forward
            stack.callback(vars(module).pop, "forward")
        mode = gemm_mode if any(gemm.quantised for gemm in found) else "none"
        realised = _realised(model, runs, found, arm.kernel_name(found), mode)
        totals = {key: sum(c[key] for c in arm.counts.values()) for key in COUNTS if arm.counts}
        by_module = {name: left for name, c in arm.counts.items() if (left := {k: v for k, v in c.items() if v})}
        realised = realised.model_copy(update={"counts": totals, "module_counts": by_module})
        if native:
            realised = realised.model_copy(update=_proven(native))
        if whole:
            realised = realised.model_copy(update={"execution": "native", "gemm_mode": "none"})
        yield Applied(realised, arm.operands, arm.counts, arm, kv, native)


def _native_arm(
    recipe: Recipe | Shipped, execution: "str | Device", kernel: Kernel, device: torch.device
) -> "NativeArm | None":
    """The native arm that was asked for; None where the recipe is to be emulated or quantises nothing."""
    if isinstance(recipe, Shipped):
        if execution not in ("emulated", "auto"):
            raise CannotRunError("A checkpoint as shipped is emulated; no native path reads its codes yet.")
        return None
    if execution == "emulated" or not any((recipe.weights, recipe.activations, recipe.kv_cache)):
        return None
    if isinstance(execution, str) and device.type == "cpu" and weight_only.takes(recipe):
        return None  # a kernel of the processor's own, and no scaled product
    from evalsuite.precision import devices
    from evalsuite.precision.native import NativeArm, cannot_run

    chip = devices.of(device) if isinstance(execution, str) else execution
    if execution == "auto" and (chip is None or cannot_run(recipe, chip)):
        return None
    if chip is None or chip.torch_device().type != device.type:
        raise CannotRunError(f"Recipe '{recipe.id}' cannot run natively: the model is on {device}, and "
                             f"{'no adapter knows that' if chip is None else 'the device asked for is ' + chip.name}. "
                             "Run it with execution 'emulated'.")  # fmt: skip
    return NativeArm(recipe, chip, kernel)


def _weight_only_arm(
    recipe: Recipe | Shipped, execution: "str | Device", kernel: Kernel, device: torch.device
) -> "weight_only.WeightOnlyArm | None":
    """The arm of INT8 weights on a processor, where the recipe is of that kind and its kernel is wanted and there."""
    if isinstance(recipe, Shipped) or execution not in ("native", "auto") or not weight_only.takes(recipe):
        return None
    if device.type != "cpu" or (execution == "auto" and weight_only.works() is not None):
        return None
    return weight_only.arm(recipe, kernel, device)


def _proven(arm: "NativeArm") -> dict[str, object]:
    """What a native arm's record says, after its kernels have been seen."""
    from evalsuite.precision.native import prove

    proof = prove(arm)
    return {
        "execution": "native" if proof.native else "native-unproven", "gemm_mode": "none", "kernels": proof.kernels,
        "kernel_share": proof.share, "scale_storage": arm.scheme.scale_storage,
    }  # fmt: skip


def _check_names(**given: tuple[str, tuple[str, ...]]) -> None:
    """UsageError for a word that is none of the allowed ones."""
    for what, (value, allowed) in given.items():
        if value not in allowed:
            raise UsageError(f"Unknown {what} '{value}'.{did_you_mean(value, allowed)}")


def _check(model: nn.Module, recipe: Recipe) -> None:
    """Whether this recipe can run on this model at all."""
    quantises = any((recipe.weights, recipe.activations, recipe.kv_cache))
    if quantises and recipe.compute == "fp32":
        raise UsageError(f"Recipe '{recipe.id}' quantises and computes in FP32; quantised recipes compute in BF16.")
    if recipe.calibration is not None and not needs_calibration(recipe):
        raise UsageError(f"Recipe '{recipe.id}' makes its scales as activations come; a calibration changes nothing.")
    dtypes = {p.dtype for p in model.parameters() if p.dim() > 1}
    if torch.bfloat16 not in dtypes:
        raise CannotRunError(
            f"The model's weights are {', '.join(sorted(map(str, dtypes)))}. All arms start from the BF16 master: "
            "load it with dtype=torch.bfloat16."
        )


def check_free(found: list[Gemm]) -> None:
    """A replaced forward would be lost, or would silently replace ours; a weight must be in memory."""
    absent = [gemm.name for gemm in found if gemm.weight.is_meta]
    if absent:
        raise CannotRunError(f"The weight of {absent[0]} and {len(absent) - 1} more layers is not in memory (a model "
                             "without data, or offloaded to disk). Load the model on one device.")  # fmt: skip
    taken = [gemm.name for gemm in found if "forward" in vars(gemm.module)]
    if taken:
        raise CannotRunError(
            f"The forward of {taken[0]} and {len(taken) - 1} more layers is already replaced, by another `apply` "
            "or by a device map. Leave that context first, or load the model on one device."
        )


def _realised(model: nn.Module, recipe: Recipe, found: list[Gemm], kernel: str, gemm_mode: str) -> Realised:
    """The record of what runs. Logits are the model's own; an engine that scores in FP32 says so in its copy."""
    params, macs = shares(model, found, recipe)
    quantised = tuple(gemm.name for gemm in found if gemm.quantised)
    return Realised(
        recipe=recipe.id,
        execution="emulated" if quantised or recipe.kv_cache else "native",
        kernel=kernel,
        gemm_mode=gemm_mode,
        logits_dtype="float32" if recipe.compute == "fp32" else "bfloat16",
        device=str(next(model.parameters()).device),
        threads=torch.get_num_threads(),
        modules=quantised,
        params_quantised=params,
        macs_quantised=macs,
        calibration=recipe.calibration,
    )


def refuse_nonfinite(model: nn.Module) -> None:
    """CannotRunError if a parameter holds NaN or Inf: every arm of such a model would answer noise, BF16 too."""
    bad = [name for name, p in model.named_parameters() if not p.is_meta and not p.detach().isfinite().all()]
    if bad:
        raise CannotRunError(
            f"{', '.join(bad[:3])}{f' and {len(bad) - 3} more weights' if len(bad) > 3 else ''}: NaN or Inf in the "
            "weights. The checkpoint is damaged; load it again or compare its hash."
        )


@contextmanager
def _in_float32(model: nn.Module) -> Iterator[None]:
    """`model.float()`, undone on exit: parameters get their old data back, buffers their old tensors."""
    parameters = [(p, p.data) for p in model.parameters()]
    buffers = [(module, name, b) for module in model.modules() for name, b in module.named_buffers(recurse=False)]
    try:
        model.float()
        yield
    finally:
        for parameter, data in parameters:
            parameter.data = data
        for module, name, buffer in buffers:
            module._buffers[name] = buffer
