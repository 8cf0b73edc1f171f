"""Divergence passes: distributions as a plain forward pass gives them, and KL as its definition says."""

from pathlib import Path

import numpy as np
import pytest
import torch

from evalsuite.engines import Trace, TraceRequest
from evalsuite.engines.local import LocalEngine
from evalsuite.measure.trajectories import compare, trace
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Arm, ModelRef

PARTS = [((5, 6, 7), (8, 9, 10, 11)), ((3,), (4, 5)), (tuple(range(40, 70)), (1,))]
REQUESTS = [TraceRequest(*part) for part in PARTS]


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> LocalEngine:
    return LocalEngine(ModelRef(id=str(tiny_model)), {})


def traced(engine: LocalEngine, recipe: str, top_k: int, support=None) -> list[Trace]:
    with engine.open(Arm(id=recipe, model=engine.model, recipe=RECIPES[recipe])) as session:
        return trace(session, REQUESTS, top_k, support)


def test_log_probabilities_are_those_of_a_plain_forward_pass(engine: LocalEngine, tiny_model: Path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    for request, found in zip(REQUESTS, traced(engine, "fp32", 8), strict=True):
        ids = torch.tensor([request.prompt + request.continuation])
        logp = model(ids).logits.log_softmax(-1)[0, len(request.prompt) - 1 : -1].detach().numpy()
        rows = np.arange(len(logp))[:, None]

        np.testing.assert_allclose(found.logprobs, logp[rows, found.tokens], atol=2e-5)
        np.testing.assert_allclose(found.chosen, logp[rows[:, 0], list(request.continuation)], atol=2e-5)
        np.testing.assert_array_equal(found.top, logp.argmax(-1))
        np.testing.assert_allclose(np.exp(found.logprobs).sum(-1) + np.exp(found.rest), 1.0, atol=1e-5)


def test_divergence_over_the_whole_vocabulary_is_the_definition(engine: LocalEngine):
    vocabulary = len(engine.tokenizer)
    base = traced(engine, "bf16", vocabulary)
    other = traced(engine, "mxfp4", vocabulary, base)
    for p, q in zip(base, other, strict=True):
        a, b = torch.from_numpy(p.logprobs).double(), torch.from_numpy(q.logprobs).double()
        expected = torch.nn.functional.kl_div(b, a, log_target=True, reduction="none").sum(-1).clamp_min(0)

        np.testing.assert_allclose(compare(p, q)["kl"], expected.numpy(), rtol=1e-9, atol=1e-12)


def test_a_bucket_for_the_rest_bounds_the_divergence_from_below(engine: LocalEngine):
    whole, few = len(engine.tokenizer), 16
    exact = compare(traced(engine, "bf16", whole)[0], traced(engine, "mxfp4", whole, traced(engine, "bf16", whole))[0])
    base = traced(engine, "bf16", few)
    bucketed = compare(base[0], traced(engine, "mxfp4", few, base)[0])

    assert (bucketed["kl"] <= exact["kl"] + 1e-6).all()
    assert (bucketed["kl"] > 0).any()
    np.testing.assert_array_equal(bucketed["same_top"], exact["same_top"])


def test_the_baseline_against_itself_does_not_diverge(engine: LocalEngine):
    base = traced(engine, "bf16", 16)
    for p, q in zip(base, traced(engine, "bf16", 16, base), strict=True):
        found = compare(p, q)

        assert found["kl"].max() == 0
        assert found["same_top"].all()


def test_answers_do_not_depend_on_their_batch(engine: LocalEngine):
    with engine.open(Arm(id="fp32", model=engine.model, recipe=RECIPES["fp32"])) as session:
        together = session.trace(REQUESTS, 8)
        alone = [session.trace([request], 8)[0] for request in REQUESTS]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a.tokens[:, :3], b.tokens[:, :3])
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=2e-5)
