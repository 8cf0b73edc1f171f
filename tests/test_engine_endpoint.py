"""Endpoints over real connections: the answers of the embedded engine, every fault by its name, what is missing and how
it is completed, and the key, which stands nowhere."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalsuite import spec as suites
from evalsuite import workflow
from evalsuite.engines import GONE, OPTIONS, UNANSWERED, UNSEEN, GenerateRequest, Generation, ScoreRequest, Unanswered
from evalsuite.engines.chat import Messages
from evalsuite.engines.endpoint import EndpointEngine
from evalsuite.engines.openai import KINDS, RETRIED, FailedError, Patience, address, wait_of
from evalsuite.engines.wire import Dialect, Reader, body_of, generation, stop_end
from evalsuite.errors import CannotRunError, SuiteError, UsageError
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Arm, ModelRef
from evalsuite.store import Store
from tests.model_server import Model, ModelServer, Talks

SUITE = """\
schema: 1
name: served
model: {model}
arms: [bf16, fp8-ue8m0]
baseline: bf16
noise_floor: false
engine: {engine}
tasks:
  - {{task: ref_chain_sum, max_gen_toks: {{direct: 8, thinking: 24}}}}
  - ref_ordering_mc
decision: {{margin: 0.02}}
divergence: {{tokens: 0}}
limit: {limit}
"""
SECRET = "sk-do-not-show-8f1e"
ONE = "bf16.ref_chain_sum.direct.r0"


@pytest.fixture(scope="module")
def models(tiny_model: Path) -> Iterator[dict[str, Model]]:
    made = {name: Model(tiny_model, name) for name in ("bf16", "fp8-ue8m0")}
    yield made
    for model in made.values():
        model.close()


@pytest.fixture
def served(tmp_path: Path, tiny_model: Path):
    """Writes a suite over servers and resolves it."""

    def write(urls: dict[str, str], limit: int = 6, tasks: str = "ref_chain_sum", more: str = "", **overrides):
        pairs = ", ".join(f'{arm}: "{url}"' for arm, url in urls.items())
        options = f"endpoints: {{{pairs}}}, served_model: tiny, timeout_s: 5, retries: 1, group_tokens: 200{more}"
        path = tmp_path / "served.yaml"
        engine = f"{{name: endpoint, options: {{{options}}}}}"
        path.write_text(SUITE.format(model=tiny_model, engine=engine, limit=limit), encoding="utf-8")
        chosen = tuple(tasks.split(","))
        return suites.resolve(suites.load(str(path)), suites.Overrides(tasks=chosen, **overrides))[0]

    return write


def arm(model: Path, name: str = "bf16") -> Arm:
    return Arm(id=name, model=ModelRef(id=str(model)), recipe=RECIPES[name], engine="endpoint")


def engine(model: Path, url: str, **options) -> EndpointEngine:
    return EndpointEngine(ModelRef(id=str(model)), {"base_url": url, "served_model": "tiny", "timeout_s": 5,
                                                    "retries": 1, **options})  # fmt: skip


def asked(model: Model, n: int = 3, **more) -> list[GenerateRequest]:
    prompts = [f"Compute {i} + {i + 1}." for i in range(n)]
    return [GenerateRequest(tuple(model.engine.tokenizer.encode(p)), 6, (), **more) for p in prompts]


def ask(tiny_model: Path, server: ModelServer, requests, **options):
    """Answers of one group, and what was said to be unanswered."""
    with server as url:
        own = engine(tiny_model, url, **options)
        assert own.cannot_run(arm(tiny_model)) is None
        with own.open(arm(tiny_model)) as session:
            made = session.generate(requests)
            return made, session.activity().get(UNANSWERED, {})


# ------------------------------------------------------------------------------------------ equal to the embedded one


def test_a_suite_through_servers_is_the_serial_local_run_item_by_item(models, served, tmp_path: Path, tiny_model: Path):
    """One item a group makes the same batches on both sides: then BF16 answers are equal token by token."""
    tasks = "ref_chain_sum,ref_ordering_mc"
    with ModelServer(models["bf16"]) as one, ModelServer(models["fp8-ue8m0"]) as two:
        spec = served({"bf16": one, "fp8-ue8m0": two}, 8, tasks)
        theirs = workflow.run(spec, workflow.Options(results=tmp_path / "served"))
    local = tmp_path / "local.yaml"
    local.write_text(SUITE.format(model=tiny_model, engine="{name: local, options: {group_tokens: 1}}", limit=8))
    ours = workflow.run(suites.resolve(suites.load(str(local)))[0], workflow.Options(results=tmp_path / "local"))
    order = ["arm", "task", "mode", "position"]
    a, b = (run.samples().sort_values(order).reset_index(drop=True) for run in (theirs, ours))
    exact = [*order, "item_hash", "prompt_hash", "correct", "prediction", "parsed", "finish_reason", "n_prompt_tokens",
             "n_output_tokens", "n_thinking_tokens", "output_text", "seed"]  # fmt: skip

    assert theirs.manifest.status == "done"
    assert len(a) == 2 * 3 * 8
    assert a[exact].to_dict("list") == b[exact].to_dict("list")
    assert [list(x) for x in a["output_token_ids"].dropna()] == [list(x) for x in b["output_token_ids"].dropna()]
    for x, y in zip(a["choice_loglikelihoods"].dropna(), b["choice_loglikelihoods"].dropna(), strict=True):
        assert list(x) == pytest.approx(list(y), abs=0.05)  # options share a context there, in BF16
    assert theirs.manifest.items == ours.manifest.items


def test_what_a_server_says_is_declared_and_every_page_of_it_says_so(models, served, tmp_path: Path):
    with ModelServer(models["bf16"]) as one, ModelServer(models["fp8-ue8m0"]) as two:
        run = workflow.run(served({"bf16": one, "fp8-ue8m0": two}), workflow.Options(results=tmp_path / "r"))
    record = run.manifest.cells[ONE]
    found = {f.code: f for d in run.decisions() for f in d.findings}
    page = workflow.publish(tmp_path / "r")
    text = "".join(p.read_text(encoding="utf-8") for p in page.parent.rglob("*.html"))

    assert record.realised.execution == "declared"
    assert (record.realised.threads, record.realised.params_quantised) == (None, None)
    assert record.realised.kernel == "tests 1.2.3"
    assert record.realised.facts["tokens"] == "token_ids"
    assert run.manifest.spec.arm("bf16").served.version == "1.2.3"
    assert "nobody looked" in found["DECLARED"].message
    assert "which numbers it computes in is what the suite says of it" in text
    assert "measured, declared" in text
    assert {e.code for e in run.judgement().findings} >= {"DECLARED"}


def test_scoring_by_echo_equals_scoring_by_prompt_logprobs(models, tiny_model: Path):
    pairs = [((5, 6, 7, 8), (9,)), ((11,), (12, 13, 14)), ((1, 2, 3), (7, 8))]
    requests = [ScoreRequest(*pair) for pair in pairs]
    found = []
    for way in ("prompt_logprobs", "echo"):
        with ModelServer(models["bf16"], Talks(scoring=(way,))) as url:
            own = engine(tiny_model, url)
            assert own.cannot_run(arm(tiny_model), scores=True) is None
            with own.open(arm(tiny_model)) as session:
                assert session.realised.facts["scoring"] == way
                found.append(session.score(requests))
    expected = models["bf16"].thread.submit(lambda: models["bf16"].session.score(requests)).result()

    assert found[0] == found[1]
    assert [s.greedy for s in found[0]] == [s.greedy for s in expected]
    assert [s.loglikelihood for s in found[0]] == pytest.approx([s.loglikelihood for s in expected], abs=0.05)


def test_text_is_tokenised_again_only_where_no_ids_come_and_that_is_said(models, tiny_model: Path):
    requests = asked(models["bf16"])
    server = ModelServer(models["bf16"], Talks(ids=False))
    with server as url:
        own = engine(tiny_model, url)
        own.cannot_run(arm(tiny_model))
        with own.open(arm(tiny_model)) as session:
            made = session.generate(requests)
            assert session.realised.facts["tokens"] == "retokenised"
    expected, _ = ask(tiny_model, ModelServer(models["bf16"]), requests)

    assert [one.text for one in made] == [one.text for one in expected]
    assert [one.tokens for one in made] == [Reader(own.tokenizer, own.eos).tokens(one.text) for one in made]


def test_a_server_of_messages_gets_the_messages_and_its_reasoning_is_the_thought(models, served, tmp_path: Path):
    talks = Talks(completions=False, chat=True, ids=False)
    servers = [ModelServer(models[name], talks) for name in ("bf16", "fp8-ue8m0")]
    with servers[0] as one, servers[1] as two:
        urls = {"bf16": one, "fp8-ue8m0": two}
        with pytest.raises(CannotRunError, match="no_such.*`api: chat`"):
            workflow.run(served(urls), workflow.Options(results=tmp_path / "no"))
        run = workflow.run(served(urls, more=", api: chat"), workflow.Options(results=tmp_path / "r"))
    asked_for = servers[0].requests[0]

    assert run.manifest.status == "done"
    assert [m["role"] for m in asked_for["messages"]] == ["user"]
    assert {body["chat_template_kwargs"]["enable_thinking"] for body in servers[0].requests} == {True, False}
    assert "prompt" not in asked_for


def test_messages_give_back_exactly_the_prompt_or_nothing(models):
    tokenizer = models["bf16"].engine.tokenizer
    for thinking in (True, False):
        turns = [{"role": "user", "content": "What is 2 + 2?\nThink."}]
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
        fields = Messages(tokenizer).of(tuple(tokenizer.encode(text, add_special_tokens=False)))

        assert fields["messages"] == turns
        assert fields["chat_template_kwargs"]["enable_thinking"] is thinking
    with pytest.raises(FailedError, match="api: completions"):
        Messages(tokenizer).of(tuple(tokenizer.encode(text, add_special_tokens=False))[3:])


def choice(text: str, reader: Reader, **more):
    return {"text": text, "finish_reason": "stop", "token_ids": list(reader.tokens(text)), **more}


def test_stop_strings_count_behind_the_thought_only_and_the_client_cuts_there(models):
    own = models["bf16"].engine
    reader = Reader(own.tokenizer, own.eos)
    text = "<think>a\n\nb</think> 12\n\nmore\n\n"
    plain = GenerateRequest((1,), 99, ("\n\n",))
    behind = GenerateRequest((1,), 99, ("\n\n",), "</think>")
    dialect = Dialect("tiny", "completions")

    assert body_of(plain, dialect, {})["stop"] == ["\n\n"]
    assert "stop" not in body_of(behind, dialect, {})
    assert generation(choice(text, reader), plain, reader).text == "<think>a\n\n"
    made = generation(choice(text, reader), behind, reader)
    assert (made.text, made.finish_reason) == ("<think>a\n\nb</think> 12\n\n", "stop")
    assert reader.text(made.tokens) == made.text
    assert stop_end("no thought\n\n", behind) is None


def test_ends_of_answers_are_told_apart(models):
    own = models["bf16"].engine
    reader, request = Reader(own.tokenizer, own.eos), GenerateRequest((1,), 99, ("STOP",))
    ids = list(reader.tokens("one two"))

    def ended(**more) -> Generation:
        return generation({"text": "one two", "token_ids": ids, **more}, request, reader)

    assert ended(finish_reason="length").finish_reason == "length"
    assert ended(finish_reason="stop", stop_reason=None).finish_reason == "eos"
    assert ended(finish_reason="stop", matched_stop=own.eos[0]).finish_reason == "eos"
    assert generation({"text": "one two", "finish_reason": "stop", "stop_reason": "STOP"}, request, reader) == (
        Generation(tuple(ids), "one two", "stop"))  # fmt: skip
    assert ended(finish_reason="stop", token_ids=[*ids, own.eos[0]]).tokens == tuple(ids)
    with pytest.raises(FailedError, match="garbage.*abort"):
        ended(finish_reason="abort")


def test_a_request_states_what_a_server_would_else_take_from_the_models_own_settings(models, tiny_model: Path):
    server = ModelServer(models["bf16"])
    ask(tiny_model, server, [*asked(models["bf16"], 1), *asked(models["bf16"], 1, temperature=0.7, top_p=0.9, seed=7)])
    greedy, drawn = server.requests

    assert (greedy["temperature"], greedy["top_p"]) == (0.0, 1.0)
    assert (greedy["repetition_penalty"], greedy["top_k"]) == (1.0, -1)
    assert "seed" not in greedy
    assert (drawn["temperature"], drawn["top_p"], drawn["seed"]) == (0.7, 0.9, 7)


def test_a_server_that_refuses_what_is_beyond_the_protocol_is_asked_without_it(models, tiny_model: Path):
    server = ModelServer(models["bf16"])
    object.__setattr__(server.behaviour, "rejects", ("repetition_penalty",))
    made, lost = ask(tiny_model, server, asked(models["bf16"]))

    assert not lost
    assert all(isinstance(one, Generation) for one in made)
    assert "repetition_penalty" not in server.requests[0]
    assert server.requests[0]["return_token_ids"] is True


# -------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("busy", "rate_limited"), ("broken", "server_error"), ("html", "garbage"), ("garbage", "garbage"),
     ("shape", "garbage"), ("error", "server_error"), ("cut", "cut"), ("stall", "timeout"), ("too_long", "refused")],
)  # fmt: skip
def test_each_fault_has_its_name_and_costs_one_item_only(fault, kind, models, tiny_model: Path):
    """The second prompt meets the fault however often it is asked; the others are answered."""
    requests = asked(models["bf16"])
    hit = list(requests[1].prompt)
    server = ModelServer(models["bf16"], Talks(faults=lambda _, body: fault if body["prompt"] == hit else None))
    made, lost = ask(tiny_model, server, requests, timeout_s=0.4 if fault == "stall" else 5)
    sent = sum(body["prompt"] == hit for body in server.requests)

    assert [isinstance(one, Generation) for one in made] == [True, False, True]
    assert isinstance(made[1], Unanswered)
    assert made[1].kind == kind
    assert lost == {kind: 1}
    assert kind in KINDS
    assert sent == (2 if kind in RETRIED else 1)


def test_a_fault_that_passes_costs_nothing(models, tiny_model: Path):
    server = ModelServer(models["bf16"], Talks(faults=lambda number, _: "busy" if number % 2 == 0 else None))
    made, lost = ask(tiny_model, server, asked(models["bf16"]), concurrency=1)

    assert not lost
    assert len(server.requests) == 6
    assert all(isinstance(one, Generation) for one in made)


def test_answers_of_another_model_fail_the_cell(models, tiny_model: Path):
    server = ModelServer(models["bf16"], Talks(faults=lambda number, _: "other_model" if number == 1 else None))
    with pytest.raises(CannotRunError, match="other_model: 'another' answered for 'tiny'"):
        ask(tiny_model, server, asked(models["bf16"]))


def test_no_more_requests_are_in_flight_than_asked_for_and_as_many(models, tiny_model: Path):
    server = ModelServer(models["bf16"], Talks(first_s=0.03))
    ask(tiny_model, server, asked(models["bf16"], 12), concurrency=4)

    assert server.most == 4


def test_waits_double_with_jitter_and_what_a_server_asks_for_is_kept():
    patience = Patience(timeout_s=30, retries=3, backoff_s=1)
    busy = FailedError("rate_limited", "")
    waits = [patience.pause(attempt, busy, 0.5) for attempt in range(4)]

    assert waits == [1, 2, 4, None]
    assert (patience.pause(0, busy, 0.0), patience.pause(0, busy, 0.999)) == (0.5, pytest.approx(1.499))
    assert patience.pause(0, FailedError("rate_limited", "", 7), 0.5) == 7
    assert patience.pause(0, FailedError("rate_limited", "", 31), 0.5) is None
    assert patience.pause(0, FailedError("refused", ""), 0.5) is None
    assert (wait_of("2.5"), wait_of("Wed, 21 Oct 2015 07:28:00 GMT"), wait_of("soon"), wait_of(None)) == (
        2.5, 0.0, None, None)  # fmt: skip


# ------------------------------------------------------------------------------------------------ missing, not wrong


def test_what_was_not_answered_is_missing_not_wrong_and_resume_asks_only_for_that(models, served, tmp_path: Path):
    whole, options = tmp_path / "whole", workflow.Options(results=tmp_path / "r")
    broken = {"on": True}
    some: set[tuple[int, ...]] = set()

    def fault(number: int, body: dict) -> str | None:
        prompt = tuple(body["prompt"])
        if broken["on"] and number % 4 == 1:
            some.add(prompt)
        return "too_long" if broken["on"] and prompt in some else None

    flaky = ModelServer(models["bf16"], Talks(faults=fault))
    with flaky as one, ModelServer(models["fp8-ue8m0"]) as two:
        spec = served({"bf16": one, "fp8-ue8m0": two}, 12)
        run = workflow.run(spec, options)
        record, samples = run.manifest.cells[ONE], run.samples()
        direct = samples[(samples["arm"] == "bf16") & (samples["mode"] == "direct")]
        pooled = next(d for d in run.decisions() if d.pooled.subject.mode == "direct").pooled.counts
        broken["on"] = False
        before = len(flaky.requests)
        again = workflow.run(run.manifest.spec, options, resume=Store(tmp_path / "r").run())
        asked_again = len(flaky.requests) - before
    with ModelServer(models["bf16"]) as one, ModelServer(models["fp8-ue8m0"]) as two:
        plain = workflow.run(served({"bf16": one, "fp8-ue8m0": two}, 12), workflow.Options(results=whole))
    missing = 12 - len(direct)

    assert (record.status, run.manifest.status) == ("done", "done")
    assert 0 < missing < 12
    assert record.n_done == len(direct)
    assert pooled.missing_base == missing
    assert [f.code for f in record.findings if f.code == "MISSING"] == ["MISSING"]
    said = f"{missing} items were not answered (failed requests: refused {missing})"
    assert said in next(f.message for f in record.findings)
    assert asked_again == len(some)
    assert not [f for r in again.manifest.cells.values() for f in r.findings if f.code == "MISSING"]
    where = ["arm", "mode", "position"]
    shown = [*where, "output_text", "group"]
    got, want = (r.samples().sort_values(where)[shown].to_dict("list") for r in (again, plain))
    assert got == want


def test_a_cell_of_which_nothing_was_answered_fails_and_the_rest_goes_on(models, served, tmp_path: Path):
    refusing = Talks(faults=lambda _, body: "broken" if body["max_tokens"] == 8 else None)
    options = workflow.Options(results=tmp_path / "r")
    with ModelServer(models["bf16"], refusing) as one, ModelServer(models["fp8-ue8m0"]) as two:
        run = workflow.run(served({"bf16": one, "fp8-ue8m0": two}, 3, more=", concurrency: 8"), options)
        states = {key: record.status for key, record in run.manifest.cells.items()}
        error = run.manifest.cells[ONE].error
        refusing.faults = lambda *_: None
        again = workflow.run(run.manifest.spec, options, resume=Store(tmp_path / "r").run())

    assert run.manifest.status == "partial"
    assert states.pop(ONE) == "failed"
    assert set(states.values()) == {"done"}
    assert error.startswith("no item was answered (failed requests: server_error 3)")
    assert again.manifest.status == "done"
    assert len(again.samples()) == 2 * 2 * 3


def test_a_server_that_dies_fails_its_cells_keeps_the_rest_and_resume_goes_on_where_it_moved_to(
    models, served, tmp_path: Path
):
    options = workflow.Options(results=tmp_path / "r")
    dying = ModelServer(models["bf16"], Talks(faults=lambda number, _: "dies" if number >= 4 else None))
    with ModelServer(models["fp8-ue8m0"]) as two:
        with dying as one:
            run = workflow.run(served({"bf16": one, "fp8-ue8m0": two}, 8, more=", concurrency: 1"), options)
        records = run.manifest.cells
        kept = run.samples()
        with ModelServer(models["bf16"]) as moved:
            spec = run.manifest.spec
            urls = {**spec.engine_options["endpoints"], "bf16": moved}
            spec = spec.model_copy(update={"engine_options": {**spec.engine_options, "endpoints": urls}})
            again = workflow.run(spec, options, resume=Store(tmp_path / "r").run())

    assert run.manifest.status == "partial"
    assert "went away" in records[ONE].error
    assert {r.status for key, r in records.items() if key.startswith("bf16.")} == {"failed"}
    assert {r.status for key, r in records.items() if key.startswith("fp8")} == {"done"}
    assert len(kept[kept["arm"] == "bf16"]) == 4
    assert again.manifest.status == "done"
    assert [r.resume_key for r in again.manifest.cells.values()] == [r.resume_key for r in records.values()]
    assert len(again.samples()) == 2 * 2 * 8
    assert GONE in KINDS


def test_a_server_of_another_version_is_another_arm(models, served, tmp_path: Path):
    options = workflow.Options(results=tmp_path / "r")
    with ModelServer(models["fp8-ue8m0"]) as two:
        with ModelServer(models["bf16"]) as one:
            run = workflow.run(served({"bf16": one, "fp8-ue8m0": two}, 3), options)
        newer = ModelServer(models["bf16"], Talks(version="2.0"))
        with newer as one:
            spec = served({"bf16": one, "fp8-ue8m0": two}, 3)
            again = workflow.run(spec, options, resume=run.stored)
    changed = {key for key, r in again.manifest.cells.items() if r.resume_key != run.manifest.cells[key].resume_key}

    assert changed == {key for key in run.manifest.cells if key.startswith("bf16.")}
    assert len(newer.requests) == 2 * 3


# --------------------------------------------------------------------------------------- refused before anything runs


def test_a_server_without_log_probabilities_is_refused_before_anything_runs(models, served, tmp_path: Path):
    with ModelServer(models["bf16"], Talks(scoring=())) as one, ModelServer(models["fp8-ue8m0"]) as two:
        spec = served({"bf16": one, "fp8-ue8m0": two}, 3, "ref_chain_sum,ref_ordering_mc")
        with pytest.raises(CannotRunError, match="arm 'bf16'.*multiple-choice.*no log-probabilities"):
            workflow.run(spec, workflow.Options(results=tmp_path / "r"))

    assert not list((tmp_path / "r").glob("*/manifest.json"))


def test_servers_that_are_not_what_the_suite_says_are_refused_by_name(models, tiny_model: Path):
    with ModelServer(models["bf16"], Talks(tokenize=lambda ids: ids[1:])) as url:
        assert "other tokens than the tokenizer here" in engine(tiny_model, url).cannot_run(arm(tiny_model))
        assert "has no model 'big'; it has: tiny." in engine(tiny_model, url, served_model="big").cannot_run(
            arm(tiny_model))  # fmt: skip
    with ModelServer(models["bf16"]) as url:
        own = engine(tiny_model, url)
        assert own.cannot_run(arm(tiny_model)) is None
        assert "compared with itself" in own.cannot_run(arm(tiny_model, "fp8-ue8m0"))
        assert own.cannot_run(arm(tiny_model).model_copy(update={"id": "bf16@aa", "noise_floor": True})) is None
    assert "unreachable" in engine(tiny_model, url, retries=0).cannot_run(arm(tiny_model))


def test_a_shorter_context_of_a_server_is_everyones(models, tiny_model: Path):
    with ModelServer(models["bf16"], Talks(max_model_len=512)) as url:
        own = engine(tiny_model, url)
        own.cannot_run(arm(tiny_model))
        assert own.max_length == 512

        own.cannot_run(arm(tiny_model), scores=True)
        own.cannot_run(arm(tiny_model), scores=True)
        assert own.max_length == 510  # the last token is read, and one is generated


def test_a_server_that_changed_between_looking_and_opening_is_refused(models, tiny_model: Path):
    talks = Talks()
    with ModelServer(models["bf16"], talks) as url:
        own = engine(tiny_model, url)
        own.cannot_run(arm(tiny_model))
        talks.version = "9"
        with pytest.raises(CannotRunError, match=r"another server.*tests 9, then tests 1\.2\.3"), own.open(
            arm(tiny_model)
        ):
            pass


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "needs `endpoints"), ({"base_url": "h:8000"}, "no address"), ({"base_url": "http://u:p@h"}, "password"),
     ({"base_url": "http://h/v1?api_key=x"}, "query"), ({"base_url": "http://h", "api": "soap"}, "no api 'soap'"),
     ({"base_url": "http://h", "concurrency": 0}, "`concurrency` must be"),
     ({"base_url": "http://h", "retries": "many"}, "`retries` must be")],
)  # fmt: skip
def test_wrong_options_are_usage_errors(options, message, tiny_model: Path):
    with pytest.raises(UsageError, match=message) as caught:
        EndpointEngine(ModelRef(id=str(tiny_model)), options)

    assert "u:p" not in str(caught.value)
    assert "api_key=x" not in str(caught.value)


def test_an_arm_without_a_server_is_a_usage_error(tiny_model: Path):
    own = EndpointEngine(ModelRef(id=str(tiny_model)), {"endpoints": {"bf61": "http://127.0.0.1:9"}})
    with pytest.raises(UsageError, match="Arm 'bf16' has no URL in `endpoints`. Did you mean 'bf61'"):
        own.cannot_run(arm(tiny_model))


def test_addresses_end_in_v1_once():
    assert address("http://h:8000/") == address("http://h:8000/v1/") == "http://h:8000/v1"
    assert address("https://h/proxy") == "https://h/proxy/v1"


def test_a_tokenizer_needs_no_weights(tiny_model: Path, tmp_path: Path):
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        if (tiny_model / name).is_file():
            (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    own = EndpointEngine(ModelRef(id="some/name"), {"base_url": "http://h", "tokenizer": str(tmp_path)})

    assert own.tokenizer.encode("1 + 1") == engine(tiny_model, "http://h").tokenizer.encode("1 + 1")


def test_the_flag_names_servers_and_implies_the_engine(served):
    spec = served({"bf16": "http://a", "fp8-ue8m0": "http://b"}, endpoints={"bf16": "http://c"})

    assert spec.engine == "endpoint"
    assert spec.engine_options["endpoints"] == {"bf16": "http://c", "fp8-ue8m0": "http://b"}
    assert UNSEEN["endpoint"] <= set(OPTIONS["endpoint"])


def test_a_key_in_the_suite_is_an_unknown_option_and_is_not_repeated(served):
    with pytest.raises(SuiteError, match="unknown option 'api_key'") as caught:
        served({"bf16": "http://a"}, more=f", api_key: {SECRET}")

    assert SECRET not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- the key


def test_the_key_is_sent_and_stands_nowhere(models, served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Through the command line, verbosely, with a server that refuses some requests and repeats the key in doing so."""
    servers = [ModelServer(models[name], key=SECRET) for name in ("bf16", "fp8-ue8m0")]
    first: list[list[int]] = []

    def fault(_: int, body: dict) -> str | None:
        first.append(body["prompt"])
        return "broken" if body["prompt"] == first[0] else None

    servers[0].talks.faults = fault
    results = tmp_path / "r"

    with servers[0] as one, servers[1] as two:
        served({"bf16": one, "fp8-ue8m0": two}, 3, more=", api_key_env: MY_KEY")
        command = [sys.executable, "-m", "evalsuite", "-v", "run", str(tmp_path / "served.yaml"), "--results",
                   str(results), "--tasks", "ref_chain_sum"]  # fmt: skip
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120,
                             env={**os.environ, "MY_KEY": SECRET})  # fmt: skip
    stored = [path for path in results.rglob("*") if path.is_file()]

    assert ran.returncode == 0, ran.stderr
    assert "--resume" in ran.stdout
    assert SECRET not in ran.stdout + ran.stderr
    assert len(list(results.rglob("samples.parquet"))) > 1
    assert not [path for path in stored if SECRET.encode() in path.read_bytes()]


def test_a_refused_key_is_not_repeated_though_the_server_does(models, tiny_model: Path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET + "x")
    with ModelServer(models["bf16"], key=SECRET) as url:
        own = engine(tiny_model, url)
        why = own.cannot_run(arm(tiny_model))

    assert "denied" in why
    assert "***" in why
    assert SECRET not in why + repr(own.client(url))


def test_the_key_is_not_in_the_journal_of_a_run_that_was_interrupted(models, served, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    def interrupted() -> bool:
        return any(p.stat().st_size > 500 for p in tmp_path.rglob("*.jsonl"))

    servers = [ModelServer(models[name], key=SECRET) for name in ("bf16", "fp8-ue8m0")]
    with servers[0] as one, servers[1] as two:
        options = workflow.Options(results=tmp_path / "r", interrupted=interrupted)
        run = workflow.run(served({"bf16": one, "fp8-ue8m0": two}), options)
    journals = list((tmp_path / "r").rglob("*.jsonl"))

    assert run.manifest.status == "interrupted"
    assert journals
    assert not [p for p in journals if SECRET in p.read_text()]


def test_a_key_that_is_named_but_not_there_is_said(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(CannotRunError, match="NO_SUCH_KEY, named by `api_key_env`, is not set"):
        engine(tiny_model, "http://h", api_key_env="NO_SUCH_KEY")
