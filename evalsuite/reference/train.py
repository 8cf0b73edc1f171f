"""`python -m evalsuite.reference.train --out DIR --minutes N`: train the reference model.

In: a seed. Out, in DIR: `log.jsonl` (one line every few steps), `checkpoint.pt` (all that resuming needs, replaced
atomically), `seen.bin` (8 bytes of SHA-256 for each question trained on), and `model/`, an exported folder, fresh at
every checkpoint.

The budget is time: progress runs from 0 to 1 over `--minutes` of training, summed over resumed runs, and both the
learning rate (short warm-up, flat, then down to zero over the second half) and the difficulty follow it. With
`--steps` progress is counted in steps and time plays no part: then the same seed gives the same losses. Loss falls on
responses only. Matrices are trained by Muon, everything else by AdamW.

With `--from FOLDER` the run continues from an exported model after families have changed: embeddings are carried over
token by token, everything is as hard as it gets from the start, and the learning rate begins lower and falls at once.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evalsuite.reference.examples import Packer, Stream
from evalsuite.reference.families import FAMILIES
from evalsuite.reference.freeze import ITEMS
from evalsuite.reference.hashes import frozen_hashes, read_benchmark_hashes
from evalsuite.reference.network import FULL, TINY, build_model, export, transplant
from evalsuite.reference.optimisers import Rates
from evalsuite.reference.parallel import Losses, Team
from evalsuite.reference.vocabulary import build_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WARM_UP_STEPS = 100
FLAT_UNTIL = 0.5
CONTINUED_PEAK = 0.5
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
    length: int = 360
    """Tokens in a row."""
    rows: int = 10
    """Rows in a step."""
    workers: int = 1
    """Processes that share a step."""
    items: Path = ITEMS
    """Folder of frozen items, which are never trained on."""
    begin: Path | None = None
    """Exported model to continue from; None for fresh weights."""

    def progress(self, step: int, elapsed: float) -> float:
        """Share of the budget used: of the steps where they are stated, otherwise of the time."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        if self.minutes is None:
            raise ValueError("no budget: state --minutes or --steps")
        return min(1.0, elapsed / (60 * self.minutes))


def rate_factor(step: int, progress: float, continued: bool = False) -> float:
    """Share of the peak learning rate."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    if continued:
        return warm * CONTINUED_PEAK * max(0.0, 1 - progress)
    return warm * min(1.0, max(0.0, (1 - progress) / (1 - FLAT_UNTIL)))


def family_means(each: torch.Tensor, families: torch.Tensor) -> dict[str, float | None]:
    """Mean loss a token by family; None where the batch held none."""
    means: dict[str, float | None] = {}
    for number, name in enumerate(FAMILIES):
        chosen = each[families == number]
        means[name] = round(float(chosen.mean()), 4) if chosen.numel() else None
    return means


class Training:
    """A run in progress: model, team, data stream and clock."""

    def __init__(self, settings: Settings, tokenizer: PreTrainedTokenizerFast) -> None:
        self.settings, self.tokenizer = settings, tokenizer
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        self.device = accelerator or torch.device("cpu")
        torch.manual_seed(settings.seed)
        self.model = build_model(tokenizer, TINY if settings.tiny else FULL)
        if settings.begin:
            transplant(settings.begin, tokenizer, self.model)
        self.model.to(self.device)
        shape = (settings.length, int(tokenizer.pad_token_id))
        self.team = Team(self.model, 1 if accelerator else settings.workers, shape, Rates())
        forbidden = read_benchmark_hashes() | frozen_hashes(settings.items)
        self.stream = Stream(settings.seed, self._encode, forbidden, settings.length)
        self.packer = Packer(self.stream, settings.length, settings.rows)
        self.step, self.tokens, self.elapsed, self.rate = 0, 0, 0.0, 0.0

    def _encode(self, text: str) -> list[int]:
        encoded: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return encoded

    def advance(self) -> Losses:
        """One optimiser step; returns the losses of its tokens and their families."""
        began = time.monotonic()
        progress = self.settings.progress(self.step, self.elapsed)
        rows = self.packer.batch(self.settings.rows, 1.0 if self.settings.begin else progress)
        found = self.team.gradients(rows)
        self.rate = rate_factor(self.step, progress, self.settings.begin is not None)
        self.team.update(self.rate)
        self.step += 1
        self.tokens += sum(len(row.tokens) for row in rows)
        self.elapsed += time.monotonic() - began
        return found

    def save(self) -> None:
        """Checkpoint, list of questions and exported model; the checkpoint is replaced in one move."""
        out = self.settings.out
        with (out / "seen.bin").open("ab") as seen:
            seen.write(b"".join(self.stream.questions))
        self.stream.questions.clear()
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.team.lead.optimiser.state(),
            "clock": (self.step, self.tokens, self.elapsed),
            "stream": (self.stream.number, self.stream.dropped, self.packer.waiting),
            "rng": torch.get_rng_state(),
        }
        torch.save(state, out / "checkpoint.tmp")
        (out / "checkpoint.tmp").replace(out / "checkpoint.pt")
        export(self.model, self.tokenizer, out / "model")

    def load(self) -> None:
        """Go on from the checkpoint in the output folder."""
        state = torch.load(self.settings.out / "checkpoint.pt", map_location=self.device, weights_only=False)
        self.model.load_state_dict(state["model"])
        self.team.lead.optimiser.load(state["optimiser"])
        self.step, self.tokens, self.elapsed = state["clock"]
        self.stream.number, self.stream.dropped, self.packer.waiting = state["stream"]
        torch.set_rng_state(state["rng"].cpu())


def run(training: Training) -> Iterator[dict[str, Any]]:
    """Train to the end of the budget; yields one log record every few steps."""
    settings, saved = training.settings, time.monotonic()
    mark = (training.elapsed, training.tokens)
    while settings.progress(training.step, training.elapsed) < 1:
        each, families = training.advance()
        if training.step % LOG_EVERY == 0:
            seconds, tokens = training.elapsed - mark[0], training.tokens - mark[1]
            mark = (training.elapsed, training.tokens)
            yield {
                "step": training.step,
                "tokens": training.tokens,
                "loss": round(float(each.mean()), 5),
                "rate": round(training.rate, 5),
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
    parser.add_argument("--rows", type=int, default=10, help="packed rows a step")
    parser.add_argument("--workers", type=int, default=2, help="processes that share a step (one on an accelerator)")
    parser.add_argument("--threads", type=int, default=1, help="threads a process")
    parser.add_argument("--from", dest="begin", type=Path, help="continue from the weights of this exported folder")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--tiny", action="store_true", help="a toy size, for a look at the machinery")
    given = parser.parse_args()
    if (given.minutes is None) == (given.steps is None):
        parser.error("state either --minutes or --steps")
    names = ("out", "minutes", "steps", "seed", "rows", "workers", "tiny", "begin")
    return Settings(**{name: getattr(given, name) for name in names}), given


def start(settings: Settings, resume: bool) -> Training:
    """A new run, or the one in the output folder; a resumed run keeps the tokenizer it began with."""
    from transformers import AutoTokenizer

    settings.out.mkdir(parents=True, exist_ok=True)
    checkpoint = settings.out / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise SystemExit(f"{checkpoint} exists. Go on with --resume, or give another --out.")
    if not checkpoint.exists():
        return Training(settings, build_tokenizer())
    training = Training(settings, AutoTokenizer.from_pretrained(str(settings.out / "model")))
    training.load()
    _cut_log(settings.out / "log.jsonl", training.step)
    return training


def _cut_log(path: Path, step: int) -> None:
    """Drop what was logged after the checkpoint: those steps are done again."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    path.write_text("".join(line for line in lines if json.loads(line)["step"] <= step), encoding="utf-8")


def main() -> None:
    """Command line."""
    settings, given = parse()
    torch.set_num_threads(given.threads)
    training = start(settings, given.resume)
    with (settings.out / "log.jsonl").open("a", encoding="utf-8") as log:
        for record in run(training):
            log.write(json.dumps(record) + "\n")
            log.flush()
            print(record["step"], record["loss"], record["tokens_per_s"], flush=True)


if __name__ == "__main__":
    main()
