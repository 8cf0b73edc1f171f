"""Our own forward pass: transformers' numbers in FP32, whatever is shared, and the groups' bits alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from evalsuite.engines import GenerateRequest, ScoreRequest, TraceRequest, cascade, decoder, head, own
from evalsuite.engines.local import LocalEngine
from evalsuite.engines.own import OwnForward, agrees, passes
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Arm, ModelRef

SIZES: dict[str, Any] = {"vocab_size": 400, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
                         "intermediate_size": 96, "max_position_embeddings": 8192,
                         "tie_word_embeddings": True}  # fmt: skip


def made(kind: str, kv_heads: int = 2, **more: Any) -> Any:
    """A model whose logits are not flat."""
    config, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM),
                     "qwen3": (Qwen3Config, Qwen3ForCausalLM)}[kind]  # fmt: skip
    torch.manual_seed(0)
    new = model(config(**SIZES, num_key_value_heads=kv_heads, **more)).eval().requires_grad_(False)
    for parameter in new.parameters():
        if parameter.dim() > 1:
            parameter.data *= 4
    return new


def ids(n: int, start: int = 0) -> tuple[int, ...]:
    return tuple((start + 37 * i + i * i) % 397 + 1 for i in range(n))


def plain(model: Any, request: ScoreRequest) -> torch.Tensor:
    tokens = torch.tensor([request.context + request.continuation[:-1]])
    return model(input_ids=tokens).logits[0, len(request.context) - 1 :]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_models_of_the_known_types_agree(kind: str, kv_heads: int):
    assert agrees(made(kind, kv_heads).to(torch.bfloat16))


def test_scaled_rotary_embeddings_agree():
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
    assert agrees(made("llama", rope_parameters=rope))


@pytest.mark.parametrize("spoiled", ["_rotated", "_rms"])
def test_a_pass_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch, spoiled: str):
    right = getattr(decoder, spoiled)
    monkeypatch.setattr(decoder, spoiled, lambda *given: right(*given) * 1.001)

    assert not agrees(made("llama"))


def test_a_torch_without_the_attention_that_it_needs_leaves_models_to_transformers(monkeypatch: pytest.MonkeyPatch):
    def gone(*_: Any, **__: Any) -> Any:
        raise AttributeError("no such operator")

    monkeypatch.setattr(cascade, "_flash", gone)

    assert not agrees(made("llama"))


def test_a_wide_head_that_is_not_kept_gives_the_same_logits(monkeypatch: pytest.MonkeyPatch):
    model = made("qwen3").to(torch.bfloat16)
    asked = [ScoreRequest(ids(9), ids(4, 3))]
    kept = torch.cat(list(OwnForward(model).logits(asked)))
    monkeypatch.setattr(head, "KEPT_ELEMENTS", 0)

    assert torch.equal(torch.cat(list(OwnForward(model).logits(asked))), kept)


def test_types_and_attentions_that_it_does_not_know_are_left_to_transformers():
    sliding = made("qwen3")
    sliding.config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    other = made("llama")
    other.config.model_type = "mamba"

    assert not agrees(sliding)
    assert not agrees(other)


@pytest.mark.parametrize("shared", [0, 5])
def test_logits_of_branches_behind_a_prefix_are_those_of_plain_rows(shared: int):
    model = made("qwen3")
    head = ids(9)
    asked = [ScoreRequest(head, ids(n, 50 * n), shared) for n in (1, 3, 6)]
    asked += [ScoreRequest((*head[:5], *ids(4, 300)), ids(2, 9), shared), ScoreRequest((*ids(5), 7), (8, 9), shared)]
    found = torch.cat(list(OwnForward(model).logits(asked)))

    torch.testing.assert_close(found, torch.cat([plain(model, r) for r in asked]), atol=2e-4, rtol=0)


def test_a_row_longer_than_a_pass_gives_the_same_logits(monkeypatch: pytest.MonkeyPatch):
    model = made("llama")
    asked = [ScoreRequest(ids(90), ids(n, n), 11) for n in (2, 4)]
    whole = torch.cat(list(OwnForward(model).logits(asked)))
    monkeypatch.setattr(own, "PASS_TOKENS", 40)

    torch.testing.assert_close(torch.cat(list(OwnForward(model).logits(asked))), whole, atol=1e-4, rtol=0)


def test_decoding_past_the_growth_of_the_cache_follows_plain_rows():
    model = made("qwen2")
    prompts, steps = [ids(6), ids(13), ids(3)], 70
    forward = OwnForward(model).decode([GenerateRequest(p, steps, (), shared=2) for p in prompts])
    logits, written = forward.next(None), []
    for step in range(steps):
        token = torch.tensor([(31 * step + 7 * row) % 399 + 1 for row in range(3)])
        written.append(token)
        logits = forward.next(token)
    for row, prompt in enumerate(prompts):
        tokens = torch.tensor([[*prompt, *(int(t[row]) for t in written)]])

        torch.testing.assert_close(logits[row], model(input_ids=tokens).logits[0, -1], atol=2e-4, rtol=0)


def test_a_long_text_without_options_builds_no_mask():
    model = made("llama")
    asked = ScoreRequest(ids(30), ids(5000, 7))
    rows = [own._row([asked], 0)]
    tree = cascade.TreePass(rows, cascade.Prefix(), OwnForward(model)._reading)
    found = torch.cat(list(OwnForward(model).logits([asked])))

    assert not hasattr(tree, "_mask")
    torch.testing.assert_close(found, plain(model, asked), atol=3e-4, rtol=0)


def test_rotary_embeddings_that_depend_on_the_length_are_left_to_transformers():
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}

    assert not agrees(made("llama", rope_parameters=rope))


def test_a_prefix_is_not_counted_so_counts_do_not_depend_on_a_resume(engine: LocalEngine):
    asked = [ScoreRequest((*ids(50), *ids(8, n)), ids(3, n), 50) for n in range(4)]
    with engine.open(arm(engine, "fp8-ue8m0")) as session:
        session.score(asked)
        first = session.activity()
        session.score(asked)

        assert session.activity() == first


def test_passes_hold_every_row_once_and_only_a_single_row_may_be_too_long():
    sizes = [10, 3000, 700, 700, 700, 5, 5]
    found = list(passes(sizes))

    assert [i for part in found for i in range(part.start, part.stop)] == list(range(len(sizes)))
    for part in found:
        chosen = sizes[part]
        assert len(chosen) == 1 or max(chosen) * len(chosen) <= own.PASS_TOKENS


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> LocalEngine:
    return LocalEngine(ModelRef(id=str(tiny_model)), {})


def arm(engine: LocalEngine, recipe: str) -> Arm:
    return Arm(id=recipe, model=engine.model, recipe=RECIPES[recipe])


@pytest.mark.parametrize("recipe", ["bf16", "fp8-e4m3", "fp8-ue8m0", "fp8-ue8m0-kv8"])
def test_arms_score_as_they_do_through_transformers(engine: LocalEngine, tiny_model: Path, recipe: str):
    asked = [ScoreRequest(ids(40, 9), ids(n, n)) for n in (3, 5)]
    stock = LocalEngine(ModelRef(id=str(tiny_model)), {"forward": "transformers"})
    with engine.open(arm(engine, recipe)) as session:
        assert "own-forward" in session.realised.kernel
        ours = [s.loglikelihood for s in session.score(asked)]
    with stock.open(arm(stock, recipe)) as session:
        assert "own-forward" not in session.realised.kernel
        theirs = [s.loglikelihood for s in session.score(asked)]

    assert ours == pytest.approx(theirs, rel=0.02)  # BF16 results depend on the batch


def test_the_bits_of_a_group_do_not_depend_on_what_came_before(engine: LocalEngine):
    one = [ScoreRequest((*ids(50), *ids(8, n)), ids(3, n), 50) for n in range(6)]
    two = [ScoreRequest((*ids(60, 4), *ids(8, n)), ids(3, n), 60) for n in range(6)]
    with engine.open(arm(engine, "fp8-ue8m0")) as session:
        alone = session.score(two)
    with engine.open(arm(engine, "fp8-ue8m0")) as session:
        session.score(one)
        behind = session.score(two)

    assert alone == behind


def test_a_shared_prefix_changes_no_answer(engine: LocalEngine):
    prompts = [(*ids(40), *ids(n, n)) for n in (3, 9, 5)]
    with engine.open(arm(engine, "fp32")) as session:
        apart = session.generate([GenerateRequest(p, 30, ()) for p in prompts])
        together = session.generate([GenerateRequest(p, 30, (), shared=40) for p in prompts])

    assert apart == together


def test_traces_are_the_log_softmax_of_plain_rows(tiny_model: Path, engine: LocalEngine):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    request = TraceRequest(ids(7), ids(4, 3))
    with engine.open(arm(engine, "fp32")) as session:
        (found,) = session.trace([request], 5)
    expected = plain(model, ScoreRequest(request.prompt, request.continuation)).log_softmax(-1)

    torch.testing.assert_close(torch.from_numpy(found.logprobs), expected.topk(5).values, atol=1e-4, rtol=0)


@pytest.mark.parametrize("way", ["own", "stock"])
def test_a_decoding_rewound_gives_the_same_logits_again(way: str):
    from evalsuite.engines.stock import StockForward

    model = made("qwen3")
    forward = OwnForward(model) if way == "own" else StockForward(model, (), 0)
    decoding = forward.decode([GenerateRequest(ids(n), 9, ()) for n in (7, 12)])

    def steps(count: int) -> list[torch.Tensor]:
        found = [decoding.next(None)]
        for _ in range(count):
            found.append(decoding.next(found[-1].argmax(-1)))
        return found

    first = steps(40)  # beyond the room that a cache grows by
    decoding.rewind()
    again = steps(3)
    decoding.rewind()

    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=False))
    assert torch.equal(first[0], decoding.next(None))
