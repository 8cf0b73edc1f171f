"""The vLLM engine: what needs no vLLM, then (marker `engines`) whole runs in vLLM's own environment.

EVALSUITE_VLLM_PYTHON names the Python of that environment; without it the runs are skipped.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from evalsuite import spec as suites
from evalsuite import workflow
from evalsuite.engines import GenerateRequest, ScoreRequest, TraceRequest
from evalsuite.engines.local import LocalEngine
from evalsuite.engines.vllm_llm import OPTIONS, Running, prepare
from evalsuite.engines.vllm_session import WHOLE, VllmSession
from evalsuite.engines.vllm_switches import TABLE, refusal, switches
from evalsuite.errors import CannotRunError, UsageError
from evalsuite.precision.recipes import AS_SHIPPED, RECIPES
from evalsuite.records import ModelRef, Realised
from tests.test_measure_vllm import environment, vllm_python  # noqa: F401 - a fixture

ITEMS = 6
VOCABULARY = 1536
REALISED = Realised(recipe="bf16", execution="native", kernel="vllm", gemm_mode="none", logits_dtype="float32",
                    device="cpu", threads=1, modules=(), params_quantised=0.0, macs_quantised=0.0)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ switches


def test_every_switch_of_every_recipe_is_written_down():
    for name in TABLE:
        found = switches(RECIPES[name])

        assert found is not None
        assert set(found.variables) == {"VLLM_USE_DEEP_GEMM", "VLLM_USE_DEEP_GEMM_E8M0", "VLLM_BATCH_INVARIANT"}
        assert set(found.written) == {*found.variables, "dtype", "quantization", "kv_cache_dtype"}


def test_arms_with_fp32_scales_turn_deepgemms_powers_of_two_off():
    assert switches(RECIPES["fp8-e4m3"]).variables["VLLM_USE_DEEP_GEMM_E8M0"] == "0"
    assert switches(RECIPES["fp8-ue8m0-requant"]).variables["VLLM_USE_DEEP_GEMM_E8M0"] == "1"


@pytest.mark.parametrize(("recipe", "on"), [("fp8-e4m3", "0"), ("fp8-ue8m0", "1"), ("bf16", "0")])
def test_a_checkpoint_is_run_with_the_scales_that_its_tensors_show(recipe, on):
    shipped = RECIPES[recipe].model_copy(update={"id": f"as-shipped:{recipe}"})
    found = switches(shipped)

    assert found.variables["VLLM_USE_DEEP_GEMM_E8M0"] == on
    assert found.quantization is None
    assert refusal(shipped, "cpu") is refusal(AS_SHIPPED, "cpu") is None


def test_a_kv_cache_is_a_switch_of_its_own():
    assert switches(RECIPES["bf16-kv8"]).kv_cache == "fp8_e4m3"
    assert switches(RECIPES["fp8-e4m3-kv8"]).quantization == switches(RECIPES["fp8-e4m3"]).quantization


def test_recipes_that_vllm_does_not_make_are_refused_with_the_way_out():
    for name, recipe in RECIPES.items():
        why = refusal(recipe, "cuda")
        if name.removesuffix("-kv8") in TABLE:
            assert why is None
            continue

        assert f"recipe '{name}'" in why
        assert f"quantize MODEL --recipe {name.removesuffix('-kv8')} " in why
        assert "as-shipped" in why
    assert "fp8-ue8m0-requant" in refusal(RECIPES["fp8-ue8m0"], "cuda")


def test_on_a_processor_bf16_and_fp32_run_and_nothing_else():
    assert [name for name, recipe in RECIPES.items() if refusal(recipe, "cpu") is None] == ["bf16", "fp32"]


def test_options_that_do_not_exist_or_are_not_the_suites_are_refused():
    with pytest.raises(UsageError, match="Did you mean 'max_num_seqs'"):
        prepare({"max_num_seq": 4}, ())
    with pytest.raises(UsageError, match="quantization"):
        prepare({"llm": {"quantization": "fp8"}}, ("quantization",))


@pytest.mark.skipif(bool(os.environ.get("EVALSUITE_VLLM_PYTHON") == sys.executable), reason="vLLM is installed here")
def test_an_environment_without_vllm_is_told_where_to_run(monkeypatch: pytest.MonkeyPatch):
    for name in ("VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_KVCACHE_SPACE", "VLLM_LOGGING_STREAM"):
        monkeypatch.setenv(name, "kept")  # put back afterwards
    with pytest.raises(CannotRunError, match="vLLM is not installed"):
        prepare({}, (), OPTIONS)


def test_an_environment_without_lm_eval_is_told_what_to_install():
    code = (
        "import sys; sys.meta_path.insert(0, type('No', (), {'find_spec': staticmethod(lambda n, *_: None)})());"
        "import importlib.util, evalsuite.workflow as w;"
        "w.find_spec = lambda name: None;"
        "w.run(None)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "CannotRunError: Python package 'lm_eval' is not installed" in ran.stderr
    assert "pip install" in ran.stderr


# ------------------------------------------------------------------------------------------- requests and outputs


class FakeEngine:
    """vLLM's engine as far as a session sees it: it writes what `answers` says, so many tokens a step."""

    def __init__(self, answers: list[list[int]], positions: Any = None, a_step: int = 1) -> None:
        self.answers, self.positions, self.a_step = answers, positions, a_step
        self.open: dict[str, list[int]] = {}
        self.asked: list[tuple[list[int], dict[str, Any]]] = []
        self.aborted: list[str] = []

    def add_request(self, name: str, prompt: dict[str, Any], parameters: dict[str, Any]) -> None:
        answer = list(self.answers[len(self.asked) % len(self.answers)])
        self.asked.append((prompt["prompt_token_ids"], parameters))
        self.open[name] = answer[: parameters["max_tokens"]]

    def abort_request(self, names: list[str]) -> None:
        self.aborted += names
        for name in names:
            self.open.pop(name, None)

    def step(self) -> list[Any]:
        made = []
        for name, rest in list(self.open.items())[::-1]:
            now, self.open[name] = rest[: self.a_step], rest[self.a_step :]
            finished = not self.open[name]
            if finished:
                del self.open[name]
            positions = self.positions(int(name)) if self.positions else None
            made.append(SimpleNamespace(request_id=name, finished=finished, prompt_logprobs=positions,
                                        outputs=[SimpleNamespace(token_ids=now)]))  # fmt: skip
        return made


class FakeRunning(Running):
    """Parameters as the dictionary that they were made from."""

    def parameters(self, *, streamed: bool, **chosen: Any) -> Any:
        return {"streamed": streamed, **chosen}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return LocalEngine(ModelRef(id="reference"), {}).tokenizer


def session(fake: FakeEngine, tokenizer: Any, vocabulary: int = VOCABULARY) -> VllmSession:
    running = FakeRunning(SimpleNamespace(llm_engine=fake), {"vocabulary": vocabulary}, 0.0)
    return VllmSession(REALISED, tokenizer, (3,), lambda _: running)


@pytest.mark.parametrize("a_step", [1, 3, 100])
def test_texts_end_where_the_embedded_engine_ends_them(tokenizer, a_step):
    words = tokenizer.encode("one two\nthree", add_special_tokens=False)
    line = next(i for i, token in enumerate(words) if "\n" in tokenizer.decode([token]))
    fake = FakeEngine([[*words, 3, 9], [*words], [*words]], a_step=a_step)
    ask = [GenerateRequest((5, 6), 50, ()), GenerateRequest((5,), len(words), ()), GenerateRequest((5,), 50, ("\n",))]
    made = session(fake, tokenizer).generate(ask)

    assert [one.finish_reason for one in made] == ["eos", "length", "stop"]
    assert [list(one.tokens) for one in made] == [words, words, words[: line + 1]]
    assert made[0].text == "one two\nthree"
    assert fake.asked[0][0] == [5, 6]


def test_a_stop_string_within_the_thought_ends_nothing(tokenizer):
    words = tokenizer.encode("a\nb</think>c\nd", add_special_tokens=False)
    made = session(FakeEngine([words]), tokenizer).generate([GenerateRequest((5,), 50, ("\n",), "</think>")])[0]

    assert made.text.endswith("c\n")
    assert made.finish_reason == "stop"


def test_only_our_ends_end_an_answer_and_none_if_it_is_to_go_on(tokenizer):
    fake = FakeEngine([[8, 3, 8, 8]])
    made = session(fake, tokenizer).generate([GenerateRequest((5,), 4, (), ignore_eos=True)])[0]
    session(fake, tokenizer).generate([GenerateRequest((5,), 4, (), temperature=0.7, top_p=0.9, seed=11)])

    assert (made.tokens, made.finish_reason) == ((8, 3, 8, 8), "length")
    assert [asked["stop_token_ids"] for _, asked in fake.asked] == [[], [3]]
    assert all(asked["ignore_eos"] and asked["streamed"] for _, asked in fake.asked)
    assert [(a["temperature"], a["top_p"], a["seed"]) for _, a in fake.asked] == [(0.0, 1.0, None), (0.7, 0.9, 11)]


def test_an_answer_that_ends_for_no_reason_of_ours_is_an_error(tokenizer):
    with pytest.raises(CannotRunError, match="after 2 of 50 tokens"):
        session(FakeEngine([[8, 8]]), tokenizer).generate([GenerateRequest((5,), 50, ())])


def test_a_score_is_the_sum_over_the_continuation_alone(tokenizer):
    def positions(_: int) -> list[Any]:
        lines = [None, *({t: SimpleNamespace(logprob=-t / 8, rank=1 + (t == 7))} for t in (6, 7, 8))]
        return [*lines[:1], *lines[1:]]

    fake = FakeEngine([[1]], positions)
    split = session(fake, tokenizer).score([ScoreRequest((5, 6), (7, 8)), ScoreRequest((5, 6, 7), (8,))])

    assert [one.loglikelihood for one in split] == [-15 / 8, -1.0]
    assert [one.greedy for one in split] == [False, True]
    assert [prompt for prompt, _ in fake.asked] == [[5, 6, 7, 8]] * 2
    assert all(asked["prompt_logprobs"] == 1 for _, asked in fake.asked)


def test_a_trace_is_read_from_whole_distributions(tokenizer):
    size, prompt = 16, [5, 6, 7, 8]
    logp = torch.randn(len(prompt) - 1, size, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    order = logp.argsort(descending=True)
    ids = torch.cat([torch.tensor(prompt[1:])[:, None], order], 1)
    flat = SimpleNamespace(token_ids=ids.flatten().tolist(), logprobs=logp.gather(1, ids).flatten().tolist())
    one = session(FakeEngine([[1]], lambda _: flat), tokenizer, size)
    (own,) = one.trace([TraceRequest((5, 6), (7, 8))], 4)
    (given,) = one.trace([TraceRequest((5, 6), (7, 8))], 4, [np.array([[1, 2], [3, 4]])])

    assert own.tokens.tolist() == order[1:, :4].tolist()
    assert own.top.tolist() == order[1:, 0].tolist()
    assert own.chosen.tolist() == [logp[1, 7].item(), logp[2, 8].item()]
    assert np.allclose(np.exp(own.logprobs).sum(1) + np.exp(own.rest), 1, atol=1e-6)
    assert given.logprobs.tolist() == [[logp[1, 1].item(), logp[1, 2].item()], [logp[2, 3].item(), logp[2, 4].item()]]


def test_large_vocabularies_are_not_traced_and_the_message_says_what_to_do(tokenizer):
    with pytest.raises(CannotRunError, match=r"divergence: \{tokens: 0\}"):
        session(FakeEngine([[1]]), tokenizer, WHOLE + 1).trace([TraceRequest((5,), (6,))], 4)


def test_names_of_requests_are_never_used_twice(tokenizer):
    fake = FakeEngine([[3]])
    one = session(fake, tokenizer)
    seen = []
    fake_add = fake.add_request
    fake.add_request = lambda name, *rest: (seen.append(name), fake_add(name, *rest))  # type: ignore[method-assign]
    for _ in range(3):
        one.generate([GenerateRequest((5,), 4, ())] * 2)

    assert seen == list(dict.fromkeys(seen))
    assert len(seen) == 6


# ------------------------------------------------------------------------------------------------------- whole runs


def start(python: str, results: Path, *more: str) -> subprocess.Popen:
    command = [python, "-m", "evalsuite", "run", *more, "--results", str(results)]
    log = (results.parent / f"{results.name}.log").open("a")
    return subprocess.Popen(command, env=environment(), stdout=log, stderr=log, start_new_session=True)


def finished(python: str, results: Path, *more: str) -> workflow.Run:
    code = start(python, results, *more).wait(timeout=580)
    log = (results.parent / f"{results.name}.log").read_text(encoding="utf-8", errors="replace")

    assert code == 0, log[-4000:]
    return workflow.load_run(next(results.glob("*/manifest.json")).parent)


ASKED = ("reference", "--engine", "vllm", "--arms", "bf16", "--limit", str(ITEMS))


@pytest.fixture(scope="module")
def ran(vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> workflow.Run:  # noqa: F811 - the fixture
    return finished(vllm_python, tmp_path_factory.mktemp("vllm") / "results", *ASKED)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The same items by the embedded engine."""
    spec = suites.resolve(suites.load("reference"), suites.Overrides(arms=("bf16",), limit=ITEMS))[0]
    return workflow.run(spec, workflow.Options(results=tmp_path_factory.mktemp("local"))).samples()


def paired(ran: workflow.Run, local: pd.DataFrame) -> pd.DataFrame:
    keys = ["task", "mode", "item_hash", "arm"]
    both = ran.samples().merge(local, on=keys, suffixes=("", "_local"), validate="one_to_one")

    assert len(both) == len(local) == len(ran.samples())
    return both[both["arm"] == "bf16"]


@pytest.mark.engines
def test_a_suite_is_answered_whole_by_vllm(ran: workflow.Run):
    samples = ran.samples()
    texts = samples[samples["output_text"].notna()]

    assert ran.manifest.status == "done"
    assert len(samples) == 2 * ITEMS * 22  # bf16 and bf16@aa; ten tasks in two modes, two in one
    assert not samples.duplicated(["arm", "task", "mode", "item_hash", "repeat"]).any()
    assert (samples["n_prompt_tokens"] > 0).all()
    assert (samples["n_output_tokens"] > 0).mean() > 0.99
    assert (texts["n_thinking_tokens"] <= texts["n_output_tokens"]).all()
    assert (texts[texts["mode"] == "thinking"]["n_thinking_tokens"] > 0).mean() > 0.9
    assert ran.manifest.software["vllm-cpu"]


@pytest.mark.engines
def test_the_record_says_what_ran_with_which_switches(ran: workflow.Run):
    for record in ran.manifest.cells.values():
        found = record.realised

        assert (found.recipe, found.execution, found.logits_dtype) == ("bf16", "native", "float32")
        assert found.kernel.startswith("vllm ")
        assert found.switches["VLLM_USE_DEEP_GEMM_E8M0"] == "0"
        assert found.switches["dtype"] == "bfloat16"
        assert found.batch_invariant is False  # on a processor


@pytest.mark.engines
def test_greedy_texts_are_mostly_the_embedded_engines(ran: workflow.Run, local: pd.DataFrame):
    texts = paired(ran, local).query("output_text.notna()")
    unlike = [
        (row.task, row.mode, next((i for i, (a, b) in enumerate(itertools.zip_longest(
            row.output_token_ids, row.output_token_ids_local)) if a != b), None))
        for row in texts.itertuples() if list(row.output_token_ids) != list(row.output_token_ids_local)
    ]  # fmt: skip
    print(f"{len(unlike)} of {len(texts)} texts differ; task, mode, first diverging token:", *unlike, sep="\n")
    direct = texts[texts["mode"] == "direct"]

    assert (texts["n_prompt_tokens"] == texts["n_prompt_tokens_local"]).all()
    assert len(unlike) <= 0.25 * len(texts)
    assert (direct["correct"] != direct["correct_local"]).mean() <= 0.1


@pytest.mark.engines
def test_log_likelihoods_are_those_of_the_embedded_engine(ran: workflow.Run, local: pd.DataFrame):
    scored = paired(ran, local).query("choice_loglikelihoods.notna()")
    ours, theirs = (np.concatenate(scored[f"choice_loglikelihoods{end}"].to_list()) for end in ("", "_local"))
    print(f"largest difference of {len(ours)} log-likelihoods: {np.abs(ours - theirs).max():.3f} nats")

    assert len(scored) == 2 * ITEMS
    assert np.abs(ours - theirs).mean() < 0.1  # BF16 noise of the layers
    assert (ours * 16 != np.round(ours * 16)).mean() > 0.9  # and not on a grid of BF16


@pytest.mark.engines
def test_divergence_is_measured_through_vllm(ran: workflow.Run):
    measured = [record for record in ran.manifest.cells.values() if record.divergence_sha256]

    assert {record.cell.arm for record in measured} == {"bf16@aa"}
    assert {record.cell.mode for record in measured} == {"direct", "thinking"}


@pytest.mark.engines
def test_a_killed_run_resumes_to_the_same_items(vllm_python: str, tmp_path: Path):  # noqa: F811 - the fixture
    results = tmp_path / "results"
    asked = ("--arms", "bf16", "--tasks", "ref_ordering,ref_boolean,ref_chain_sum", "--limit", "40")
    killed = start(vllm_python, results, "reference", "--engine", "vllm", *asked)
    end = time.monotonic() + 400
    while time.monotonic() < end and killed.poll() is None and len(list(results.glob("*/cells/*/*.parquet"))) < 2:
        time.sleep(0.1)

    assert killed.poll() is None, "it was done before it could be killed"
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = workflow.load_run(next(results.glob("*/manifest.json")).parent).samples()
    whole = finished(vllm_python, results, "--resume", "last")
    samples = whole.samples()

    assert 0 < len(before) < len(samples) == 2 * 2 * 3 * 40
    for key, record in whole.manifest.cells.items():
        cell = record.cell
        own = samples[(samples["arm"] == cell.arm) & (samples["task"] == cell.task) & (samples["mode"] == cell.mode)]

        assert own["item_hash"].tolist() == list(whole.manifest.items[f"{cell.task}.{cell.mode}"]), key
    keys = ["arm", "task", "mode", "position"]
    kept = before.merge(samples, on=keys, suffixes=("", "_after"))

    assert (kept["output_text"] == kept["output_text_after"]).all()


@pytest.mark.engines
def test_a_recipe_that_vllm_cannot_run_here_ends_the_run_before_it_begins(vllm_python: str, tmp_path: Path):  # noqa: F811
    command = [vllm_python, "-m", "evalsuite", "run", "reference", "--engine", "vllm", "--limit", "1"]
    ran = subprocess.run([*command, "--results", tmp_path], env=environment(), capture_output=True, text=True,
                         check=False, timeout=300)  # fmt: skip

    assert ran.returncode == 3
    assert "evalsuite quantize" in ran.stderr
    assert not list(tmp_path.glob("*/manifest.json"))
