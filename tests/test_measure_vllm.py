"""Real vLLM: arms side by side in one process, in turn; an FP8 checkpoint; a real server of the OpenAI protocol.

EVALSUITE_VLLM_PYTHON names the Python of a virtual environment with vLLM; without it these tests are skipped.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from evalsuite import resources
from evalsuite.errors import CannotRunError, UsageError
from evalsuite.measure.endpoint import EndpointRig
from evalsuite.measure.vllm_offline import VllmRig
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Arm, ModelRef, Workload

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 400
DRIVE = """
import json, sys, time
from pathlib import Path
from evalsuite.errors import CannotRunError
from evalsuite.measure.loads import DoesNotFitError
from evalsuite.measure.vllm_offline import VllmRig
from evalsuite.precision.recipes import RECIPES, AS_SHIPPED
from evalsuite.records import Arm, ModelRef, Workload

def cpu():  # processor time of all processes that have vLLM's names, by process
    used = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = stat.read_text().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue
        if name.startswith("VLLM") and not rest.startswith(" Z"):  # a dead one's entry stays until its parent reads it
            used[stat.parent.name] = sum(map(int, rest.split()[11:13])) / 100
    return used

def spent(before):
    after = cpu()
    return {pid: after[pid] - t for pid, t in before.items() if pid in after}

def point(batch, output=32, given=24):
    return Workload(preset="t", runner="offline", phase="whole", batch=batch, input_tokens=given, output_tokens=output)

def arm(name, model, recipe):
    return Arm(id=name, model=ModelRef(id=model), recipe=recipe, engine="vllm")

def main():
    model, fp8 = sys.argv[1:]
    rig, said = VllmRig(ModelRef(id=model), {"max_num_seqs": 4}), {}
    arms = {name: arm(name, model, RECIPES[name]) for name in ("bf16", "fp32")}
    null = arm("bf16@aa", model, RECIPES["bf16"])
    opened, owners = {}, {}
    for name, one in arms.items():
        before = set(cpu())
        opened[name] = rig.open(one)
        owners[name] = sorted(set(cpu()) - before)
    opened["bf16@aa"] = rig.open(null)
    said["processes_of_null_arm"] = len(cpu()) - sum(map(len, owners.values()))
    said["opened"] = {n: {"execution": o.execution, "startup_s": o.startup_s, "reasons": o.reasons,
                          "realised": o.realised.model_dump(), "memory": o.memory.model_dump()}
                      for n, o in opened.items()}
    said["facts"] = dict(rig.facts)
    loads = {name: rig.load(one, point(4)) for name, one in arms.items()}
    for load in loads.values():
        load.warm(1.0)
    said["windows"] = []
    for round_ in range(2):
        for name, load in loads.items():
            time.sleep(2)  # readers of vLLM's queues spin for a second behind the last message
            before = cpu()
            work = load.run(2.0)
            used = spent(before)
            said["windows"].append({
                "arm": name, "seconds": work.seconds, "tokens": work.output_tokens, "requests": work.requests,
                "reasons": work.reasons, "whole": work.whole_run.model_dump(), "latency": work.latency.model_dump(),
                "busy_s": sum(used.get(p, 0) for p in owners[name]),
                "idle_s": sum(t for p, t in used.items() if p not in owners[name])})
    said["prompts_alike"] = loads["bf16"].prompt(3) == loads["fp32"].prompt(3)
    one = rig.load(arms["bf16"], point(1))
    said["other_batch"] = {"facts": rig.facts["bf16"]["max_num_seqs"], "requests": one.run(0.5).requests}
    for what, workload in (("too_long", point(4, output=5000)), ("too_large", point(100, output=4000))):
        try:
            rig.load(arms["bf16"], workload)
        except (CannotRunError, DoesNotFitError) as error:
            said[what] = [type(error).__name__, str(error)]
    for name, one in (("recipe", arm("fp8", model, RECIPES["fp8-ue8m0"])), ("shipped", arm("s", fp8, AS_SHIPPED)),
                      ("kv", arm("kv", model, RECIPES["bf16-kv8"]))):
        try:
            found = rig.open(one)
            said[name] = ["opened", found.execution, list(found.reasons)]
        except CannotRunError as error:
            said[name] = ["refused", str(error)]
    rig.close()
    time.sleep(1)
    said["left"] = len(cpu())
    print("SAID" + json.dumps(said))

if __name__ == "__main__":
    main()
"""
pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def vllm_python() -> str:
    found = os.environ.get("EVALSUITE_VLLM_PYTHON")
    if not found:
        pytest.skip("real vLLM is not tested: name the Python of its environment with EVALSUITE_VLLM_PYTHON")
    assert shutil.which(found), f"EVALSUITE_VLLM_PYTHON={found} is no program"
    return found


def environment() -> dict[str, str]:
    """vLLM deals out threads itself; a suite of tests has set OMP_NUM_THREADS."""
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return {**kept, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


@pytest.fixture(scope="module")
def said(vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What one process with two arms found: one start of vLLM for many tests."""
    folder = tmp_path_factory.mktemp("vllm")
    fp8, script = folder / "fp8", folder / "drive.py"
    script.write_text(DRIVE, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "evalsuite", "quantize", "reference", "--recipe", "fp8-e4m3", "--out", fp8],
                   check=True, capture_output=True, cwd=ROOT, timeout=120)  # fmt: skip
    ran = subprocess.run([vllm_python, script, resources.reference_model(), fp8], env=environment(), text=True,
                         capture_output=True, timeout=TIMEOUT_S, cwd=folder)  # fmt: skip
    lines = [line for line in ran.stdout.splitlines() if line.startswith("SAID")]
    assert lines, ran.stdout[-3000:] + ran.stderr[-3000:]
    (folder / "said.json").write_text(lines[-1].removeprefix("SAID"), encoding="utf-8")  # pytest keeps it a while
    return json.loads(lines[-1].removeprefix("SAID"))


def test_arms_take_turns_in_one_process_and_the_idle_one_sleeps(said: dict):
    windows = said["windows"]

    assert [one["arm"] for one in windows] == ["bf16", "fp32"] * 2
    for one in windows:
        assert one["busy_s"] > 1.0
        assert one["idle_s"] < 0.1 * one["busy_s"]


def test_what_runs_is_read_back(said: dict):
    for name, dtype in (("bf16", "bfloat16"), ("fp32", "float32")):
        facts = said["facts"][name]

        assert (facts["dtype"], facts["kv_dtype"], facts["quantization"]) == (dtype, dtype, None)
        assert (facts["prefix_caching"], facts["speculative"], facts["max_num_seqs"]) == (False, False, 4)
        assert facts["VLLM_CPU_KVCACHE_SPACE"] == "1"
        assert facts["VLLM_CPU_OMP_THREADS_BIND"] == "auto"
        assert said["opened"][name]["realised"]["recipe"] == name
        assert said["opened"][name]["execution"] == "native"
        assert said["opened"][name]["startup_s"] > 0


def test_memory_is_that_of_the_weights_and_the_cache(said: dict):
    """6 layers of 2 heads of 64, keys and values; the tied head is one tensor."""
    bf16, fp32 = (said["opened"][name]["memory"] for name in ("bf16", "fp32"))
    file = (resources.reference_model() / "model.safetensors").stat().st_size

    assert bf16["kv_bytes_per_token"] == 6 * 2 * 64 * 2 * 2
    assert fp32["kv_bytes_per_token"] == 2 * bf16["kv_bytes_per_token"]
    assert bf16["weights_bytes"] == pytest.approx(file, rel=0.01)
    assert fp32["weights_bytes"] == 2 * bf16["weights_bytes"]


def test_windows_are_steady_and_count_the_engines_tokens(said: dict):
    for one in said["windows"]:
        assert one["seconds"] >= 2.0
        assert one["whole"]["output_tokens"] == 32 * one["whole"]["requests"]
        assert one["whole"]["input_tokens"] == 24 * one["whole"]["requests"]
        assert one["requests"] < one["whole"]["requests"]
        assert "not_steady" not in one["reasons"]
        assert "length_not_kept" not in one["reasons"]
        assert (one["latency"]["ttft_s"], one["latency"]["icl_s"]) == (None, None)
        assert one["tokens"] / one["seconds"] == pytest.approx(4 / one["latency"]["itl_s"]["mean"], rel=0.2)


def test_arms_read_the_same_prompts_and_the_null_arm_loads_nothing(said: dict):
    assert said["prompts_alike"]
    assert said["processes_of_null_arm"] == 0


def test_another_batch_is_another_engine(said: dict):
    assert said["other_batch"]["facts"] == 1
    assert said["other_batch"]["requests"] > 0


def test_what_does_not_fit_is_refused(said: dict):
    assert said["too_long"][0] == "CannotRunError"
    assert said["too_large"][0] == "DoesNotFitError"


def test_formats_that_vllm_does_not_run_are_refused_with_the_way_out(said: dict):
    assert said["recipe"][0] == said["kv"][0] == "refused"
    assert "evalsuite quantize" in said["recipe"][1]


def test_an_fp8_checkpoint_runs_unproven_or_is_refused(said: dict):
    """Whether vLLM has a kernel depends on the machine; it never counts as native."""
    assert said["shipped"][0] == "refused" or said["shipped"][1:] == ["declared", ["kernel_unproven"]]
    if said["shipped"][0] == "refused":
        assert re.search(r"vLLM cannot load .*: \w+(Error|Exception): ", said["shipped"][1])
        assert "Engine core initialization failed" not in said["shipped"][1]


def test_nothing_is_left_running(said: dict):
    assert said["left"] == 0


def test_a_real_server_of_the_protocol_is_measured(vllm_python: str, tmp_path: Path):
    model = str(resources.reference_model())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "log").open("w+")
    server = subprocess.Popen(
        [vllm_python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--dtype", "bfloat16",
         "--enforce-eager", "--max-num-seqs", "4", "--host", "127.0.0.1", "--port", str(port)],
        env=environment(), stdout=log, stderr=log, cwd=tmp_path)  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        arm = Arm(id="bf16", model=ModelRef(id=model), recipe=RECIPES["bf16"], engine="endpoint")
        rig = EndpointRig(arm.model, {"endpoints": {"bf16": f"http://127.0.0.1:{port}"}, "timeout_s": 60})
        found = rig.open(arm)
        point = Workload(preset="t", runner="serve", phase="whole", batch=2, input_tokens=64, output_tokens=32)
        load = rig.load(arm, point)
        load.warm(2.0)
        work = load.run(3.0)
        rig.close()
        other = EndpointRig(ModelRef(id="ORG/OTHER"), {"endpoints": {"bf16": f"http://127.0.0.1:{port}"}})
        with pytest.raises(CannotRunError, match="no model 'ORG/OTHER'"):
            other.open(arm.model_copy(update={"model": other.model}))
        other.close()
    finally:
        server.terminate()
        server.wait(timeout=60)
        log.close()

    assert found.execution == "declared"
    assert rig.facts["bf16"]["counted_by"] == "token_ids"
    assert work.whole_run.output_tokens == 32 * work.whole_run.requests
    assert work.whole_run.input_tokens / work.whole_run.requests == pytest.approx(64, rel=0.15)
    assert work.seconds >= 3.0
    assert work.latency.tpot_s.mean > 0
    assert not {"endpoint_failed", "length_not_kept", "token_count_retokenised", "not_steady"} & set(work.reasons)


def wait_for(url: str, server: subprocess.Popen) -> None:
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"vLLM's server did not start (exit {server.poll()})")


@pytest.mark.skipif(bool(os.environ.get("EVALSUITE_VLLM_PYTHON") == sys.executable), reason="vLLM is installed here")
def test_an_environment_without_vllm_is_told_where_to_run():
    with pytest.raises(CannotRunError, match="vLLM is not installed"):
        VllmRig(ModelRef(id="reference"), {})


def test_options_of_the_bench_are_not_the_suites():
    with pytest.raises(UsageError, match="Did you mean 'max_num_seqs'"):
        VllmRig(ModelRef(id="reference"), {"max_num_seq": 4})
    with pytest.raises(UsageError, match="dtype"):
        VllmRig(ModelRef(id="reference"), {"llm": {"dtype": "float16"}})
