"""`python -m evalsuite.reference.train --out DIR --minutes N`: train the reference model.

In: a seed. Out, in DIR: `log.jsonl` (one line every few steps), `checkpoint.pt` (all that resuming needs, replaced atomically), `seen.bin`
(8 bytes of SHA-256 for each question trained on), and `model/`, an exported folder, fresh at every checkpoint.

The budget is time: progress runs from 0 to 1 over `--minutes` of training, summed over resumed runs, and both the learning rate (short
warm-up, flat, then down to zero over the second half) and the difficulty follow it. With `--steps` progress is counted in steps and time plays no part:
then the same seed gives the same losses. Loss falls on responses only. Matrices are trained by Muon, everything else by AdamW.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalsuite.reference.examples import IGNORED, Packer, Row, Stream
from evalsuite.reference.families import FAMILIES
from evalsuite.reference.freeze import ITEMS
from evalsuite.reference.hashes import frozen_hashes, read_benchmark_hashes
from evalsuite.reference.network import FULL, TINY, build_model, export
from evalsuite.reference.vocabulary import build_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

WARM_UP_STEPS = 100
FLAT_UNTIL = 0.5
CLIP = 1.0
CHECKPOINT_SECONDS = 300.0
LOG_EVERY = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one training run is told."""

    out: Path
    seed: int = 1
    minutes: float | None = None
    """Budget of training time; None where `steps` is the budget."""
    steps: int | None = None
    """Budget in steps; makes the run repeatable."""
    tiny: bool = False
    """A toy size for tests."""
    length: int = 320
    """Tokens in a row."""
    rows: int = 13
    """Rows in a step."""
    rate: float = 2e-3
    """Peak learning rate of AdamW."""
    matrix_rate: float = 0.02
    """Peak learning rate of Muon."""
    items: Path = ITEMS
    """Folder of frozen items, which are never trained on."""

    def progress(self, step: int, elapsed: float) -> float:
        """Share of the budget used: of the steps where they are stated, otherwise of the time."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        if self.minutes is None:
            raise ValueError("no budget: state --minutes or --steps")
        return min(1.0, elapsed / (60 * self.minutes))


def rate_factor(step: int, progress: float) -> float:
    """Share of the peak learning rate."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * min(1.0, max(0.0, (1 - progress) / (1 - FLAT_UNTIL)))


def to_tensors(rows: list[Row], length: int, pad: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Padded tensors of packed rows, and the block-diagonal causal mask."""
    import torch

    def padded(name: str, fill: int) -> torch.Tensor:
        filled = [getattr(row, name) + [fill] * (length - len(row.tokens)) for row in rows]
        return torch.tensor(filled, device=device)

    documents, branches = padded("documents", 0), padded("branches", 0)
    together = documents[:, :, None] == documents[:, None, :]
    seen = (branches[:, None, :] == 0) | (branches[:, :, None] == branches[:, None, :])
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return {
        "input_ids": padded("tokens", pad),
        "labels": padded("labels", IGNORED),
        "position_ids": padded("positions", 0),
        "families": padded("families", -1),
        "attention_mask": (together & seen & causal)[:, None],
    }


def losses(model: Qwen3ForCausalLM, body: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of every response token, and its family; the output head sees those tokens alone."""
    import torch

    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "attention_mask")}
    hidden = body(**inputs, use_cache=False).last_hidden_state
    targets = batch["labels"][
        :, 1:
    ]  # the first label of a branch is its prompt's tail, never a response: no loss crosses branches
    kept = targets != IGNORED
    logits = model.lm_head(hidden[:, :-1][kept])
    return torch.nn.functional.cross_entropy(logits, targets[kept], reduction="none"), batch["families"][:, 1:][kept]


def family_means(each: torch.Tensor, families: torch.Tensor) -> dict[str, float | None]:
    """Mean loss a token by family; None where the batch held none."""
    means: dict[str, float | None] = {}
    for number, name in enumerate(FAMILIES):
        chosen = each[families == number]
        means[name] = round(float(chosen.mean()), 4) if chosen.numel() else None
    return means


class Training:
    """A run in progress: model, optimisers, data stream and clock."""

    def __init__(self, settings: Settings) -> None:
        import torch

        from evalsuite.reference.optimisers import build_optimisers

        self.settings = settings
        self.device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        torch.manual_seed(settings.seed)
        self.tokenizer: PreTrainedTokenizerFast = build_tokenizer()
        self.model = build_model(self.tokenizer, TINY if settings.tiny else FULL).to(self.device)
        self.body: Any = self.model.model
        self.optimisers = build_optimisers(self.model, settings.rate, settings.matrix_rate)
        forbidden = read_benchmark_hashes() | frozen_hashes(settings.items)
        self.stream = Stream(settings.seed, self._encode, forbidden, settings.length)
        self.packer = Packer(self.stream, settings.length, settings.rows)
        self.step, self.tokens, self.elapsed = 0, 0, 0.0

    def _encode(self, text: str) -> list[int]:
        encoded: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return encoded

    def advance(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser step; returns the losses of its tokens and their families."""
        import torch

        began = time.monotonic()
        progress = self.settings.progress(self.step, self.elapsed)
        rows = self.packer.batch(self.settings.rows, progress)
        batch = to_tensors(rows, self.settings.length, int(self.tokenizer.pad_token_id), self.device)
        each, families = losses(self.model, self.body, batch)
        each.mean().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * rate_factor(self.step, progress)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += sum(len(row.tokens) for row in rows)
        self.elapsed += time.monotonic() - began
        return each.detach(), families

    def save(self) -> None:
        """Checkpoint, list of questions and exported model; the checkpoint is replaced in one move."""
        import torch

        out = self.settings.out
        with (out / "seen.bin").open("ab") as seen:
            seen.write(b"".join(self.stream.questions))
        self.stream.questions.clear()
        state = {
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "clock": (self.step, self.tokens, self.elapsed),
            "stream": (self.stream.number, self.stream.dropped, self.packer.waiting),
            "rng": torch.get_rng_state(),
        }
        torch.save(state, out / "checkpoint.tmp")
        os.replace(out / "checkpoint.tmp", out / "checkpoint.pt")
        export(self.model, self.tokenizer, out / "model")

    def load(self) -> None:
        """Go on from the checkpoint in the output folder."""
        import torch

        state = torch.load(self.settings.out / "checkpoint.pt", map_location=self.device, weights_only=False)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.tokens, self.elapsed = state["clock"]
        self.stream.number, self.stream.dropped, self.packer.waiting = state["stream"]
        torch.set_rng_state(state["rng"].cpu())


def run(training: Training) -> Iterator[dict[str, Any]]:
    """Train to the end of the budget; yields one log record every few steps."""
    settings, saved = training.settings, time.monotonic()
    mark = (training.elapsed, training.tokens)
    while (progress := settings.progress(training.step, training.elapsed)) < 1:
        each, families = training.advance()
        if training.step % LOG_EVERY == 0:
            seconds, tokens = training.elapsed - mark[0], training.tokens - mark[1]
            mark = (training.elapsed, training.tokens)
            yield {
                "step": training.step,
                "tokens": training.tokens,
                "loss": round(float(each.mean()), 5),
                "rate": round(rate_factor(training.step - 1, progress), 5),
                "tokens_per_s": round(tokens / max(seconds, 1e-9)),
                "elapsed_s": round(training.elapsed, 1),
                "dropped": training.stream.dropped,
                "family_loss": family_means(each, families),
            }
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            training.save()
            saved = time.monotonic()
    training.save()


def parse() -> tuple[Settings, argparse.Namespace]:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the reference model.")
    parser.add_argument("--out", type=Path, required=True, help="folder for log, checkpoint and exported model")
    parser.add_argument("--minutes", type=float, help="budget of training time, over all resumed runs")
    parser.add_argument("--steps", type=int, help="budget in steps instead; repeatable")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=Settings.rows, help="packed rows a step")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--tiny", action="store_true", help="a toy size, for a look at the machinery")
    given = parser.parse_args()
    if (given.minutes is None) == (given.steps is None):
        parser.error("state either --minutes or --steps")
    settings = Settings(
        out=given.out, minutes=given.minutes, steps=given.steps, seed=given.seed, tiny=given.tiny, rows=given.rows
    )
    return settings, given


def main() -> None:
    """Command line."""
    settings, given = parse()
    import torch

    torch.set_num_threads(given.threads)
    settings.out.mkdir(parents=True, exist_ok=True)
    checkpoint = settings.out / "checkpoint.pt"
    if checkpoint.exists() and not given.resume:
        raise SystemExit(f"{checkpoint} exists. Go on with --resume, or give another --out.")
    training = Training(settings)
    if given.compile:
        training.body = torch.compile(training.model.model)
    if given.resume and checkpoint.exists():
        training.load()
    with (settings.out / "log.jsonl").open("a", encoding="utf-8") as log:
        for record in run(training):
            log.write(json.dumps(record) + "\n")
            log.flush()
            print(record["step"], record["loss"], record["tokens_per_s"], flush=True)


if __name__ == "__main__":
    main()
