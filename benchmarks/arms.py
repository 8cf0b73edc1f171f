"""A real checkpoint that this project did not make, in every arm: how far each moves the model's predictions.

    python benchmarks/arms.py --data FOLDER [--out results/reference/arms.json]
    python benchmarks/arms.py --data FOLDER --generate        # writes the frozen token sequences again

FOLDER holds `checkpoints/babyllama-tok105` (EN10/BabyLlama, MIT: Llama type, 0.94 million parameters; layers 352 wide,
no multiple of 128). The text is frozen in `babyllama-tokens.json`: the checkpoint itself wrote it once, in FP32, at
temperature 1 and seed 0; 24 sequences are scored and 8 others calibrate the static arm. For every arm:

    kl          mean over positions of KL(BF16 arm || this arm) in nats, from FP32 logits
    weight_db   SQNR of the quantised weights:  -10 log10(mean over layers of noise / signal)
    gemm_db     the same of each quantised layer's output, with the inputs that the BF16 arm gives it, against FP32

Arms whose `gemm_db` differs by more than 3 dB must be ordered in `kl`; the script fails where a pair is not. Arms with
an FP8 KV cache stand apart, since their noise is not in the layers, and so does FP32: its distance is BF16's noise.
`KL, exact` is the same with FP32 operands: the difference of the two emulation modes.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from evalsuite import machine
from evalsuite.engines.attention import use_fp32_attention
from evalsuite.precision import RECIPES, apply
from evalsuite.precision.calibrate import Texts, calibrate
from evalsuite.precision.emulate import Applied, GemmMode
from evalsuite.precision.recipes import needs_calibration
from evalsuite.records import Recipe

TOKENS = Path(__file__).with_name("babyllama-tokens.json")
SCORED, CALIBRATING, LENGTH, SEED = 24, 8, 192, 0
APART_DB = 3.0


def load(data: Path, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The checkpoint in a dtype."""
    model = AutoModelForCausalLM.from_pretrained(data / "checkpoints" / "babyllama-tok105", dtype=dtype).eval()
    if dtype == torch.bfloat16:
        use_fp32_attention(model)
    return model


def generate(data: Path) -> dict[str, Any]:
    """The frozen file: sequences that the checkpoint writes behind its first token."""
    model, generator = load(data, torch.float32), torch.Generator().manual_seed(SEED)
    ids, cache = torch.full((SCORED + CALIBRATING, 1), model.config.bos_token_id), None
    with torch.no_grad():
        while ids.shape[1] < LENGTH:
            out = model(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            ids = torch.cat([ids, torch.multinomial(out.logits[:, -1].softmax(-1), 1, generator=generator)], dim=1)
    rows = ids.tolist()
    return {"scored": rows[:SCORED], "calibrating": rows[SCORED:], "sha256": digest(rows)}


def digest(rows: Sequence[Sequence[int]]) -> str:
    """Hash over token sequences."""
    return hashlib.sha256(json.dumps([list(row) for row in rows]).encode()).hexdigest()


def frozen() -> tuple[Tensor, list[list[int]]]:
    """(ids to score, sequences to calibrate on), checked against their hash."""
    stored = json.loads(TOKENS.read_text(encoding="utf-8"))
    assert digest([*stored["scored"], *stored["calibrating"]]) == stored["sha256"], f"{TOKENS}: not the frozen tokens"
    return torch.tensor(stored["scored"]), stored["calibrating"]


def complete(recipe: Recipe, model: Any, calibrating: list[list[int]]) -> Recipe:
    """The recipe, calibrated where its scales are static."""
    if not needs_calibration(recipe):
        return recipe
    texts = Texts(TOKENS.name, digest(calibrating), calibrating)
    return recipe.model_copy(update={"calibration": calibrate(model, recipe, texts)})


def log_probabilities(model: Any, ids: Tensor) -> Tensor:
    """float32 (rows, positions, vocabulary): log-softmax of FP32 logits."""
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    return F.linear(hidden.float(), model.get_output_embeddings().weight.float()).log_softmax(-1)


def layer_inputs(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """What the BF16 arm gives each linear layer."""
    seen: dict[str, Tensor] = {}
    hooks = [module.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0]))
             for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]  # fmt: skip
    with apply(model, RECIPES["bf16"]):
        model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


def decibels(pairs: Sequence[tuple[Tensor, Tensor]]) -> float | None:
    """-10 log10 of the mean of noise / signal over (exact, noisy) pairs; None where there is no noise."""
    ratios = [float((b.double() - a.double()).square().mean() / a.double().square().mean()) for a, b in pairs]
    mean = sum(ratios) / max(len(ratios), 1)
    return -10 * math.log10(mean) if mean else None


def noise(model: Any, applied: Applied, inputs: dict[str, Tensor]) -> tuple[float | None, float | None]:
    """(weight_db, gemm_db) of an arm that is applied."""
    weights, outputs = [], []
    for name in applied.realised.modules:
        layer = model.get_submodule(name)
        weights.append((layer.weight, applied.operands[name]))
        outputs.append((F.linear(inputs[name].float(), layer.weight.float()), layer(inputs[name])))
    return decibels(weights), decibels(outputs)


def measure(data: Path, keys: Sequence[str] = tuple(RECIPES), gemm_mode: GemmMode = "fast") -> list[dict[str, Any]]:
    """One row an arm, in the order of *keys*."""
    ids, calibrating = frozen()
    model, rows = load(data), []
    with torch.no_grad():
        inputs = layer_inputs(model, ids[:4])
        with apply(model, RECIPES["bf16"]):
            base = log_probabilities(model, ids)
        for key in keys:
            with apply(model, complete(RECIPES[key], model, calibrating), gemm_mode=gemm_mode) as applied:
                found = log_probabilities(model, ids)
                activity = applied.activity()
                weight_db, gemm_db = noise(model, applied, inputs)
            kl = float((base.exp().double() * (base.double() - found.double())).sum(-1).mean())
            rows.append({"arm": key, "kl": kl, "weight_db": weight_db, "gemm_db": gemm_db,
                         "nonfinite_blocks": sum(c["nonfinite_blocks"] for c in activity.values()),
                         "clipped_blocks": sum(c.get("clipped_blocks", 0) for c in activity.values())})  # fmt: skip
    return rows


def out_of_order(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Pairs (noisier, quieter) whose noise differs by over 3 dB and whose KL does not follow."""
    comparable = [row for row in rows if RECIPES[row["arm"]].weights and not RECIPES[row["arm"]].kv_cache]
    ordered = sorted(comparable, key=lambda row: row["gemm_db"])
    return [(a["arm"], b["arm"]) for a, b in combinations(ordered, 2)
            if b["gemm_db"] - a["gemm_db"] > APART_DB and a["kl"] <= b["kl"]]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--generate", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.generate:
        TOKENS.write_text(json.dumps(generate(args.data)) + "\n", encoding="utf-8")
        return
    rows, exact = measure(args.data), {row["arm"]: row["kl"] for row in measure(args.data, gemm_mode="exact")}
    print(f"{'arm':24} {'KL, nats':>10} {'KL, exact':>10} {'weights, dB':>12} {'GEMM, dB':>9}")
    for row in rows:
        row["kl_exact"] = exact[row["arm"]]
        db = [f"{row[key]:.2f}" if row[key] is not None else "-" for key in ("weight_db", "gemm_db")]
        print(f"{row['arm']:24} {row['kl']:10.2e} {row['kl_exact']:10.2e} {db[0]:>12} {db[1]:>9}")
    wrong = out_of_order(rows)
    print("ordered as their noise" if not wrong else f"not ordered as their noise: {wrong}")
    if args.out:
        report = {"arms": rows, "out_of_order": wrong, "tokens_sha256": json.loads(TOKENS.read_text())["sha256"],
                  "positions": SCORED * LENGTH, "software": machine.software(),
                  "command": "python benchmarks/arms.py --data FOLDER"}  # fmt: skip
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
