"""A real vLLM server answers a suite; it is held against the embedded engine.

EVALSUITE_VLLM_PYTHON names the Python of a virtual environment with vLLM; without it these tests are skipped.
EVALSUITE_VLLM_URL may name a server of the reference model, served as `ref`, that runs already.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalsuite import resources, workflow
from evalsuite import spec as suites
from evalsuite.engines import GenerateRequest, ScoreRequest
from evalsuite.engines.endpoint import EndpointEngine
from evalsuite.engines.local import LocalEngine
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Arm, ModelRef

pytestmark = pytest.mark.engines
READY_S = 400
SUITE = """\
schema: 1
name: vllm
model: reference
arms: [bf16]
baseline: bf16
engine: {{name: endpoint, options: {{base_url: "{url}", served_model: ref}}}}
tasks:
  - {{task: ref_boolean, max_gen_toks: {{direct: 16, thinking: 160}}}}
  - ref_ordering_mc
decision: {{margin: 0.02}}
divergence: {{tokens: 0}}
limit: 16
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if given := os.environ.get("EVALSUITE_VLLM_URL"):
        yield given
        return
    python = os.environ.get("EVALSUITE_VLLM_PYTHON")
    if not python:
        pytest.skip("real vLLM is not tested: name the Python of its environment with EVALSUITE_VLLM_PYTHON")
    assert shutil.which(python), f"EVALSUITE_VLLM_PYTHON={python} is no program"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log.txt"
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(resources.reference_model()),
               "--served-model-name", "ref", "--dtype", "bfloat16", "--enforce-eager", "--port", str(port),
               "--max-model-len", "2048", "--max-num-seqs", "16"]  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "PYTHONPATH")}
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, cwd=log.parent,
                                  env={**kept, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"})  # fmt: skip
    try:
        _wait(server, f"http://127.0.0.1:{port}", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def _wait(server: subprocess.Popen, url: str, log: Path) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5)
            return
        except OSError:
            time.sleep(1)
    pytest.fail(f"vLLM was not ready after {READY_S} s: {log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def engine(url: str) -> EndpointEngine:
    made = EndpointEngine(ModelRef(id="reference"), {"base_url": url, "served_model": "ref"})
    assert made.cannot_run(arm(), scores=True) is None
    return made


def arm(recipe: str = "bf16") -> Arm:
    return Arm(id="bf16", model=ModelRef(id="reference"), recipe=RECIPES[recipe])


def test_vllm_is_seen_for_what_it_is(engine: EndpointEngine):
    with engine.open(arm()) as session:
        realised = session.realised

    assert realised.execution == "declared"
    assert realised.kernel.startswith("vllm ")
    assert (realised.facts["tokens"], realised.facts["scoring"]) == ("token_ids", "prompt_logprobs")
    assert (realised.facts["sampling"], realised.facts["tokenizer"]) == ("stated", "compared")
    assert engine.resolve(arm())[0].served.max_length == engine.max_length + 2 == 2048


def test_log_likelihoods_are_those_of_the_embedded_engine_as_far_as_bf16_goes(engine: EndpointEngine):
    """vLLM's logits are BF16 before its log-softmax: a step near 16 is 1/8."""
    local = LocalEngine(ModelRef(id="reference"), {})
    encode = local.tokenizer.encode
    asked = [ScoreRequest(tuple(encode("1 + 1 =")), tuple(encode(f" {i}", add_special_tokens=False))) for i in range(9)]
    with engine.open(arm()) as session, local.open(arm()) as own:
        theirs, ours = session.score(asked), own.score(asked)

    assert [s.loglikelihood for s in theirs] == pytest.approx([s.loglikelihood for s in ours], abs=0.25)
    with engine.open(arm()) as session:
        longest = session.score([ScoreRequest(tuple(encode("1 + 1 = ") * 600)[: engine.max_length], (7,))])
        assert longest[0].loglikelihood < 0
    assert len({round(s.loglikelihood, 3) for s in theirs}) > 1


def test_answers_end_and_read_as_the_embedded_engines_do(engine: EndpointEngine):
    local = LocalEngine(ModelRef(id="reference"), {})
    template = local.tokenizer.apply_chat_template
    asked = []
    for i in range(8):
        turn = [{"role": "user", "content": f"Compute {i + 2} + {i + 5} - 3."}]
        text = template(turn, tokenize=False, add_generation_prompt=True, enable_thinking=bool(i % 2))
        prompt = tuple(local.tokenizer.encode(text, add_special_tokens=False))
        asked.append(GenerateRequest(prompt, 64 if i % 2 else 12, ("\n\n",), "</think>" if i % 2 else None))
    with engine.open(arm()) as session, local.open(arm()) as own:
        theirs, ours = session.generate(asked), own.generate(asked)
    same = sum(a == b for a, b in zip(theirs, ours, strict=True))

    assert same >= 6, [(a, b) for a, b in zip(theirs, ours, strict=True) if a != b]
    assert not set(engine.eos) & {token for one in theirs for token in one.tokens}


def test_a_suite_is_answered_whole_and_as_well_as_by_the_embedded_engine(url: str, tmp_path: Path):
    served, local = tmp_path / "served.yaml", tmp_path / "local.yaml"
    served.write_text(SUITE.format(url=url))
    engine = f'{{name: endpoint, options: {{base_url: "{url}", served_model: ref}}}}'
    local.write_text(SUITE.format(url=url).replace(engine, "local"))
    runs = [workflow.run(suites.resolve(suites.load(str(path)))[0], workflow.Options(results=tmp_path / path.stem))
            for path in (served, local)]  # fmt: skip
    theirs, ours = (run.samples() for run in runs)
    where = ["arm", "task", "mode", "position"]
    both = theirs.merge(ours, on=where, suffixes=("", "_local"))

    assert [run.manifest.status for run in runs] == ["done", "done"]
    assert len(theirs) == len(ours) == len(both) == 2 * 3 * 16
    assert (both["prompt_hash"] == both["prompt_hash_local"]).all()
    assert (both["n_prompt_tokens"] == both["n_prompt_tokens_local"]).all()
    assert (both["correct"] == both["correct_local"]).mean() > 0.9
    assert theirs["correct"].mean() > 0.5
