"""Loads over the embedded engine: what they count, at which depth, and that nothing emulated is timed."""

import time
from pathlib import Path

import pytest
import torch

from evalsuite import store
from evalsuite.errors import CannotRunError
from evalsuite.measure import local, presets
from evalsuite.measure.loads import DoesNotFitError
from evalsuite.measure.local import Decode, LocalRig
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Arm, ModelRef, Workload


def arm(recipe: str, rig: LocalRig) -> Arm:
    return Arm(id=recipe, model=rig.model, recipe=RECIPES[recipe])


def point(phase: str, batch: int, tokens: int, steps: int = 4) -> Workload:
    return Workload(preset="t", runner="static", phase=phase, batch=batch, input_tokens=tokens, output_tokens=steps,
                    depth=tokens if phase == "decode" else None)  # fmt: skip


@pytest.fixture(scope="module")
def rig(tiny_model: Path) -> LocalRig:
    made = LocalRig(ModelRef(id=str(tiny_model)), {}, ((12, 5), (20, 9), (7, 1)))
    for recipe in ("bf16", "fp32"):
        made.open(arm(recipe, made))
    yield made
    made.close()


def test_native_arms_say_what_ran_and_emulated_ones_are_not_loaded(rig: LocalRig):
    opened = {name: rig.open(arm(name, rig)) for name in ("fp32", "fp8-ue8m0", "bf16-kv8")}

    assert opened["fp32"].execution == "native"
    assert opened["fp32"].realised.recipe == "fp32"
    assert opened["fp32"].memory.resident_bytes > 0
    for name in ("fp8-ue8m0", "bf16-kv8"):
        assert opened[name].execution == "emulated"
        assert not opened[name].speed_valid
        assert opened[name].reasons == ("emulated_speed",)
        assert opened[name].realised is None


def test_bf16_that_is_multiplied_in_fp32_is_called_mixed(rig: LocalRig):
    opened = rig.open(arm("bf16", rig))
    widened = "accumulate" in opened.realised.kernel

    assert opened.execution == ("native_mixed" if widened else "native")


def test_memory_counts_weights_as_the_recipe_stores_them(rig: LocalRig, tiny_model: Path):
    stored = (tiny_model / "model.safetensors").stat().st_size
    bytes_of = {name: rig.open(arm(name, rig)).memory for name in ("bf16", "fp32", "fp8-ue8m0")}

    assert bytes_of["bf16"].weights_bytes == pytest.approx(stored, rel=0.02)  # the file's header, q and k norms
    assert bytes_of["fp32"].weights_bytes == 2 * bytes_of["bf16"].weights_bytes
    assert bytes_of["fp8-ue8m0"].weights_bytes < bytes_of["bf16"].weights_bytes
    assert bytes_of["bf16"].kv_bytes_per_token == 2 * 2 * 1 * 64 * 2  # keys and values, layers, heads, size, bytes


def test_prefill_counts_prompt_tokens_and_decode_counts_generated_ones(rig: LocalRig):
    read = rig.load(arm("bf16", rig), point("prefill", 3, 16)).run(0.02)
    made = rig.load(arm("bf16", rig), point("decode", 3, 16)).run(0.02)

    assert (read.input_tokens, read.output_tokens) == (read.iterations * 3 * 16, 0)
    assert (made.input_tokens, made.output_tokens) == (0, made.iterations * 3)
    assert read.seconds >= 0.02
    assert made.peak_bytes is None or made.peak_bytes >= 0


def test_decoding_stays_at_its_depth(rig: LocalRig):
    load = rig.load(arm("bf16", rig), point("decode", 2, 16, 4))
    assert isinstance(load, Decode)
    load.run(0.05)
    lengths = set()
    for _ in range(9):
        load.step()
        lengths.add(load._decoding._cache.length)

    assert lengths == {17, 18, 19, 20}  # prompts of 16 and up to 4 tokens behind them


def test_replay_repeats_the_lengths_whatever_the_model_writes(rig: LocalRig):
    whole = Workload(preset="replay", runner="replay", phase="whole", batch=3, input_tokens=13, output_tokens=5)
    load = rig.load(arm("fp32", rig), whole)
    load.warm(0.0)
    work = load.run(0.01)

    assert (work.input_tokens, work.output_tokens, work.requests) == tuple(work.iterations * n for n in (39, 15, 3))


def test_a_load_is_made_once_for_an_arm_and_point(rig: LocalRig):
    same = point("prefill", 1, 8)

    assert rig.load(arm("bf16", rig), same) is rig.load(arm("bf16", rig), same)
    assert rig.load(arm("bf16", rig), same) is not rig.load(arm("fp32", rig), same)


def test_a_batch_that_does_not_fit_is_named_as_that(rig: LocalRig, monkeypatch):
    load = rig.load(arm("bf16", rig), point("prefill", 2, 9))
    monkeypatch.setattr(load, "step", lambda: torch.empty(1 << 50))

    with pytest.raises(DoesNotFitError, match="memory"):
        load.warm(0.0)


def test_other_errors_are_not_called_memory(rig: LocalRig, monkeypatch):
    load = rig.load(arm("bf16", rig), point("prefill", 2, 10))
    monkeypatch.setattr(load, "step", lambda: torch.zeros(2) @ torch.zeros(3))

    with pytest.raises(RuntimeError, match="size"):
        load.warm(0.0)


def test_an_arm_that_the_engine_refuses_says_why(rig: LocalRig):
    static = RECIPES["fp8-e4m3-tensor-static"]

    with pytest.raises(CannotRunError, match="calibration"):
        rig.open(Arm(id="s", model=rig.model, recipe=static))


def test_tokens_a_second_are_those_of_a_bare_loop(rig: LocalRig):
    """The comparison with a tolerance is a benchmark (`benchmarks/bare_loop.py`); here only that both count alike."""
    load = rig.load(arm("fp32", rig), point("decode", 4, 32, 8))
    load.warm(0.05)
    start = time.perf_counter()
    for _ in range(16):
        load.step()
    bare = 16 * 4 / (time.perf_counter() - start)
    work = load.run(0.2)

    assert 0.2 < work.output_tokens / work.seconds / bare < 5


def test_prompts_are_real_text_of_the_asked_length_and_differ_by_row(rig: LocalRig):
    rows = rig.prompts([5, 5, 3000])

    assert [len(row) for row in rows] == [5, 5, 3000]
    assert rows[0] != rows[1]
    assert rig.prompts([5, 5, 3000]) == rows
    assert len(set(rows[2])) > 20


def test_what_is_held_counts_each_storage_once():
    before = local.held_bytes()
    whole = torch.zeros(1000, 1000)
    part = whole[:10]

    assert local.held_bytes() - before == whole.untyped_storage().nbytes()
    assert part.shape == (10, 1000)


def test_presets_separate_prefill_from_decode_here_and_run_whole_requests_elsewhere():
    static = list(presets.points("cpu-std", "static"))
    served = list(presets.points("cpu-std", "serve"))

    assert [(w.phase, w.batch, w.depth) for w in static] == [
        ("prefill", 1, None), ("decode", 1, 128), ("decode", 1, 512),
        ("prefill", 4, None), ("decode", 4, 128), ("decode", 4, 512),
    ]  # fmt: skip
    assert [(w.phase, w.batch, w.input_tokens, w.output_tokens) for w in served] == [
        ("whole", 1, 128, 32), ("whole", 4, 128, 32)]  # fmt: skip
    assert all(w.output_tokens <= presets.STEPS for name in presets.PRESETS for w in presets.points(name, "static"))


def test_a_stored_bench_is_read_again_as_it_was(tmp_path: Path):
    from tests.test_measure_bench import document

    bench = document()
    folder = store.save_bench(tmp_path, bench)

    assert store.read_bench(folder) == bench
    assert store.find_bench(tmp_path, "last") == bench
    assert store.read_benches(tmp_path) == [bench]
