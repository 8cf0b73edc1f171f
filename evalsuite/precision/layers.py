"""The layers of one arm: operands made once, and the forwards that `emulate.apply` puts in place of the model's own.

One rule for all layers: operand of the input times operand of the weight, FP32 accumulation, bias added before the
one rounding to BF16. The operands are what an arm is.

Experts (mixture of experts with 3-D weights) run one by one over the tokens routed to them, in every arm, because the
kernels that transformers would choose (grouped or batched, in BF16) differ in the order of summation. The weighted sum
over a token's experts is taken as transformers' own grouped implementation takes it.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evalsuite.errors import CannotRunError, UsageError
from evalsuite.precision.activity import Counts, Level, Seen, Tally
from evalsuite.precision.coverage import Gemm, is_experts
from evalsuite.precision.fake import FakeQuant, SharedInput
from evalsuite.precision.formats import Quantized, dequantize, quantize_as
from evalsuite.precision.scales import static_scale
from evalsuite.precision.shipped import Shipped
from evalsuite.records import Quant, Recipe

Kernel = Literal["linear-bf16", "linear-fp32-accumulate-bf16"]
KERNELS: tuple[Kernel, ...] = ("linear-bf16", "linear-fp32-accumulate-bf16")
GemmMode = Literal["fast", "exact"]
Forward = Callable[..., Tensor]
Convert = Callable[[Tensor], Tensor]
"""The input of a layer -> its operand."""


class Arm:
    """Operands and forwards of one recipe, or of one checkpoint's own codes, on one model."""

    level: Level = "blocks"
    """What is counted of activations; may be changed while the arm runs."""
    observe: Callable[[str, Tensor], None] | None = None
    """Called with each layer's name and input, where set before `forwards`: how `calibrate` watches the BF16 arm."""

    def __init__(self, recipe: Recipe | Shipped, gemm_mode: GemmMode, kernel: Kernel, device: torch.device) -> None:
        self._shipped = recipe if isinstance(recipe, Shipped) else None
        recipe = recipe.recipe if isinstance(recipe, Shipped) else recipe
        self.recipe = recipe
        self.kernel = kernel
        self.exact = gemm_mode == "exact"
        self.operands: dict[str, Tensor] = {}
        self.counts: dict[str, Counts] = {}
        self.tallies: dict[str, Tally] = {}
        self._device = device
        self._plain_dtype = torch.bfloat16 if kernel == "linear-bf16" else torch.float32
        self._quantised_dtype = torch.float32 if self.exact else self._plain_dtype
        self._plain_input = SharedInput(lambda x: x.to(self._plain_dtype))
        self._quantised_inputs: dict[float | None, SharedInput[tuple[Tensor, Seen]]] = {}
        """Constant scale (None where scales are made as activations come) -> conversion."""
        self._fakes: dict[float | None, FakeQuant] = {}

    def forwards(self, found: list[Gemm]) -> Iterator[tuple[nn.Module, Forward]]:
        """(module, forward to use in this arm) for every layer that must not run its own."""
        experts: dict[nn.Module, list[Gemm]] = {}
        for gemm in found:
            if is_experts(gemm.module):
                experts.setdefault(gemm.module, []).append(gemm)
            elif gemm.quantised or ((self.observe or self.kernel != "linear-bf16") and _is_plain_linear(gemm)):
                yield gemm.module, self._linear(gemm)
        for module, (into, out) in experts.items():
            yield module, self._experts(module, into, out)

    def kernel_name(self, found: list[Gemm]) -> str:
        """The kernels of the arm, joined by `+` where quantised and other layers differ."""
        quantised = "linear-fp32-accumulate-bf16" if self.exact else self.kernel
        return "+".join(sorted({quantised if gemm.quantised else self.kernel for gemm in found}))

    def clear(self) -> None:
        """Forget the last inputs."""
        self._plain_input.clear()
        for shared in self._quantised_inputs.values():
            shared.clear()

    def _convert(self, gemm: Gemm) -> Convert:
        """How the inputs of a layer become operands: BF16 as they are, or quantised and counted."""
        if gemm.quantised and self.recipe.activations is not None:
            return self._quantise_input(gemm.name, self.recipe.activations)
        if gemm.quantised and self.exact:
            return lambda x: self._plain_input(x).to(torch.float32)
        observe, name = self.observe, gemm.name
        if observe is None:
            return self._plain_input

        def observed(x: Tensor) -> Tensor:
            observe(name, x)
            return self._plain_input(x)

        return observed

    def _quantise_input(self, name: str, quant: Quant) -> Convert:
        """Layers whose scales are made alike share an input's conversion; each has its own tally."""
        key = self._constant(name, quant) if quant.static else None
        if key not in self._fakes:
            fake = self._fakes[key] = FakeQuant(quant, self._device, key)
            self._quantised_inputs[key] = SharedInput(lambda x: self._operand_of(fake, x))
        shared = self._quantised_inputs[key]
        tally = self.tallies[name] = Tally(self._fakes[key].flags)

        def convert(x: Tensor) -> Tensor:
            operand, seen = shared(x)
            tally.add(seen)
            return operand

        return convert

    def _constant(self, name: str, quant: Quant) -> float:
        """The static scale of a layer's activations: the one that its checkpoint ships, or made from a calibration.

        CannotRunError if neither has the layer.
        """
        if self._shipped is not None:
            if name not in self._shipped.input_scales:
                raise CannotRunError(f"{name}: the checkpoint has static activations and no input_scale here.")
            return self._shipped.input_scales[name]
        calibration = self.recipe.calibration
        amax = calibration.amax.get(name) if calibration else None
        if amax is None:
            raise CannotRunError(
                f"Recipe '{self.recipe.id}' has static activation scales, and its calibration "
                f"{f'has no number for {name}' if calibration else 'is missing'}. Name calibration texts: "
                f"arms: [{{id: {self.recipe.id}, recipe: {self.recipe.id}, calibration: FILE}}]."
            )
        return static_scale(amax, quant)

    def counted(self, name: str, fake: FakeQuant) -> Convert:
        """A conversion whose counts stand under *name*; results are float32."""
        tally = self.tallies[name] = Tally(fake.flags)

        def convert(x: Tensor) -> Tensor:
            values, seen = fake.operand(x, torch.float32, self.level, rounded=False)
            tally.add(seen)
            return values

        return convert

    def _operand_of(self, fake: FakeQuant, x: Tensor) -> tuple[Tensor, Seen]:
        return fake.operand(x, self._quantised_dtype, self.level, rounded=not self.exact)

    def _operand(self, gemm: Gemm) -> Tensor:
        """The weight as it enters the multiplication, (out, in) or (experts, out, in); recorded."""
        exact = self._shipped.exact[gemm.name] if gemm.quantised and self._shipped and self.exact else None
        weight = master_weight(gemm, exact)
        if gemm.quantised and self.recipe.weights is not None and self._shipped is None:
            weight = self._quantise_weight(gemm.name, weight)
        self.operands[gemm.name] = weight.to(self._quantised_dtype if gemm.quantised else self._plain_dtype)
        return self.operands[gemm.name]

    def _quantise_weight(self, name: str, weight: Tensor) -> Tensor:
        """Dequantised weight: FP32 in `exact`, BF16 in `fast`."""
        dtype = torch.float32 if self.exact else torch.bfloat16
        return torch.stack([dequantize(q, dtype) for q in self._codes(name, weight)]).view(weight.shape)

    def _codes(self, name: str, weight: Tensor) -> list[Quantized]:
        """The codes and scales of a weight; each expert is a matrix of its own."""
        done = [quantise_matrix(matrix, self.recipe) for matrix in weight.reshape(-1, *weight.shape[-2:]).unbind()]
        counts = {key: sum(q.counts[key] for q in done) for key in done[0].counts}
        if counts["nonfinite_blocks"]:
            raise CannotRunError(
                f"{name}: {counts['nonfinite_blocks']} blocks of the weight hold NaN or Inf. The checkpoint is "
                "damaged; load it again or compare its hash."
            )
        self.counts[name] = counts
        return done

    def _linear(self, gemm: Gemm) -> Forward:
        weight = self._operand(gemm)
        bias = bias_of(gemm.module, "bias", weight.dtype)
        convert = self._convert(gemm)

        def forward(input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's own name for it
            return F.linear(convert(input), weight, bias).to(torch.bfloat16)

        return forward

    def _experts(self, module: Any, into: Gemm, out: Gemm) -> Forward:
        project_in, project_out = self._expert(into), self._expert(out)

        def forward(hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
            k = top_k_index.shape[-1]
            slots = top_k_index.reshape(-1)
            results = hidden_states.new_empty(len(slots), hidden_states.shape[-1])
            for expert in sorted(set(slots.tolist())):
                rows = (slots == expert).nonzero().flatten()
                inner = project_in(expert, hidden_states[rows // k])
                inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
                result = project_out(expert, inner)
                results[rows] = module.post_expert_norm(result) if module.has_post_expert_norm else result
            weighted = results * top_k_weights.reshape(-1, 1)
            return weighted.view(-1, k, results.shape[-1]).sum(dim=1).to(hidden_states.dtype)

        return forward

    def _expert(self, gemm: Gemm) -> Callable[[int, Tensor], Tensor]:
        """(expert, tokens) -> the projection of those tokens by that expert, BF16."""
        weight = self._operand(gemm)
        bias = bias_of(gemm.module, f"{gemm.parameter}_bias", weight.dtype)
        convert = self._convert(gemm)

        def project(expert: int, x: Tensor) -> Tensor:
            b = None if bias is None else bias[expert]
            return F.linear(convert(x), weight[expert], b).to(torch.bfloat16)

        return project


def quantise_matrix(matrix: Tensor, recipe: Recipe) -> Quantized:
    """Codes and scales of a weight matrix of the BF16 master, (out, in): what an arm runs and what `writing` ships."""
    if recipe.weights is None:
        raise UsageError(f"Recipe '{recipe.id}' does not quantise weights.")
    if recipe.weights_via is not None:
        matrix = dequantize(quantize_as(matrix, recipe.weights_via))
    return quantize_as(matrix, recipe.weights)


def master_weight(gemm: Gemm, values: Tensor | None = None) -> Tensor:
    """The weight, (out, in) or (experts, out, in), however the module keeps it. `values`: in its place, laid out so."""
    weight = gemm.weight.detach() if values is None else values.to(gemm.weight.device)
    return weight.transpose(-1, -2) if getattr(gemm.module, "is_transposed", False) else weight


def bias_of(module: nn.Module, name: str, dtype: torch.dtype) -> Tensor | None:
    """A layer's bias in the dtype of its operands, or None."""
    bias = getattr(module, name, None)
    return bias.detach().to(dtype) if isinstance(bias, Tensor) else None


def _is_plain_linear(gemm: Gemm) -> bool:
    """A BF16 `nn.Linear` as torch ships it; routers in FP32 and the like keep their own forward."""
    return type(gemm.module).forward is nn.Linear.forward and gemm.weight.dtype == torch.bfloat16
