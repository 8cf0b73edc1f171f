"""`llama-bench -o json` (a list) and `-o jsonl` (one test a line).

A test reads `n_prompt` tokens (pp), writes `n_gen` (tg), or both, behind `n_depth` tokens in the cache; a warm-up,
tokenising and sampling are not in the time. Its keys are made at run time and differ by build: unknown ones are
ignored.
"""

from evalsuite.importing.speeds.fields import Fields, Source, objects
from evalsuite.records import ForeignSpeed, ForeignThroughput, ForeignWorkload

TOOL = "llama-bench"


def read_llama_bench(source: Source) -> list[ForeignSpeed]:
    """One row a test."""
    return [_row(test, i) for i, test in enumerate(objects(source))]


def _row(test: Fields, index: int) -> ForeignSpeed:
    test.require(("avg_ts",), "a test of llama-bench")
    test.require(("n_prompt", "n_gen"), "a test of llama-bench")
    prompt, generated, depth = (test.count(key) or 0 for key in ("n_prompt", "n_gen", "n_depth"))
    rate, elapsed = test.figure("avg_ts"), test.figure("avg_ns", 1e-9)
    samples = test.numbers("samples_ts")
    if prompt and generated:
        speed = ForeignThroughput(total_tok_s=rate)
    elif prompt:
        speed = ForeignThroughput(prefill_tok_s=rate)
    else:
        speed = ForeignThroughput(decode_tok_s=rate)
    notes = ["mean over the repetitions; tokenising and sampling are not in it", *test.notes]
    return ForeignSpeed(
        **test.row(index, TOOL), source_version=test.text("build_number"), source_commit=test.text("build_commit"),
        measured_at=test.text("test_time"), label=_name(prompt, generated, depth), model=test.text("model_filename"),
        hardware=test.text("gpu_info") or test.text("cpu_info"), precision=test.text("model_type"),
        framework=f"llama.cpp {test.text('backends') or ''}".strip(), window="whole_run", duration_s=elapsed,
        workload=ForeignWorkload(input_tokens=prompt, output_tokens=generated, depth=depth, batch=1),
        repeats=len(samples) or None, throughput=speed, notes=tuple(notes),
    )  # fmt: skip


def _name(prompt: int, generated: int, depth: int) -> str:
    """The test as llama-bench's own tables name it."""
    parts = [f"pp{prompt}"] * bool(prompt) + [f"tg{generated}"] * bool(generated)
    return "+".join(parts) + (f" @ d{depth}" if depth else "")
