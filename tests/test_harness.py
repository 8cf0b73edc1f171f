"""Against real lm-eval: loading, encoding, scoring, and the whole path against stock `simple_evaluate`."""

from pathlib import Path

import pytest

from evalsuite import tasks
from evalsuite.engines import GenerateRequest, Generation, Score
from evalsuite.engines.local import LocalEngine
from evalsuite.errors import CannotRunError, SuiteError, UsageError
from evalsuite.harness import EngineLM, answer, prepare
from evalsuite.harness.lm import visible
from evalsuite.harness.loading import load_task
from evalsuite.harness.scoring import _thinking_tokens
from evalsuite.located import parse
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import SAMPLE_COLUMNS, Arm, ModelRef, TaskSpec
from evalsuite.spec import Overrides, load, resolve


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> LocalEngine:
    return LocalEngine(ModelRef(id=str(tiny_model)), {})


def spec_of(text: str, limit: int | None = 8):
    head = "schema: 1\nname: t\nmodel: reference\narms: [bf16]\nbaseline: bf16\ndecision: {margin: 0.02}\n"
    return resolve(parse(head + text, "s.yaml"), Overrides(limit=limit))[0]


class Scripted:
    """A session that answers from a function, to test scoring without a model."""

    def __init__(self, text: object) -> None:
        self.text = text

    def generate(self, requests):
        return [Generation((1, 2, 3), self.text(r), "eos") for r in requests]

    def score(self, requests):
        return [Score(float(-len(r.continuation)) - 0.1 * i, True) for i, r in enumerate(requests)]


def test_the_answer_is_what_follows_the_last_closed_thought():
    assert visible("a</think>b</think> c", "p<think>\n", ()) == ("c", True)
    assert visible("a and on", "p<think>\n", ()) == ("", False)
    assert visible("<think>a and on", "p", ()) == ("", False)
    assert visible("The answer. Question: more", "p</think>\n\n", ("Question:",)) == ("The answer. ", True)
    assert visible("Question: inside</think>out Question: x", "<think>", ("Question:",)) == ("out ", True)


def test_thinking_tokens_are_counted_to_the_token_that_closes_the_thought(engine: LocalEngine):
    tokenizer = engine.tokenizer
    thought, rest = tokenizer.encode("one two\n</think>"), tokenizer.encode("\n\nThe answer is 3.")
    made = Generation((*thought, *rest), tokenizer.decode([*thought, *rest]), "eos")

    assert _thinking_tokens(tokenizer, made) == len(thought)
    assert _thinking_tokens(tokenizer, Generation(tuple(rest), tokenizer.decode(rest), "eos")) == 0


def test_right_and_wrong_and_unparsable_answers_are_told_apart(engine: LocalEngine):
    workload = prepare(spec_of("tasks: [{task: ref_chain_sum, modes: [thinking], max_gen_toks: 64}]"), engine)[0]
    gold = workload.items[0].gold
    tags = {"arm": "x", "repeat": 0, "group": 0}
    replies = {"right": f"s</think>\n\nThe answer is {gold}.", "wrong": "s</think>\n\nThe answer is no.",
               "silent": "s</think>\n\nno idea", "open": f"The answer is {gold}."}  # fmt: skip
    rows = {k: answer(Scripted(lambda _, t=t: t), workload, [0], tags)[0] for k, t in replies.items()}

    assert [(rows[k]["correct"], rows[k]["parsed"]) for k in replies] == [
        (True, True), (False, True), (False, False), (False, False),
    ]  # fmt: skip
    assert rows["right"]["prediction"] == gold
    assert rows["silent"]["prediction"] is None
    assert set(rows["right"]) == set(SAMPLE_COLUMNS)


def test_a_multiple_choice_row_holds_log_likelihoods_margin_and_ties(engine: LocalEngine):
    workload = prepare(spec_of("tasks: [ref_ordering_mc]"), engine)[0]
    row = answer(Scripted(None), workload, [0], {"arm": "x", "repeat": 0, "group": 0})[0]

    assert len(row["choice_loglikelihoods"]) == len(workload.items[0].requests)
    assert row["margin"] == pytest.approx(row["gold_loglikelihood"] - max(
        v for v in row["choice_loglikelihoods"] if v != row["gold_loglikelihood"]))  # fmt: skip
    assert row["tie"] is False
    assert set(row) == set(SAMPLE_COLUMNS)


def test_a_log_likelihood_that_is_no_number_makes_the_item_missing_not_wrong(engine: LocalEngine):
    class Broken(Scripted):
        def score(self, requests):
            return [Score(float("nan"), False) for _ in requests]

    workload = prepare(spec_of("tasks: [ref_ordering_mc]"), engine)[0]

    assert answer(Broken(None), workload, [0, 1], {"arm": "x", "repeat": 0, "group": 0}) == []


def test_items_prompts_and_groups_are_the_same_every_time_and_modes_differ_in_the_template(engine: LocalEngine):
    spec = spec_of("tasks: [ref_truth, ref_ordering_mc]")
    first, second = prepare(spec, engine), prepare(spec, engine)

    assert [w.digest for w in first] == [w.digest for w in second]
    assert [(w.spec.task, w.mode) for w in first] == [
        ("ref_truth", "direct"), ("ref_ordering_mc", "direct"), ("ref_truth", "thinking"),
    ]  # fmt: skip
    assert first[0].items[0].prompt.endswith("<think>\n\n</think>\n\n")
    assert first[2].items[0].prompt.endswith("<think>\n")
    assert "<|user|>" not in first[1].items[0].prompt
    assert first[0].items[0].item_hash == first[2].items[0].item_hash


def test_limit_takes_the_first_items_of_the_seeded_order(engine: LocalEngine):
    few, many = (prepare(spec_of("tasks: [ref_truth]", n), engine)[0] for n in (4, 9))

    assert [i.item_id for i in few.items] == [i.item_id for i in many.items][:4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "ref_trut"}, "Unknown task 'ref_trut'.*Did you mean 'ref_truth'"),
        ({"metric": "acc"}, "has no metric 'acc'.*exact_match"),
        ({"filter": "answr"}, "has no filter 'answr'. Did you mean 'answer'"),
        ({"max_gen_toks": None}, "state `max_gen_toks`"),
        ({"task": "ref_ordering_mc", "metric": "acc", "filter": "none"}, "has the direct mode only"),
    ],
)
def test_a_task_that_cannot_be_scored_as_asked_is_refused(change, message):
    base = {"task": "ref_truth", "metric": "exact_match", "filter": "answer", "modes": ("direct", "thinking"),
            "max_gen_toks": {"direct": 8, "thinking": 8}, "role": "monitor", "margin": 0.05}  # fmt: skip
    with pytest.raises(UsageError, match=message):
        load_task(TaskSpec.model_validate({**base, **change}), {})


def test_thinking_without_a_chat_template_is_refused(engine: LocalEngine):
    with pytest.raises(UsageError, match="cannot think"):
        prepare(spec_of("chat: off\ntasks: [ref_truth]"), engine)


def test_a_budget_that_leaves_no_room_for_the_prompt_is_refused(engine: LocalEngine):
    with pytest.raises(UsageError, match="leaves no room"):
        prepare(spec_of("tasks: [{task: ref_truth, modes: [direct], max_gen_toks: 4096}]"), engine)


def test_a_prompt_longer_than_the_context_is_cut_from_the_left_and_found(engine: LocalEngine):
    spec = spec_of("tasks: [{task: ref_truth, modes: [direct], max_gen_toks: 4080}]")
    workload = prepare(spec, engine)[0]

    assert workload.findings[0].code == "PROMPT_TRUNCATED"
    assert all(len(r.prompt) <= 16 for item in workload.items for r in item.requests if isinstance(r, GenerateRequest))


def test_stock_lm_eval_over_our_lm_gives_the_same_right_and_wrong_items(engine: LocalEngine):
    """The same session, scored once by `simple_evaluate` and once by our own path."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    spec = spec_of("tasks: [{task: ref_truth, modes: [direct], max_gen_toks: 32}, ref_ordering_mc]", None)
    arm = Arm(id="fp32", model=engine.model, recipe=RECIPES["fp32"])
    folder = next(iter(tasks.own_files().values())).parent
    with engine.open(arm) as session, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the files name their items relative to themselves
        lm = EngineLM(engine, "direct", session)
        lm.max_gen_toks = 32
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        theirs = {}
        for name, chat in (("ref_truth", True), ("ref_ordering_mc", False)):
            result = lm_eval.simple_evaluate(lm, tasks=[name], task_manager=manager, apply_chat_template=chat,
                                             log_samples=True, bootstrap_iters=0)  # fmt: skip
            metric = "exact_match" if chat else "acc"
            theirs |= {f"{name}/{s['doc_id']}": s[metric] for s in result["samples"][name]}
        ours = {}
        for workload in prepare(spec, engine):
            for group in workload.groups:
                rows = answer(session, workload, group, {"arm": "fp32", "repeat": 0, "group": 0})
                ours |= {row["item_id"]: row["score"] for row in rows}

    assert ours == theirs
    assert len(ours) == 600


def test_datasets_in_local_folders_are_found_in_their_usual_shapes(tmp_path: Path):
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "train.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "test-00000-of-00001.json").write_text('[{"a": 2}]')
    (tmp_path / "navigate.json").write_text('{"canary": "c", "examples": [{"a": 3}]}')

    assert tasks.local_split(tmp_path, "main", "train") == [{"a": 1}]
    assert tasks.local_split(tmp_path, "main", "test") == [{"a": 2}]
    assert tasks.local_split(tmp_path, "navigate", "test") == [{"a": 3}]
    with pytest.raises(CannotRunError, match=r"no file for split 'valid'; looked for main/valid"):
        tasks.local_split(tmp_path, "main", "valid")
    with pytest.raises(CannotRunError, match="dataset folder does not exist"):
        tasks.local_split(tmp_path / "absent", None, "test")


def test_a_broken_line_in_a_dataset_is_named_with_file_and_line(tmp_path: Path):
    (tmp_path / "test.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(SuiteError, match=r"test.jsonl:2:\d+: broken line"):
        tasks.local_split(tmp_path, None, "test")


def test_without_internet_an_unmapped_dataset_says_how_to_map_it(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CannotRunError, match=r"datasets: \{openai/gsm8k: FOLDER\}"):
        prepare(spec_of("tasks: [{task: gsm8k, modes: [direct]}]"), engine)


def test_the_reference_suite_prepares_for_the_embedded_model():
    spec = resolve(load("reference"), Overrides(limit=2))[0]

    assert len(prepare(spec, LocalEngine(spec.model, {}))) == 22


def test_a_cluster_is_a_field_of_the_document_and_a_misspelt_one_is_told(engine, tmp_path):
    items = tmp_path / "items.jsonl"
    items.write_text("".join(f'{{"question": "{i}?", "answer": "{i}", "passage": "p{i // 2}"}}\n' for i in range(6)))
    entry = f"{{task: mine, items: {items}, metric: exact_match, filter: answer, modes: [direct], max_gen_toks: 4, "
    entry += "role: monitor, margin: 0.1, cluster: %s}"
    workload = prepare(spec_of(f"tasks: [{entry % 'passage'}]"), engine)[0]

    assert sorted(item.cluster for item in workload.items) == ["p0", "p0", "p1", "p1", "p2", "p2"]
    with pytest.raises(UsageError, match="cluster 'pasage' is no field of its documents"):
        prepare(spec_of(f"tasks: [{entry % 'pasage'}]"), engine)


def test_templates_are_compiled_once_and_render_as_before():
    import lm_eval.utils

    first = lm_eval.utils.env.from_string("{{a}}-{{b}}")

    assert lm_eval.utils.env.from_string("{{a}}-{{b}}") is first
    assert lm_eval.utils.apply_template("{{a}}-{{b}}", {"a": 1, "b": 2}) == "1-2"
    assert lm_eval.utils.apply_template("{{a}}-{{b}}", {"a": 3, "b": 4}) == "3-4"


def test_asking_twice_for_the_tokens_of_a_text_tokenises_once(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch):
    lm, asked = EngineLM(engine, "direct"), []
    real = lm.tokenizer.encode
    monkeypatch.setattr(lm.tokenizer, "encode", lambda text, **how: asked.append(text) or real(text, **how))
    first = lm.tok_encode("a text")
    first.append(0)  # what a caller does to its list is its own

    assert lm.tok_encode("a text") == first[:-1]
    assert asked == ["a text"]


def test_a_continuation_longer_than_the_context_is_refused_in_both_paths(engine: LocalEngine, monkeypatch):
    lm = EngineLM(engine, "direct")
    monkeypatch.setattr(engine, "max_length", 6)

    with pytest.raises(SuiteError, match="cannot be scored"):
        lm.score_request("x", " one two three four five six seven eight nine ten")
    for behind in ([], list(range(1, 9))):
        with pytest.raises(SuiteError, match="cannot be scored"):
            lm._loglikelihood_tokens([(("", ""), [1, 2], behind)])
