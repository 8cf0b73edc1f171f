"""A suite's items, prompts and request groups: built once, from the prompts alone, and shared by every arm."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from evalsuite.engines import Engine, GenerateRequest, ScoreRequest
from evalsuite.errors import UsageError
from evalsuite.groups import GROUP_TOKENS, Size, cut, seeded_order
from evalsuite.harness.lm import EngineLM
from evalsuite.harness.loading import FEWSHOT_SEED, load_task
from evalsuite.records import Finding, Mode, RunSpec, TaskSpec


@dataclass(frozen=True)
class Item:
    """One item of a workload, ready to be asked."""

    item_id: str
    item_hash: str
    prompt_hash: str
    prompt: str
    doc: dict[str, Any]
    instances: tuple[Any, ...]
    """lm-eval's requests: one, or one an option."""
    requests: tuple[GenerateRequest | ScoreRequest, ...]
    gold: str


@dataclass(frozen=True)
class Workload:
    """One task in one mode, the same for every arm."""

    spec: TaskSpec
    mode: Mode
    task: Any
    items: tuple[Item, ...]
    """In the seeded order."""
    groups: tuple[tuple[int, ...], ...]
    """Positions in `items`, in the order in which they are answered."""
    noise_groups: tuple[tuple[int, ...], ...]
    """The same for the noise-floor arm."""
    digest: str
    """Hash over prompts, scoring and groups."""
    tokenizer: Any
    findings: tuple[Finding, ...] = ()


def prepare(spec: RunSpec, engine: Engine) -> list[Workload]:
    """All workloads of a run, in suite order, direct before thinking."""
    _check_template(spec, engine)
    made = []
    for task_spec in spec.tasks:
        task = load_task(task_spec, spec.datasets)
        made += [_workload(spec, task_spec, mode, task, engine) for mode in task_spec.modes]
    return sorted(made, key=lambda w: w.mode)


def _check_template(spec: RunSpec, engine: Engine) -> None:
    thinking = [task.task for task in spec.tasks if "thinking" in task.modes]
    if not thinking:
        return
    if not spec.chat or not engine.tokenizer.chat_template:
        raise UsageError(f"Model '{spec.model.id}' has no chat template (or `chat: off`): it cannot think. Remove the "
                         f"thinking mode of {', '.join(thinking)}.")  # fmt: skip
    turn = [{"role": "user", "content": "?"}]
    prompts = {EngineLM(engine, mode).apply_chat_template(turn) for mode in ("direct", "thinking")}
    if len(prompts) == 1 and any("direct" in task.modes for task in spec.tasks if task.task in thinking):
        raise UsageError(f"The chat template of '{spec.model.id}' does not tell thinking from direct mode.")


def _workload(run: RunSpec, spec: TaskSpec, mode: Mode, task: Any, engine: Engine) -> Workload:
    lm = EngineLM(engine, mode)
    generates = task.OUTPUT_TYPE == "generate_until"
    chat = run.chat and generates and bool(engine.tokenizer.chat_template)
    budget = (spec.max_gen_toks or {}).get(mode)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    found: dict[str, Item] = {}
    duplicates = cut_prompts = 0
    for doc_id, doc in task.doc_iterator():
        item = _item(lm, task, (doc_id, doc), (chat, budget))
        duplicates += item.item_hash in found
        found.setdefault(item.item_hash, item)
    everything = list(found.values())
    order = seeded_order(len(everything), run.seed, spec.task)[: run.limit]
    items = tuple(everything[i] for i in order)
    if generates:
        cut_prompts = sum(len(lm.tok_encode(item.prompt)) > len(item.requests[0].prompt) for item in items)  # type: ignore[union-attr]
    sizes = [_size(item) for item in items]
    tokens = int(run.engine_options.get("group_tokens", GROUP_TOKENS))
    groups, noise = cut(sizes, tokens), cut(sizes, tokens, noise=True)
    parts = [spec.model_dump_json(), mode, json.dumps([groups, noise]), *(i.prompt_hash for i in items)]
    return Workload(
        spec, mode, task, items, tuple(groups), tuple(noise), hashlib.sha256("\n".join(parts).encode()).hexdigest(),
        engine.tokenizer, _prepare_findings(duplicates, cut_prompts, len(items)),
    )  # fmt: skip


def _prepare_findings(duplicates: int, cut_prompts: int, n: int) -> tuple[Finding, ...]:
    found = []
    if duplicates:
        found.append(Finding(code="DUPLICATE_ITEMS", severity="info",
                             message=f"{duplicates} items repeat an earlier one and were dropped."))  # fmt: skip
    if cut_prompts:
        found.append(Finding(code="PROMPT_TRUNCATED", severity="warning", message=f"{cut_prompts} of {n} prompts are "
                             "longer than the model's context: cut from the left. Use fewer examples."))  # fmt: skip
    return tuple(found)


def _item(lm: EngineLM, task: Any, numbered: tuple[int, dict[str, Any]], how: tuple[bool, int | None]) -> Item:
    (doc_id, doc), (chat, budget) = numbered, how
    context = task.fewshot_context(
        doc, num_fewshot=task.config.num_fewshot or 0, apply_chat_template=chat,
        chat_template=lm.apply_chat_template if chat else None, gen_prefix=task.doc_to_prefix(doc),
    )  # fmt: skip
    made = task.construct_requests(
        doc=doc, ctx=context, metadata=(task.config.task, doc_id, 1), apply_chat_template=chat,
        chat_template=lm.apply_chat_template if chat else None,
    )  # fmt: skip
    instances = tuple(made) if isinstance(made, list) else (made,)
    if budget is not None:
        prompt, kwargs = instances[0].args
        requests: tuple[Any, ...] = (lm.generate_request(prompt, {**_budgetless(kwargs), "max_gen_toks": budget}),)
    else:
        requests = tuple(lm.score_request(*instance.args) for instance in instances)
    text = json.dumps(doc, indent=2, default=str, ensure_ascii=False)
    return Item(
        item_id=f"{task.config.task}/{doc_id}", item_hash=_hash(text), prompt_hash=_hash(instances[0].args[0]),
        prompt=instances[0].args[0], doc=doc, instances=instances, requests=requests, gold=_gold(task, doc),
    )  # fmt: skip


def _budgetless(kwargs: dict[str, Any]) -> dict[str, Any]:
    aliases = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    return {key: value for key, value in kwargs.items() if key not in aliases}


def _hash(text: str) -> str:
    """First 16 hex digits of the hash that lm-eval's own logs carry (`doc_hash`, `prompt_hash`)."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _gold(task: Any, doc: dict[str, Any]) -> str:
    target = task.doc_to_target(doc)
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        return str(task.doc_to_choice(doc)[target])
    return str(target)


def _size(item: Item) -> Size:
    lengths = [
        len(r.prompt) + r.max_new if isinstance(r, GenerateRequest) else len(r.context) + len(r.continuation)
        for r in item.requests
    ]
    return Size(len(lengths), max(lengths))
