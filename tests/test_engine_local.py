import json
import shutil
from pathlib import Path

import pytest
import torch

from evalsuite.engines import GenerateRequest, ScoreRequest
from evalsuite.engines.batch import sample
from evalsuite.engines.local import LocalEngine
from evalsuite.engines.models import eos_ids, locate, weights_sha256
from evalsuite.errors import CannotRunError
from evalsuite.harness import noted
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Arm, Cell, CellRecord, ModelRef

PROMPTS = ["1 + 1 =", "Sort these words: pear, apple.", "Question: who?\nAnswer:", "x", "Compute 12 - 5 + 3 - 4 * 2."]


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> LocalEngine:
    return LocalEngine(ModelRef(id=str(tiny_model)), {})


def arm(engine: LocalEngine, recipe: str = "fp32") -> Arm:
    return Arm(id=recipe, model=engine.model, recipe=RECIPES[recipe])


def requests(engine: LocalEngine, max_new: int = 20, stop: tuple[str, ...] = ()) -> list[GenerateRequest]:
    return [GenerateRequest(tuple(engine.tokenizer.encode(p)), max_new, stop) for p in PROMPTS]


def test_greedy_text_in_fp32_equals_generate_one_by_one(engine: LocalEngine, tiny_model: Path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    with engine.open(arm(engine)) as session:
        made = session.generate(requests(engine))
    for request, ours in zip(requests(engine), made, strict=True):
        ids = torch.tensor([request.prompt])
        theirs = model.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=list(engine.eos))
        expected = [t for t in theirs[0, ids.shape[1] :].tolist() if t not in engine.eos]

        assert list(ours.tokens) == expected
        assert ours.finish_reason == ("eos" if len(expected) < 20 else "length")


def test_log_likelihoods_in_fp32_equal_a_plain_forward_pass(engine: LocalEngine, tiny_model: Path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    parts = [((5, 6, 7, 8), (9,)), ((11,), (12, 13, 14)), ((1, 2, 3, 4, 5, 6), (7, 8))]
    asked = [ScoreRequest(*part) for part in parts]
    with engine.open(arm(engine)) as session:
        made = session.score(asked)
    for request, ours in zip(asked, made, strict=True):
        ids = torch.tensor([request.context + request.continuation])
        logp = model(ids).logits.log_softmax(-1)[0, len(request.context) - 1 : -1]
        expected = sum(logp[i, t].item() for i, t in enumerate(request.continuation))

        assert ours.loglikelihood == pytest.approx(expected, abs=2e-5)
        assert ours.greedy == all(logp[i].argmax().item() == t for i, t in enumerate(request.continuation))


def test_scoring_in_bf16_takes_the_log_softmax_in_fp32(engine: LocalEngine):
    asked = [ScoreRequest((5, 6, 7), (t,)) for t in range(20, 60)]
    with engine.open(arm(engine, "bf16")) as session:
        values = [s.loglikelihood for s in session.score(asked)]
        realised = session.realised

    assert realised.logits_dtype == "float32"
    assert any(v != torch.tensor(v).bfloat16().item() for v in values)  # not on BF16's grid


def test_a_stop_string_ends_the_row_and_only_behind_the_thought_where_one_is_asked_for(engine: LocalEngine):
    with engine.open(arm(engine)) as session:
        free = session.generate(requests(engine, 40))
        letter = next(c for c in free[1].text[4:] if c.isalpha())
        stopped = session.generate(requests(engine, 40, (letter,)))[1]
        asked = [GenerateRequest(r.prompt, 40, (letter,), "</think>") for r in requests(engine)]
        behind = session.generate(asked)[1]

    assert stopped.finish_reason == "stop"
    assert letter in stopped.text
    assert free[1].text.startswith(stopped.text)
    assert len(stopped.tokens) < len(free[1].tokens)
    assert ("</think>" in free[1].text) or behind.tokens == free[1].tokens


def test_the_same_group_gives_the_same_bits_twice(engine: LocalEngine):
    with engine.open(arm(engine, "fp8-ue8m0")) as session:
        first, second = session.generate(requests(engine)), session.generate(requests(engine))
    with engine.open(arm(engine, "fp8-ue8m0")) as session:
        third = session.generate(requests(engine))

    assert first == second == third


def test_arms_share_one_master_and_leave_it_untouched(engine: LocalEngine):
    with engine.open(arm(engine, "bf16")) as session:
        before = session.score([ScoreRequest((5, 6), (7, 8))])
    with engine.open(arm(engine, "fp8-e4m3")) as session:
        quantised = session.score([ScoreRequest((5, 6), (7, 8))])
    with engine.open(arm(engine, "bf16")) as session:
        after = session.score([ScoreRequest((5, 6), (7, 8))])

    assert before == after != quantised


def test_a_model_that_names_no_end_token_gets_the_tokenizers_or_is_refused(tmp_path: Path):
    class Tokenizer:
        eos_token_id: int | None = 3

    (tmp_path / "config.json").write_text("{}")
    assert eos_ids(tmp_path, Tokenizer()) == (3,)
    Tokenizer.eos_token_id = None
    with pytest.raises(CannotRunError, match="end-of-sequence"):
        eos_ids(tmp_path, Tokenizer())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 8]}))
    assert eos_ids(tmp_path, Tokenizer()) == (7, 8)


def test_a_missing_model_says_what_to_do(tmp_path: Path):
    with pytest.raises(CannotRunError, match="does not exist"):
        locate(ModelRef(id=str(tmp_path / "absent")))
    with pytest.raises(CannotRunError, match="no config.json"):
        locate(ModelRef(id=str(tmp_path)))
    with pytest.raises(CannotRunError, match="neither a local folder nor to be had from the hub"):
        locate(ModelRef(id="no-such-organisation/no-such-model"))


def test_the_weight_hash_changes_with_the_weights_and_the_configuration(tiny_model: Path, tmp_path: Path):
    import shutil

    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    assert weights_sha256(copy) == weights_sha256(tiny_model)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    assert weights_sha256(copy) != weights_sha256(tiny_model)


def spoiled(tiny_model: Path, folder: Path, value: float) -> ModelRef:
    """The tiny model with every weight of one layer's up-projection set to a value."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(tiny_model, folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(value)
    model.save_pretrained(folder)
    return ModelRef(id=str(folder))


def test_weights_with_nan_are_refused_in_every_arm_bf16_included(tiny_model: Path, tmp_path: Path):
    engine = LocalEngine(spoiled(tiny_model, tmp_path / "nan", float("nan")), {})
    for recipe in ("bf16", "fp8-ue8m0"):
        with pytest.raises(CannotRunError, match=r"up_proj\.weight: NaN or Inf"), engine.open(arm(engine, recipe)):
            pass


def test_activations_that_overflow_are_counted_where_they_do_and_become_a_finding(tiny_model: Path, tmp_path: Path):
    engine = LocalEngine(spoiled(tiny_model, tmp_path / "inf", 3e38), {})
    with engine.open(arm(engine, "fp8-e4m3")) as session:
        session.score([ScoreRequest((1, 2, 3), (4, 5))])
        counts = session.activity()
    cell = CellRecord(cell=Cell(arm="a", task="t", mode="direct"), status="running", resume_key="0", n_planned=1)
    bad = {name for name, c in counts.items() if c["nonfinite_blocks"]}

    assert bad == {"model.layers.1.mlp.down_proj"}
    assert [f.code for f in noted(cell, RECIPES["fp8-e4m3"], counts).findings] == ["NONFINITE_ACTIVATIONS"]


def test_the_probe_of_the_output_head_is_not_counted(engine: LocalEngine):
    with engine.open(arm(engine, "fp8-ue8m0")) as session:
        assert session.activity() == {}


def test_elements_are_counted_where_the_engine_option_asks_for_it(tiny_model: Path):
    engine = LocalEngine(ModelRef(id=str(tiny_model)), {"count": "elements"})
    with engine.open(arm(engine, "fp8-ue8m0")) as session:
        session.score([ScoreRequest((1, 2, 3), (4, 5))])
        counts = session.activity()["model.layers.0.self_attn.q_proj"]

    assert counts["elements"] == 4 * 128
    assert {"clipped", "zero_flushed"} <= set(counts)


def test_static_scales_without_texts_cannot_run(engine: LocalEngine):
    assert "names no `calibration`" in (engine.cannot_run(arm(engine, "fp8-e4m3-tensor-static")) or "")
    assert engine.cannot_run(arm(engine, "fp8-ue8m0")) is None
def drawn(temperature: float, seed: int, top_p: float = 1.0) -> GenerateRequest:
    return GenerateRequest((1,), 1, (), temperature=temperature, top_p=top_p, seed=seed)


def test_draws_follow_the_softmax_at_that_temperature():
    logits, request = torch.tensor([0.0, 1.0, 2.0, -1.0]), drawn(0.7, 0)
    grid = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    tokens = torch.tensor([sample(logits, request, float(u)) for u in grid])
    shares = torch.bincount(tokens, minlength=4) / len(tokens)

    torch.testing.assert_close(shares, torch.softmax(logits / 0.7, -1), atol=1e-3, rtol=0)


def test_top_p_keeps_the_likeliest_tokens_that_reach_it():
    logits = torch.log(torch.tensor([0.1, 0.5, 0.3, 0.1]))
    seen = {sample(logits, drawn(1.0, 0, top_p=0.7), u / 200) for u in range(200)}

    assert seen == {1, 2}  # 0.5 alone is too little, 0.8 is enough


def test_samples_depend_on_the_seed_and_not_on_the_batch(engine: LocalEngine):
    from dataclasses import replace

    base = [replace(r, temperature=1.0, seed=i) for i, r in enumerate(requests(engine))]
    with engine.open(arm(engine)) as session:
        together, alone = session.generate(base), [session.generate([r])[0] for r in base]
        others = session.generate([replace(r, seed=r.seed + 100) for r in base])
        again = session.generate(base)

    assert together == again
    assert [t.tokens for t in together] == [a.tokens for a in alone]
    assert [t.tokens for t in together] != [o.tokens for o in others]
def test_arms_are_emulated_where_nothing_is_native_and_native_on_demand_is_an_error(tiny_model: Path):
    auto = LocalEngine(ModelRef(id=str(tiny_model)), {})
    with auto.open(arm(auto, "fp8-ue8m0")) as session:
        assert session.realised.execution == ("emulated" if auto.device.type == "cpu" else "native")
    if auto.device.type == "cpu":
        demanding = LocalEngine(ModelRef(id=str(tiny_model)), {"execution": "native"})
        with pytest.raises(CannotRunError, match="does not run natively"), demanding.open(arm(demanding, "fp8-ue8m0")):
            pass


def test_a_group_that_does_not_fit_is_halved_and_no_larger_one_is_tried_again(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
):
    asked = [ScoreRequest((5, 6, 7, n), (8,)) for n in range(8)]
    tried: list[int] = []
    with engine.open(arm(engine)) as session:
        whole = session.score(asked)
        logits = session._forward.logits

        def small(requests: list[ScoreRequest]):
            tried.append(len(requests))
            if len(requests) > 3:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
            return logits(requests)

        monkeypatch.setattr(session._forward, "logits", small)
        first, counts = session.score(asked), session.activity()
        again = session.score(asked)

        assert [s.loglikelihood for s in first] == pytest.approx([s.loglikelihood for s in whole], abs=1e-5)
        assert again == first
        assert tried == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
        assert counts["batch"] == {"halved_groups": 1}
        assert session.activity() == {"batch": {"halved_groups": 1}}  # split without being tried: still said
    cell = CellRecord(cell=Cell(arm="a", task="t", mode="direct"), status="running", resume_key="0", n_planned=1)
    assert [f.code for f in noted(cell, RECIPES["fp32"], counts).findings] == ["GROUP_HALVED"]


def test_one_item_that_does_not_fit_is_an_error_with_advice(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch):
    def none_fits(requests: list[ScoreRequest]):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with engine.open(arm(engine)) as session:
        monkeypatch.setattr(session._forward, "logits", none_fits)
        with pytest.raises(CannotRunError, match="One item of 4 tokens does not fit"):
            session.score([ScoreRequest((1, 2, 3), (4,)), ScoreRequest((1, 2), (4, 5))])
        monkeypatch.setattr(session._forward, "logits", lambda _: (_ for _ in ()).throw(RuntimeError("another fault")))
        with pytest.raises(RuntimeError, match="another fault"):
            session.score([ScoreRequest((1, 2, 3), (4,)), ScoreRequest((1, 2), (4, 5))])


def test_a_failed_attempt_leaves_no_counts_behind(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch):
    asked = [ScoreRequest((5, 6, 7, n), (8,)) for n in range(8)]
    with engine.open(arm(engine, "fp8-ue8m0")) as session:
        session.score(asked)
        expected = session.activity()
        logits, fails = session._forward.logits, iter([True])

        def late(requests: list[ScoreRequest]):
            yield from logits(requests)
            if next(fails, False):
                raise torch.OutOfMemoryError("out of memory")

        monkeypatch.setattr(session._forward, "logits", late)
        session.score(asked)
        found = session.activity()

    assert found.pop("batch") == {"halved_groups": 1}
    assert found == expected


def test_a_closed_session_holds_no_weights_and_the_arm_is_gone(engine: LocalEngine):
    import gc

    from evalsuite.precision.layers import Arm as Running

    with engine.open(arm(engine, "fp8-ue8m0")) as session:
        session.score([ScoreRequest((5, 6, 7), (8,))])

    assert session._forward is None
    assert not [o for o in gc.get_objects() if type(o) is Running]


def test_padded_rows_of_other_models_stay_within_a_groups_tokens(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    from evalsuite.engines import stock

    through = LocalEngine(ModelRef(id=str(tiny_model)), {"forward": "transformers"})
    asked = [ScoreRequest(tuple(range(1, 30 + n)), (8, 9)) for n in range(6)]
    written = [GenerateRequest(tuple(range(1, 30 + n)), 6, ()) for n in range(6)]
    with through.open(arm(through)) as session:
        whole, texts = session.score(asked), session.generate(written)
        monkeypatch.setattr(stock, "GROUP_TOKENS", 80)
        widths: list[int] = []
        padded = stock.padded

        def watched(rows, *given, **named):
            widths.append(len(rows) * max(map(len, rows)))
            return padded(rows, *given, **named)

        monkeypatch.setattr(stock, "padded", watched)
        parts, again = session.score(asked), session.generate(written)

    assert len(widths) == 6
    assert max(widths) <= 80
    assert [s.loglikelihood for s in parts] == pytest.approx([s.loglikelihood for s in whole], abs=1e-5)
    assert again == texts
