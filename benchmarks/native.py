"""What a device's FP8 kernels do: the run that turns "written" into "verified on hardware".

    python benchmarks/native.py --out results/native/h200.json           # on a machine with a CUDA device
    python benchmarks/native.py --kernel reference --out rehearsal.json  # anywhere: no hardware result

Writes one JSON document: what the device can do, conformance with the golden values, products of all shapes that are
easy to get wrong (token counts around the padding, K/128 not a multiple of 4) against the exact emulation, the kernels
that the profiler saw, the quantiser's share of a layer's time, and the fault report of the embedded model. Exit code: 0
where everything passed, 10 where something failed, 3 where the device is not there.

`--kernel reference` puts the FP32 product in the kernel's place and rehearses the whole script on a CPU. Its document
says `"hardware": false` and contains no time; it is never written under `results/`.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from torch import nn

from evalsuite import machine, resources
from evalsuite.errors import EvalsuiteError, UsageError
from evalsuite.precision import RECIPES, devices
from evalsuite.precision.conformance import examine
from evalsuite.precision.coverage import Gemm
from evalsuite.precision.devices.reference import ReferenceDevice
from evalsuite.precision.diagnosis import NEAR_DB, of_operand, of_product
from evalsuite.precision.emulate import best_kernel
from evalsuite.precision.faults import compare, sentence
from evalsuite.precision.formats import dequantize, quantize_as
from evalsuite.precision.native import GEMM, NativeArm, NativeMatrix, cannot_run, prove
from evalsuite.precision.packing import Operand, sqnr_db

TOKENS = (1, 3, 4, 5, 127, 128, 129)
DEPTHS = (128, 512, 640, 896, 1152)
"""K: one block, and K/128 = 4, 5, 7, 9."""
WIDTH = 384
TIMED = ((1, 4096), (128, 4096), (4096, 4096))
"""(tokens, K = N) of the timed layers."""
REHEARSED = ((5, 256),)
"""The same in a rehearsal, which runs the code and throws the times away."""
ARMS = ("fp8-e4m3", "fp8-ue8m0", "fp8-e4m3-row", "fp8-e4m3-tensor", "mxfp8-rceil", "fp8-ue8m0-w128a32")


class Layer:
    """One native linear layer, and what it saw."""

    def __init__(self, arm_id: str, device: devices.Device, width: int, depth: int) -> None:
        torch.manual_seed(depth)
        self.recipe, where = RECIPES[arm_id], device.torch_device()
        self.module = nn.Linear(depth, width).to(torch.bfloat16).to(where).requires_grad_(False)
        self.arm = NativeArm(self.recipe, device, best_kernel(where))
        gemm = Gemm("layer", self.module, "weight", width * depth, quantised=True)
        self.forward = dict(self.arm.forwards([gemm]))[self.module]
        self.matrix: NativeMatrix = self.arm.matrices["layer"][0]
        self.arm.observer = self._see

    def _see(self, _: NativeMatrix, x: torch.Tensor, operand: Operand, product: torch.Tensor) -> None:
        self.seen = x, operand, product

    def examine(self, tokens: int) -> dict[str, Any]:
        """One product against the exact emulation, with the names of faults."""
        depth = self.module.in_features
        x = torch.randn(tokens, depth, generator=torch.Generator().manual_seed(tokens)).bfloat16()
        x[:, ::97] *= 50  # outliers, as activations have them
        y = self.forward(x.to(self.module.weight.device))
        weight = dequantize(quantize_as(self.module.weight.cpu(), self.recipe.weights))
        exact = nn.functional.linear(dequantize(quantize_as(x, self.recipe.activations)), weight,
                                     self.module.bias.float().cpu())  # fmt: skip
        scheme, (seen_x, operand, product) = self.arm.scheme, self.seen
        activation = of_operand(operand, scheme, seen_x, self.recipe.activations)
        weights = of_operand(self.matrix.weight, scheme, self.module.weight, self.recipe.weights, weight=True)
        kernel = of_product(product, operand, self.matrix.weight, scheme, self.matrix.bias)
        found = sqnr_db(y.cpu(), exact)
        return {
            "tokens": tokens, "k": depth, "sqnr_db": round(max(min(found, 999.0), -999.0), 2),
            "codes_differing": activation.codes, "scales_differing": activation.scales,
            "activation": activation.fault, "weight": weights.fault, "kernel": kernel.fault,
            "passes": found >= NEAR_DB and all(one.harmless for one in (activation, weights, kernel)),
        }  # fmt: skip


def products(device: devices.Device, *, hardware: bool) -> dict[str, Any]:
    """Arm -> its products, or why it does not run. On hardware an arm must also be proven native to pass."""
    found: dict[str, Any] = {}
    for arm_id in ARMS:
        why = cannot_run(RECIPES[arm_id], device)
        if why:
            found[arm_id] = {"runs": False, "reason": why}
            continue
        rows = []
        for depth in DEPTHS:
            layer = Layer(arm_id, device, WIDTH, depth)
            rows += [layer.examine(tokens) for tokens in TOKENS]
        proof = prove(layer.arm)
        found[arm_id] = {
            "runs": True, "scheme": layer.arm.scheme.label, "scale_storage": layer.arm.scheme.scale_storage,
            "kernels": proof.kernels, "kernel_share": proof.share, "native": proof.native,
            "quantiser": device.quantiser(layer.recipe.activations),
            "smallest_sqnr_db": min(row["sqnr_db"] for row in rows),
            "passes": all(row["passes"] for row in rows) and (proof.native or not hardware), "products": rows,
        }  # fmt: skip
    return found


def times(device: devices.Device, arm_id: str, sizes: tuple[tuple[int, int], ...]) -> list[dict[str, Any]]:
    """Kernel seconds of a layer, quantiser apart from multiplication; medians of 20 calls under the profiler."""
    rows = []
    for tokens, size in sizes:
        layer = Layer(arm_id, device, size, size)
        layer.arm.observer = None
        x = torch.randn(tokens, size).bfloat16().to(device.torch_device())
        for _ in range(5):
            layer.forward(x.view(x.shape))
        seen = [device.kernel_times(lambda layer=layer, x=x: layer.forward(x.view(x.shape))) for _ in range(20)]
        product = sorted(sum(s for name, s in one.items() if GEMM.search(name)) for one in seen)[10]
        rest = sorted(sum(s for name, s in one.items() if not GEMM.search(name)) for one in seen)[10]
        plain = [device.kernel_times(lambda layer=layer, x=x: layer.module(x)) for _ in range(20)]
        bf16 = sorted(sum(one.values()) for one in plain)[10]
        rows.append({"tokens": tokens, "k": size, "n": size, "gemm_s": product, "quantise_s": rest, "bf16_s": bf16,
                     "quantiser_share": rest / (rest + product) if rest + product else None})  # fmt: skip
    return rows


def model_report(device: devices.Device, arm_id: str) -> dict[str, Any]:
    """The embedded model: format loss apart from kernel fault."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resources.reference_model()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval().to(device.torch_device())
    text = "Take the number 2, subtract 2, add 56, add 34, add 9. What number do you get?"
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder).encode(text)])
    report = compare(model, RECIPES[arm_id], ids, device)
    return {"sentence": sentence(report), "faults": report.faults, **report.model_dump(mode="json")}


def measure(device: devices.Device, *, hardware: bool) -> dict[str, Any]:
    """The whole document."""
    conformance = examine(device)
    made = products(device, hardware=hardware)
    runs = [arm_id for arm_id in ARMS[:2] if made[arm_id]["runs"]]
    reports = {arm_id: model_report(device, arm_id) for arm_id in runs}
    timed = {arm_id: times(device, arm_id, TIMED if hardware else REHEARSED) for arm_id in runs}
    passed = conformance.passed and bool(runs) and all(m["passes"] for m in made.values() if m["runs"])
    return {
        "schema_version": 1,
        "hardware": hardware,
        "note": None if hardware else "rehearsal with the reference kernel: no hardware result",
        "device": conformance.capabilities.label,
        "passes": passed and not any(report["faults"] for report in reports.values()),
        "conformance": conformance.model_dump(mode="json"),
        "arms": made,
        "model": reports,
        "times": timed if hardware else None,
        "machine": machine.facts(),
        "software": machine.software(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def chosen(args: argparse.Namespace) -> devices.Device:
    if args.kernel == "scaled_mm":
        return devices.present(args.device)
    if args.out and (Path(__file__).parent.parent / "results").resolve() in args.out.resolve().parents:
        raise UsageError(f"--out {args.out}: a rehearsal is no result; write it somewhere else than results/.")
    return ReferenceDevice()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--kernel", choices=["scaled_mm", "reference"], default="scaled_mm")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    try:
        document = measure(chosen(args), hardware=args.kernel == "scaled_mm")
    except EvalsuiteError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    text = json.dumps(document, indent=1, allow_nan=False)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)
    for arm_id, arm in document["arms"].items():
        what = f"{arm['smallest_sqnr_db']} dB at least, native: {arm['native']}" if arm["runs"] else arm["reason"]
        print(f"{arm_id}: {what}", file=sys.stderr)
    print(f"{document['note'] or document['device']}; passes: {document['passes']}", file=sys.stderr)
    return 0 if document["passes"] else 10


if __name__ == "__main__":
    sys.exit(main())
