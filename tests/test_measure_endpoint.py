"""Endpoints, against the fake server over real connections: latencies, counts, every fault by its name, the key."""

import time

import pytest

from evalsuite.errors import CannotRunError, UsageError
from evalsuite.measure.completions import KINDS
from evalsuite.measure.endpoint import EndpointRig
from evalsuite.measure.fake_server import Behaviour, FakeServer
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import REASONS, WARNINGS, Arm, ModelRef, Workload
from evalsuite.resources import reference_model

MODEL = ModelRef(id="fake")
ARM = Arm(id="bf16", model=MODEL, recipe=RECIPES["bf16"], engine="endpoint")
FIRST, TOKEN = 0.25, 0.05
LOOKS = 1 + 1 + 6
"""Requests before the first window: one to see what the server can do, seven for the length of prompts."""
SECRET = "sk-do-not-show-8f1e"


def workload(batch: int = 2, output: int = 8, phase: str = "whole") -> Workload:
    return Workload(preset="t", runner="serve", phase=phase, batch=batch, input_tokens=20, output_tokens=output)


def opened(url: str, **options) -> EndpointRig:
    rig = EndpointRig(MODEL, {"endpoints": {"bf16": url}, "timeout_s": 0.5, **options})
    rig.open(ARM)
    return rig


def measured(behaviour: Behaviour, seconds: float = 0.3, work: Workload | None = None, **options):
    """One window of a server that behaves so; faults are to come behind the requests that look around."""
    with FakeServer(behaviour) as url:
        rig = opened(url, **options)
        try:
            return rig.load(ARM, work or workload()).run(seconds)
        finally:
            rig.close()


def test_latencies_are_those_that_the_server_has():
    """A loaded machine only delays: nothing is shorter than asked for, the median wait at most 40 ms longer."""
    work = measured(Behaviour(first_s=FIRST, token_s=TOKEN), seconds=2.4, work=workload(batch=8))
    found = work.latency

    assert work.requests >= 20
    assert found.ttft_s.n >= 20
    assert FIRST <= found.ttft_s.p50 < FIRST + 0.04
    assert TOKEN * 0.98 <= found.tpot_s.p50 < TOKEN + 0.04
    assert found.itl_s.p50 == pytest.approx(TOKEN, abs=0.04)
    assert found.icl_s is None
    assert FIRST + 7 * TOKEN <= found.e2el_s.p50 < FIRST + 7 * TOKEN + 0.1
    assert work.output_tokens / work.seconds == pytest.approx(8 * 8 / (FIRST + 7 * TOKEN), rel=0.25)


def test_the_window_is_the_steady_state_with_the_whole_run_around_it():
    work = measured(Behaviour(first_s=0.02, token_s=0.005), seconds=0.5)

    assert work.seconds >= 0.5
    assert work.whole_run.duration_s > work.seconds
    assert work.whole_run.output_tokens == 8 * work.whole_run.requests
    assert work.whole_run.requests > work.requests
    assert "few_requests" in work.reasons
    assert not set(work.reasons) - {"few_requests"}


def test_requests_in_flight_are_as_many_as_asked_for_and_no_two_prompts_are_alike():
    server = FakeServer(Behaviour(first_s=0.05))
    with server as url:
        rig = opened(url)
        rig.load(ARM, workload(batch=4)).run(0.3)
        rig.close()
    body = server.requests[-1]
    prompts = [one["prompt"] for one in server.requests[LOOKS:]]

    assert len(set(prompts)) == len(prompts) > 8
    assert sum(len(one.split()) for one in prompts) / len(prompts) == pytest.approx(20, rel=0.15)
    assert (body["temperature"], body["max_tokens"], body["ignore_eos"], body["stream"]) == (0, 8, True, True)


def test_prompts_are_of_about_the_length_asked_for_by_the_servers_count():
    work = measured(Behaviour())

    assert work.whole_run.input_tokens / work.whole_run.requests == pytest.approx(20, rel=0.25)


@pytest.mark.parametrize(("behaviour", "by", "single"), [
    (Behaviour(), "token_ids", True),
    (Behaviour(piece=4), "token_ids", False),
    (Behaviour(rejects=("return_token_ids",)), "usage", True),
    (Behaviour(token_ids=False), "usage", True),
    (Behaviour(token_ids=False, piece=4), "usage", False),
])  # fmt: skip
def test_tokens_are_counted_by_the_server(behaviour: Behaviour, by: str, single: bool):
    with FakeServer(behaviour) as url:
        rig = opened(url)
        work = rig.load(ARM, workload()).run(0.2)
        rig.close()

    assert rig.facts["bf16"]["counted_by"] == by
    assert work.whole_run.output_tokens == 8 * work.whole_run.requests
    assert (work.latency.itl_s is not None, work.latency.icl_s is not None) == (single, not single)
    assert "token_count_retokenised" not in work.reasons


def test_tokens_counted_from_text_are_said_to_be():
    with FakeServer(Behaviour(token_ids=False, usage=False, logprobs=False)) as url:
        rig = opened(url, tokenizer=str(reference_model()))
        work = rig.load(ARM, workload()).run(0.2)
        rig.close()

    assert rig.facts["bf16"]["counted_by"] == "text"
    assert "token_count_retokenised" in work.reasons
    assert work.output_tokens > 0


def test_logprobs_count_tokens_where_nothing_else_does():
    with FakeServer(Behaviour(token_ids=False, usage=False, piece=2)) as url:
        rig = opened(url, tokenizer=str(reference_model()))
        work = rig.load(ARM, workload()).run(0.2)
        rig.close()

    assert rig.facts["bf16"]["counted_by"] == "logprobs"
    assert work.whole_run.output_tokens == 8 * work.whole_run.requests


def test_a_server_that_counts_nothing_is_refused_without_a_tokenizer():
    with FakeServer(Behaviour(token_ids=False, usage=False, logprobs=False)) as url, \
            pytest.raises(CannotRunError, match="uncounted.*tokenizer"):
        opened(url)


@pytest.mark.parametrize(("fault", "kind"), [
    ("busy", "rate_limited"), ("broken", "server_error"), ("garbage", "garbage"), ("cut", "cut"),
    ("other_model", "other_model"), ("stall", "timeout"), ("error_event", "server_error"), ("dies", "cut"),
    ("html", "garbage"),
])  # fmt: skip
def test_each_fault_in_a_window_has_its_name(fault, kind: str):
    work = measured(Behaviour(fault=fault, after=LOOKS + 4), retries=1)

    assert work.reasons == ("endpoint_failed",)
    assert work.notes[0].startswith(f"{kind}: ")
    assert kind in KINDS
    assert work.output_tokens == 0
    assert work.latency is None


def test_a_server_that_is_gone_stays_failed_and_says_so():
    with FakeServer(Behaviour(fault="dies", after=LOOKS + 4)) as url:
        rig = opened(url)
        load = rig.load(ARM, workload())
        first, second = load.run(0.3), load.run(0.3)
        rig.close()

    assert first.reasons == second.reasons == ("endpoint_failed",)
    assert second.notes[0].startswith("unreachable: ")


@pytest.mark.parametrize("fault", ["busy", "broken"])
def test_a_busy_server_is_asked_again_and_it_is_counted(fault):
    work = measured(Behaviour(fault=fault, after=LOOKS + 4, times=3, retry_after="0.05"), seconds=0.6)

    assert work.retries == 3
    assert "endpoint_failed" not in work.reasons


def test_the_wait_that_a_server_asks_for_is_kept_and_counts_as_latency():
    """One of n requests took 0.3 s longer to its first token than the server's own 0.1 s."""
    busy = Behaviour(first_s=0.1, fault="busy", after=LOOKS + 1, times=1, retry_after="0.3")
    work = measured(busy, seconds=0.6, work=workload(batch=1))
    ttft = work.latency.ttft_s

    assert work.retries == 1
    assert ttft.mean * ttft.n >= 0.1 * ttft.n + 0.29


def test_a_wait_beyond_all_patience_is_a_failure():
    work = measured(Behaviour(fault="busy", after=LOOKS + 4, retry_after="3600"))

    assert work.notes[0].startswith("rate_limited: 429, asks to wait 3600 s")
    assert work.retries == 0


def test_another_model_is_refused_and_both_are_named():
    with FakeServer(Behaviour(model="someone-else")) as url, \
            pytest.raises(CannotRunError, match=r"no model 'fake'; it has: someone-else\. .*names:"):
        opened(url)


def test_a_model_may_have_another_name_at_the_server():
    with FakeServer(Behaviour(model="served-name")) as url:
        rig = opened(url, names={"bf16": "served-name"})
        rig.close()

    assert rig.facts["bf16"]["model"] == "served-name"


def test_a_server_that_is_not_there_is_refused():
    with pytest.raises(CannotRunError, match="Arm 'bf16': unreachable"):
        opened("http://127.0.0.1:9")


def test_a_server_that_does_not_keep_lengths_is_refused_and_may_be_measured_all_the_same():
    behaviour = Behaviour(rejects=("ignore_eos",), stops_at=5)
    with FakeServer(behaviour) as url, pytest.raises(CannotRunError, match="ignore_eos: false"):
        opened(url)
    work = measured(behaviour, ignore_eos=False)

    assert "length_not_kept" in work.reasons
    assert work.whole_run.output_tokens == 5 * work.whole_run.requests


def test_a_prefix_cache_that_helped_is_said():
    work = measured(Behaviour(cached=16))

    assert "prefix_cache_on" in work.reasons


def test_a_client_that_is_always_busy_is_said(monkeypatch: pytest.MonkeyPatch):
    """A client that computes all the time is what is measured. Its clock is set to that: how much of a core it really
    gets depends on what else this machine does."""
    monkeypatch.setattr(time, "process_time_ns", time.perf_counter_ns)
    work = measured(Behaviour(), seconds=0.3, work=workload(batch=32, output=64))

    assert "client_bound" in work.reasons


def test_a_slow_server_does_not_make_the_client_busy():
    assert "client_bound" not in measured(Behaviour(first_s=0.05, token_s=0.02)).reasons


def test_the_key_reaches_the_server_and_nothing_else(monkeypatch: pytest.MonkeyPatch, capfd, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with FakeServer(Behaviour(key=SECRET)) as url:
        rig = opened(url)
        work = rig.load(ARM, workload()).run(0.2)
        said = [repr(vars(rig)), repr(rig.facts), repr(work), repr(vars(rig.load(ARM, workload())))]
        rig.close()
    with FakeServer(Behaviour(key="another")) as url, pytest.raises(CannotRunError, match="401") as refused:
        opened(url)
    said += [str(refused.value), repr(refused.getrepr(style="long")), *capfd.readouterr(), caplog.text]

    assert "Incorrect API key provided: ***" in str(refused.value)
    assert not [text for text in said if SECRET in text]


def test_a_key_is_read_from_the_variable_that_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", SECRET)
    with FakeServer(Behaviour(key=SECRET)) as url:
        opened(url, api_key_env="MY_KEY").close()
        with pytest.raises(CannotRunError, match="NO_SUCH_KEY.* is not set"):
            opened(url, api_key_env="NO_SUCH_KEY")


@pytest.mark.parametrize(("options", "message"), [
    ({}, "needs `endpoints"),
    ({"endpoints": {"bf16": "http://h"}, "timeout": 1}, "Did you mean 'timeout_s'"),
    ({"endpoints": {"bf16": "http://h"}, "api_key": "x"}, "read from the environment"),
    ({"endpoints": {"bf16": "http://h"}, "slo": {"ttft_ms": 1}}, "Did you mean 'ttft_s'"),
])  # fmt: skip
def test_options_that_do_not_exist_are_refused(options, message: str):
    with pytest.raises(UsageError, match=message):
        EndpointRig(MODEL, options)


@pytest.mark.parametrize(("url", "message"), [("h:8000", "no address"), ("http://me:pw@h", "holds a password")])
def test_addresses_that_are_none_are_refused(url: str, message: str):
    with pytest.raises(UsageError, match=message) as refused:
        opened(url)

    assert "pw" not in str(refused.value)


def test_an_arm_without_a_url_is_refused_and_the_null_arm_has_its_baselines():
    null = ARM.model_copy(update={"id": "bf16@aa", "noise_floor": True})
    with FakeServer(Behaviour()) as url:
        rig = opened(url)
        rig.open(null)
        with pytest.raises(UsageError, match="'fp8' has no URL"):
            rig.open(ARM.model_copy(update={"id": "fp8"}))
        rig.close()

    assert rig.facts["bf16@aa"] == rig.facts["bf16"]


def test_an_arm_is_declared_and_knows_neither_memory_nor_start():
    with FakeServer(Behaviour()) as url:
        rig = EndpointRig(MODEL, {"endpoints": {"bf16": url + "/v1/"}})
        found = rig.open(ARM)
        rig.close()

    assert (found.execution, found.speed_valid) == ("declared", True)
    assert (found.realised, found.memory, found.startup_s) == (None, None, None)


def test_only_whole_requests_are_measured():
    with FakeServer(Behaviour()) as url:
        rig = opened(url)
        with pytest.raises(CannotRunError, match="whole requests"):
            rig.load(ARM, workload(phase="decode"))
        rig.close()


def test_warming_ends_in_time_and_the_loop_runs_after_it():
    with FakeServer(Behaviour(token_s=0.01)) as url:
        rig = opened(url, timeout_s=60)
        load = rig.load(ARM, workload(output=500))
        start = time.perf_counter()
        load.warm(0.2)
        taken = time.perf_counter() - start
        after = rig.load(ARM, workload()).run(0.2)
        rig.close()

    assert 0.2 <= taken < 1.0
    assert after.requests > 0


def test_goodput_is_counted_within_the_limits():
    none, all_ = ({"ttft_s": 0.001}, {"ttft_s": 10.0})
    behaviour = Behaviour(first_s=0.02)

    assert measured(behaviour, slo=none).latency.goodput_per_s == 0.0
    assert measured(behaviour, slo=all_).latency.goodput_per_s > 0


def test_reasons_of_an_endpoint_are_known_and_only_failure_takes_the_number_away():
    codes = {"client_bound", "prefix_cache_on", "length_not_kept", "token_count_retokenised", "not_steady"}

    assert codes <= WARNINGS
    assert "endpoint_failed" in set(REASONS) - WARNINGS
