"""Ask one request group and score it: lm-eval's filter and metric on the text behind the thought, one row an item."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from evalsuite.engines import GenerateRequest, Generation, Score, ScoreRequest, Session, Unanswered
from evalsuite.errors import UsageError
from evalsuite.harness.lm import END_THINK, visible
from evalsuite.harness.workload import Item, Workload
from evalsuite.store import Row


def answer(session: Session, workload: Workload, group: Sequence[int], tags: dict[str, Any]) -> list[Row]:
    """Ask one group and score it. `tags` (arm, repeat, group) go into each row; rows stand in the group's order."""
    items = [workload.items[i] for i in group]
    seeds = [_seed(item.item_hash, tags["repeat"]) for item in items]
    scored: list[Row | None]
    flat: list[Any] = [request for item in items for request in item.requests]
    if workload.task.OUTPUT_TYPE == "generate_until":
        chance = {"temperature": workload.sampling.temperature, "top_p": workload.sampling.top_p}
        made = session.generate([replace(r, seed=seed, **chance) for r, seed in zip(flat, seeds, strict=True)])
        scored = [_score_text(workload, item, one) for item, one in zip(items, made, strict=True)]
    else:
        scores, at, scored = session.score(flat), 0, []
        for item in items:
            scored.append(_score_choices(workload, item, scores[at : at + len(item.requests)]))
            at += len(item.requests)
    return [
        {"task": workload.spec.task, "mode": workload.mode, "item_id": item.item_id, "item_hash": item.item_hash,
         "prompt_hash": item.prompt_hash, "position": position, "gold": item.gold, **row, **tags, "seed": seed,
         "cluster": item.cluster}
        for position, item, row, seed in zip(group, items, scored, seeds, strict=True)
        if row is not None  # not answered, or a log-likelihood that is no number: the item is missing, not wrong
    ]  # fmt: skip


def _seed(item_hash: str, repeat: int) -> int:
    """Seed of one sample of one item: the same in every arm."""
    return int(hashlib.sha256(f"{item_hash}:{repeat}".encode()).hexdigest()[:12], 16)


def _filtered(workload: Workload, item: Item, responses: Sequence[Any]) -> tuple[list[Any], float]:
    """Responses through lm-eval's filter, and the metric's value."""
    for instance, response in zip(item.instances, responses, strict=True):
        instance.resps = [response]
    ensemble = next(e for e in workload.task._filters if e.name == workload.spec.filter)
    ensemble.apply(list(item.instances))
    filtered = [instance.filtered_resps[ensemble.name] for instance in item.instances]
    values = workload.task.process_results(item.doc, filtered)
    if not isinstance(values.get(workload.spec.metric), int | float):
        raise UsageError(f"Metric '{workload.spec.metric}' of task '{workload.spec.task}' is no number an item.")
    return filtered, float(values[workload.spec.metric])


def _score_text(workload: Workload, item: Item, made: Generation | Unanswered) -> Row | None:
    if isinstance(made, Unanswered):
        return None
    request = item.requests[0]
    assert isinstance(request, GenerateRequest)
    text, closed = visible(made.text, item.prompt, request.stop)
    filtered, score = _filtered(workload, item, [text])
    found = filtered[0][0] if isinstance(filtered[0], list) and filtered[0] else filtered[0]
    prediction = "" if found is None or isinstance(found, list) else str(found)
    parsed = closed and prediction.strip() not in ("", "[invalid]")
    score = score if closed else 0.0
    return {
        "correct": score >= 1.0, "score": score, "prediction": prediction if parsed else None, "parsed": parsed,
        "finish_reason": made.finish_reason, "truncated": made.finish_reason == "length",
        "n_prompt_tokens": len(request.prompt), "n_output_tokens": len(made.tokens),
        "n_thinking_tokens": _thinking_tokens(workload.tokenizer, made) if closed else len(made.tokens),
        "output_text": made.text, "output_token_ids": list(made.tokens), "choice_loglikelihoods": None,
        "gold_loglikelihood": None, "margin": None, "tie": None,
    }  # fmt: skip


def _thinking_tokens(tokenizer: Any, made: Generation) -> int:
    """Tokens up to and with the one that completes the last `</think>`; 0 if the answer holds none."""
    if END_THINK not in made.text:
        return 0
    marker = tokenizer.encode(END_THINK, add_special_tokens=False)
    if len(marker) == 1 and marker[0] in made.tokens:
        return len(made.tokens) - made.tokens[::-1].index(marker[0])
    behind = made.text.rsplit(END_THINK, 1)[1]
    low, high = 0, len(made.tokens)
    while low < high:  # fewest tokens whose text leaves nothing of the marker out
        middle = (low + high) // 2
        rest = tokenizer.decode(made.tokens[middle:], skip_special_tokens=True)
        low, high = (low, middle) if len(rest) <= len(behind) else (middle + 1, high)
    return low


def _score_choices(workload: Workload, item: Item, given: Sequence[Score | Unanswered]) -> Row | None:
    scores = [s for s in given if isinstance(s, Score) and math.isfinite(s.loglikelihood)]
    if len(scores) < len(given):
        return None
    pairs = [(s.loglikelihood, s.greedy) for s in scores]
    _, score = _filtered(workload, item, pairs)
    options = [str(option) for option in workload.task.doc_to_choice(item.doc)]
    values = [s.loglikelihood for s in scores][: len(options)]
    best = max(range(len(values)), key=values.__getitem__)
    gold = options.index(item.gold) if item.gold in options else None
    others = [v for i, v in enumerate(values) if i != gold]
    tokens = [len(r.continuation) for r in item.requests if isinstance(r, ScoreRequest)]
    return {
        "correct": score >= 1.0, "score": score, "prediction": options[best], "parsed": True, "finish_reason": None,
        "truncated": False, "n_prompt_tokens": len(item.requests[0].context),  # type: ignore[union-attr]
        "n_output_tokens": sum(tokens), "n_thinking_tokens": 0, "output_text": None, "output_token_ids": None,
        "choice_loglikelihoods": values, "gold_loglikelihood": None if gold is None else values[gold],
        "margin": None if gold is None or not others else values[gold] - max(others),
        "tie": sorted(values)[-2:].count(max(values)) > 1,
    }  # fmt: skip
