"""The reference model's room: items are right, distinct and no benchmark's; tokenizer and trainer repeat themselves."""

import collections
import functools
import hashlib
import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_solvers import SOLVERS

from evalsuite import resources
from evalsuite.reference import hashes, prompts
from evalsuite.reference.examples import Row, Stream
from evalsuite.reference.families import FAMILIES
from evalsuite.reference.families.item import thinking
from evalsuite.reference.families.logic import _reduce
from evalsuite.reference.freeze import CHOICE, ITEMS, freeze
from evalsuite.reference.network import TINY, build_model, transplant
from evalsuite.reference.parallel import add_gradients, response_tokens, to_tensors, token_losses
from evalsuite.reference.train import CONTINUED_PEAK, Settings, Training, rate_factor, start
from evalsuite.reference.vocabulary import build_tokenizer

ALL = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def _one_thread():
    """A toy model gains nothing from two threads, and loses much where another test wants the core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def tokenizer():
    return build_tokenizer()


def encode(text):
    return tokenizer()(text, add_special_tokens=False)["input_ids"]


def drawn(family, count, seed="test"):
    rng = random.Random(f"{seed}:{family}")
    return [FAMILIES[family](rng, rng.random()) for _ in range(count)]


def frozen(name):
    return [json.loads(line) for line in (ITEMS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@ALL
def test_a_second_solver_finds_the_same_answers(family):
    for item in drawn(family, 1000):
        assert SOLVERS[family](item.question) == item.answer, item.question


@ALL
def test_a_second_solver_finds_the_frozen_answers(family):
    for row in frozen(family):
        assert SOLVERS[family](row["question"]) == row["answer"], row["id"]


@ALL
def test_no_answer_is_the_answer_of_most_items(family):
    counts = collections.Counter(row["answer"] for row in frozen(family))

    assert counts.most_common(1)[0][1] <= 0.6 * len(frozen(family))


@ALL
def test_the_same_seed_draws_the_same_items(family):
    assert drawn(family, 20) == drawn(family, 20)
    assert drawn(family, 20) != drawn(family, 20, seed="other")


@ALL
def test_equations_in_the_thinking_are_true(family):
    for item in drawn(family, 300):
        for line in item.steps.splitlines():
            left, sign, right = line.partition("=")
            if sign and left.strip()[0].isdigit() and "<" not in line and "," not in line:
                assert eval(left) == int(right), item.steps


@ALL
def test_an_example_fits_its_budget(family):
    sizes = sorted(
        len(encode(prompts.prompt_of(item.question, "thinking") + prompts.response_of(item, "thinking")))
        for item in drawn(family, 200)
    )

    assert sizes[180] <= 280  # most rows have room for a second, shorter example
    assert sizes[-1] <= 360  # a training row


def test_one_reduction_keeps_the_value_of_an_expression():
    for item in drawn("boolean", 200):
        for before, after in zip(item.steps.splitlines(), item.steps.splitlines()[1:], strict=False):
            assert _reduce(before.strip()) == after.strip()
            assert eval(before) == eval(after)


@ALL
def test_frozen_items_are_enough_and_distinct(family):
    rows = frozen(family)

    assert len(rows) >= 250
    assert len({hashes.text_hash(row["question"]) for row in rows}) == len(rows)
    assert len({row["id"] for row in rows}) == len(rows)


@pytest.mark.parametrize("family", CHOICE)
def test_multiple_choice_rows_mirror_the_chat_rows(family):
    for chat, choice in zip(frozen(family), frozen(f"{family}_mc"), strict=True):
        assert choice["question"] == chat["question"]
        assert choice["options"][choice["gold"]] == chat["answer"]
        assert len(chat["options"]) == len(choice["options"])
        assert chat["gold"] == choice["gold"]


def test_frozen_files_have_the_checksums_beside_them_and_can_be_made_again(tmp_path):
    freeze(tmp_path)

    for line in (ITEMS / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        expected, name = line.split("  ")
        assert hashlib.sha256((ITEMS / name).read_bytes()).hexdigest() == expected
        assert (tmp_path / name).read_bytes() == (ITEMS / name).read_bytes()


@ALL
def test_no_frozen_item_is_a_benchmark_item(family):
    forbidden = hashes.read_benchmark_hashes()

    assert not [row["id"] for row in frozen(family) if hashes.question_hashes(row["question"]) & forbidden]


def test_the_shipped_hashes_are_those_of_the_real_benchmarks(tmp_path, data):
    hashes.write_benchmark_hashes(data, tmp_path / "hashes.txt")

    assert (tmp_path / "hashes.txt").read_bytes() == hashes.BENCHMARK_HASHES.read_bytes()


def test_hashes_ignore_what_a_reader_would_not_see():
    assert hashes.text_hash("True and  not False is\n") == hashes.text_hash("true AND not False is.")
    assert hashes.text_hash("True and not False is") != hashes.text_hash("True and not True is")


def test_the_stream_drops_forbidden_questions_and_says_how_many():
    free = Stream(2, encode, frozenset(), 320)
    item_hash = hashes.text_hash(prompts_question(free))
    stream = Stream(2, encode, frozenset({item_hash}), 320)

    assert prompts_question(stream) != prompts_question(Stream(2, encode, frozenset(), 320))
    assert stream.dropped == 1


def prompts_question(stream):
    """The question of the stream's next example, as text."""
    example = stream.next(1.0)
    text = tokenizer().decode(example.question + example.branches[0][0])
    if text.startswith("Question: ") and text.endswith("\nAnswer:"):
        return text.removeprefix("Question: ").removesuffix("\nAnswer:")
    return text.split(prompts.END)[0].removeprefix(f"{prompts.USER}\n")


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back_from_the_tokenizer(text):
    assert tokenizer().decode(encode(text)) == text


def test_digits_are_tokens_of_their_own():
    digits = [token for token in tokenizer().get_vocab() if any(c in "0123456789" for c in token)]

    assert sorted(digits) == list("0123456789")
    assert [tokenizer().decode([token]) for token in encode("12+305")] == list("12+305")


def test_thinking_marks_survive_decoding_and_turn_marks_do_not():
    text = "<|assistant|><think>\n1+1=2\n</think>\n\nThe answer is 2.<|end|>"

    assert tokenizer().decode(encode(text), skip_special_tokens=True) == "<think>\n1+1=2\n</think>\n\nThe answer is 2."
    assert tokenizer().eos_token == "<|end|>"
    assert tokenizer().pad_token == "<|endoftext|>"


def test_two_builds_of_the_tokenizer_are_equal():
    assert build_tokenizer().get_vocab() == tokenizer().get_vocab()


def test_the_shipped_tokenizer_is_the_one_this_code_builds():
    from transformers import AutoTokenizer

    shipped = AutoTokenizer.from_pretrained(resources.reference_model())

    assert shipped.get_vocab() == tokenizer().get_vocab()
    assert shipped.chat_template == tokenizer().chat_template


def test_the_template_gives_the_trained_prompts_in_both_modes():
    messages = [{"role": "user", "content": "What is 1 + 1?"}]
    render = functools.partial(tokenizer().apply_chat_template, tokenize=False, add_generation_prompt=True)

    assert render(messages) == "<|user|>\nWhat is 1 + 1?<|end|>\n<|assistant|>\n<think>\n"
    assert render(messages) == prompts.prompt_of("What is 1 + 1?", "thinking")
    assert render(messages, enable_thinking=False) == prompts.prompt_of("What is 1 + 1?", "direct")
    system = [{"role": "system", "content": "Be brief."}, *messages]
    assert render(system).startswith("<|user|>\nBe brief.\nWhat is 1 + 1?<|end|>")


@ALL
def test_no_token_spans_prompt_and_response(family):
    for item in drawn(family, 50):
        for form in ("thinking", "direct", *(["choice"] if item.options else [])):
            prompt, response = prompts.prompt_of(item.question, form), prompts.response_of(item, form)
            assert encode(prompt) + encode(response) == encode(prompt + response)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1+1=2\n</think>\n\nThe answer is 2.", "2"),
        ("The answer is (B).<|end|>", "(B)"),
        ("The answer is (3, -2).", "(3, -2)"),
        ("nothing of the kind", None),
    ],
)
def test_the_stated_answer_is_read(text, answer):
    assert prompts.answer_in(text) == answer


def test_only_lines_of_words_are_indented():
    assert thinking(["Ka says", "1+1=2", "-2"]) == " Ka says\n1+1=2\n-2"


def tiny(folder, **options):
    return Settings(out=folder, tiny=True, **{"rows": 2, "steps": 200, "length": 160} | options)


def test_a_packed_row_gives_the_losses_of_its_examples_alone(tmp_path):
    training = Training(tiny(tmp_path), tokenizer())
    for parameter in training.model.parameters():
        parameter.data.mul_(4)
    examples = [training.stream.next(1.0) for _ in range(40)]
    pair = [next(e for e in examples if len(e.branches) == 2), examples[0]]
    row, alone = Row(), []
    for example in pair:
        row.add(example)
        for tail, response in example.branches:
            tokens = torch.tensor([example.question + tail + response])
            logits = training.model(tokens).logits[0, -len(response) - 1 : -1]
            alone.append(torch.nn.functional.cross_entropy(logits, torch.tensor(response), reduction="none"))
    each, families = token_losses(training.model, to_tensors([row], 700, 0, torch.device("cpu")))

    torch.testing.assert_close(each, torch.cat(alone), atol=1e-4, rtol=1e-4)
    assert len(families) == response_tokens([row])


def test_two_helpings_of_rows_add_up_to_one(tmp_path):
    training = Training(tiny(tmp_path), tokenizer())
    rows = training.packer.batch(2, 1.0)
    total, shape = response_tokens(rows), (160, 0, torch.device("cpu"))
    add_gradients(training.model, to_tensors(rows, *shape), total)
    whole = [p.grad.clone() for p in training.model.parameters()]
    training.model.zero_grad()
    for row in rows:
        add_gradients(training.model, to_tensors([row], *shape), total)

    for expected, parameter in zip(whole, training.model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected, atol=1e-6, rtol=1e-4)


def test_a_team_of_two_trains_as_one_process_does(tmp_path):
    alone = curve(Training(tiny(tmp_path), tokenizer()), 5)
    team = curve(Training(tiny(tmp_path, workers=2), tokenizer()), 5)

    assert team == pytest.approx(alone, abs=1e-4)


def curve(training, steps):
    return [float(training.advance()[0].mean()) for _ in range(steps)]


def test_two_hundred_steps_from_one_seed_give_one_curve(tmp_path):
    first = curve(Training(tiny(tmp_path), tokenizer()), 200)
    second = curve(Training(tiny(tmp_path), tokenizer()), 200)

    assert first == second
    assert sum(first[-20:]) < 0.6 * sum(first[:20])


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole = curve(start(tiny(tmp_path / "whole", steps=20), resume=False), 20)
    stopped = start(tiny(tmp_path / "parts", steps=20), resume=False)
    before = curve(stopped, 12)
    stopped.save()
    log = tmp_path / "parts" / "log.jsonl"
    log.write_text('{"step": 12}\n{"step": 13}\n', encoding="utf-8")
    after = curve(start(tiny(tmp_path / "parts", steps=20), resume=True), 8)

    assert before + after == whole
    assert log.read_text(encoding="utf-8") == '{"step": 12}\n'
    assert (tmp_path / "parts" / "seen.bin").stat().st_size % 8 == 0


def test_an_exported_folder_loads_and_names_its_end_token(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    training = Training(tiny(tmp_path), tokenizer())
    training.save()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    generation = json.loads((tmp_path / "model" / "generation_config.json").read_text(encoding="utf-8"))

    assert model.dtype == torch.bfloat16
    assert config["eos_token_id"] == generation["eos_token_id"] == loaded.eos_token_id
    assert "max_new_tokens" not in generation
    assert loaded.get_vocab() == tokenizer().get_vocab()
    assert loaded.chat_template == prompts.CHAT_TEMPLATE


def test_an_unfinished_run_is_not_overwritten(tmp_path):
    start(tiny(tmp_path), resume=False).save()

    with pytest.raises(SystemExit, match="--resume"):
        start(tiny(tmp_path), resume=False)


def test_the_rate_rises_stays_and_falls_to_zero():
    assert rate_factor(0, 0.0) < 0.02
    assert rate_factor(5000, 0.3) == 1.0
    assert rate_factor(9000, 1.0) == 0.0


def test_a_continued_run_begins_lower_and_falls_at_once():
    assert rate_factor(9000, 0.0, continued=True) == CONTINUED_PEAK
    assert rate_factor(9000, 0.5, continued=True) == CONTINUED_PEAK / 2
    assert rate_factor(9000, 1.0, continued=True) == 0.0


def test_a_run_can_go_on_from_an_exported_model(tmp_path):
    first = Training(tiny(tmp_path), tokenizer())
    first.advance()
    first.save()
    second = Training(tiny(tmp_path, begin=tmp_path / "model"), tokenizer())
    expected = {name: value.bfloat16() for name, value in first.model.state_dict().items()}

    assert all(torch.equal(value.bfloat16(), expected[name]) for name, value in second.model.state_dict().items())
    assert second.advance()[0].isfinite().all()


def test_embeddings_follow_their_tokens_into_another_vocabulary(tmp_path):
    training = Training(tiny(tmp_path), tokenizer())
    training.save()
    vocabulary = tokenizer().get_vocab()
    moved = {token: (place + 1) % len(vocabulary) for token, place in vocabulary.items()}
    strange = next(token for token, place in vocabulary.items() if place == 700)
    moved["never seen"] = moved.pop(strange)

    class Other:
        eos_token_id, pad_token_id = tokenizer().eos_token_id, tokenizer().pad_token_id

        def get_vocab(self):
            return moved

        def __len__(self):
            return len(moved)

    model = build_model(Other(), TINY)
    fresh = model.model.embed_tokens.weight.detach().clone()
    transplant(tmp_path / "model", Other(), model)
    found = model.model.embed_tokens.weight
    old = training.model.model.embed_tokens.weight.bfloat16().float()

    assert torch.equal(found[1:701], old[:700])
    assert torch.equal(found[701], fresh[701])
    assert model.lm_head.weight is found
