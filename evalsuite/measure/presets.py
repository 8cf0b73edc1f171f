"""Presets: named lists of workloads, and which of their points an engine can run.

On the embedded engine a preset is measured in separate windows of prefill and of decode at a depth, never as the
difference of two runs; other engines batch by themselves and run whole requests.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from evalsuite.errors import UsageError, did_you_mean
from evalsuite.records import Workload

Runner = Literal["static", "offline", "serve"]


@dataclass(frozen=True, slots=True)
class Preset:
    """What a preset runs."""

    input_tokens: int
    output_tokens: int
    batches: tuple[int, ...]
    """Rows of a batch, or requests in flight."""
    purpose: str
    depths: tuple[int, ...] = ()
    """Further depths at which decoding is measured; the first one is the prompt's length."""
    phases: tuple[str, ...] = ("prefill", "decode")


PRESETS: dict[str, Preset] = {
    "cpu-smoke": Preset(32, 16, (1,), "seconds: does it work, on any machine"),
    "cpu-std": Preset(128, 32, (1, 4), "a laptop", depths=(512,)),
    "pp512": Preset(512, 1, (1,), "as llama-bench", phases=("prefill",)),
    "tg128": Preset(1, 128, (1,), "as llama-bench, at depths 0, 4,096 and 16,384", (4096, 16384), ("decode",)),
    "prefill2048": Preset(2048, 1, (1, 8), "reading long prompts", phases=("prefill",)),
    "decode1k": Preset(1024, 64, (1, 8, 64), "decoding behind 1,024 tokens", phases=("decode",)),
    "think-s": Preset(256, 2048, (1, 8, 32, 64), "thinking, quick"),
    "think": Preset(512, 8192, (8, 32, 64), "thinking: the headline on GPUs", (4096,)),
    "think-l": Preset(1024, 32768, (8,), "long thinking", (16384,)),
    "chat1k": Preset(1024, 1024, (1, 8, 32, 64), "chat"),
    "sum8k": Preset(8192, 1024, (1, 8, 32), "summaries of long texts"),
    "trt-128-128": Preset(128, 128, (64,), "as TensorRT-LLM's tables"),
    "trt-2048-128": Preset(2048, 128, (64,), "as TensorRT-LLM's tables"),
}
"""Preset name -> what it runs. `replay` beside them takes its lengths from a run (`workloads`)."""
REPLAY = "replay"
STEPS = 64
"""Most decode steps between two rewinds: speed is measured at a depth, so the cache must not grow far beyond it."""


def check(names: tuple[str, ...]) -> None:
    """UsageError for a name that is no preset."""
    known = (*PRESETS, REPLAY)
    for name in names:
        if name not in known:
            raise UsageError(f"Unknown preset '{name}'.{did_you_mean(name, known)} See `evalsuite list presets`.")


def points(name: str, runner: Runner) -> Iterator[Workload]:
    """The workloads of a preset on a kind of runner."""
    preset = PRESETS[name]
    for batch in preset.batches:
        if runner != "static":
            yield Workload(preset=name, runner=runner, phase="whole", batch=batch, input_tokens=preset.input_tokens,
                           output_tokens=preset.output_tokens)  # fmt: skip
            continue
        if "prefill" in preset.phases:
            yield Workload(preset=name, runner="static", phase="prefill", batch=batch,
                           input_tokens=preset.input_tokens, output_tokens=0)  # fmt: skip
        for depth in (preset.input_tokens, *preset.depths) if "decode" in preset.phases else ():
            yield Workload(preset=name, runner="static", phase="decode", batch=batch, input_tokens=depth, depth=depth,
                           output_tokens=min(preset.output_tokens, STEPS))  # fmt: skip
