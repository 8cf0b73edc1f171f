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
    prompt_cut: bool
    """The prompt was longer than the context and lost its beginning."""


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
    ask = _Asker(lm, task, chat, (spec.max_gen_toks or {}).get(mode))
    docs = [(doc_id, doc, _doc_hash(doc)) for doc_id, doc in task.doc_iterator()]
    first = {digest: i for i, (_, _, digest) in reversed(list(enumerate(docs)))}
    distinct = sorted(first.values())
    chosen = [distinct[i] for i in seeded_order(len(distinct), run.seed, spec.task)[: run.limit]]
    contexts = ask.contexts(docs, set(chosen))
    items = tuple(ask.item(docs[i], contexts[i]) for i in chosen)
    sizes = [_size(item) for item in items]
    tokens = int(run.engine_options.get("group_tokens", GROUP_TOKENS))
    groups, noise = cut(sizes, tokens), cut(sizes, tokens, noise=True)
    parts = [spec.model_dump_json(), mode, json.dumps([groups, noise]), *(i.prompt_hash for i in items)]
    return Workload(
        spec, mode, task, items, tuple(groups), tuple(noise), hashlib.sha256("\n".join(parts).encode()).hexdigest(),
        engine.tokenizer, _prepare_findings(len(docs) - len(distinct), sum(i.prompt_cut for i in items), len(items)),
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


@dataclass(frozen=True)
class _Asker:
    """Builds the items of one task in one mode with lm-eval's own methods."""

    lm: EngineLM
    task: Any
    chat: bool
    budget: int | None
    """Generation budget in tokens; None for log-likelihood tasks."""

    def contexts(self, docs: list[tuple[int, dict[str, Any], str]], chosen: set[int]) -> dict[int, Any]:
        """Prompt texts by index into `docs`. lm-eval draws few-shot examples document after document from one
        generator, so with examples every document is built, asked or not: a prompt must not depend on `--limit`."""
        shots = self.task.config.num_fewshot or 0
        self.task.set_fewshot_seed(seed=FEWSHOT_SEED)
        made = {}
        for i, (_, doc, _) in enumerate(docs):
            if shots or i in chosen:
                made[i] = self.task.fewshot_context(
                    doc, num_fewshot=shots, apply_chat_template=self.chat,
                    chat_template=self.lm.apply_chat_template if self.chat else None,
                    gen_prefix=self.task.doc_to_prefix(doc),
                )  # fmt: skip
        return made

    def item(self, numbered: tuple[int, dict[str, Any], str], context: Any) -> Item:
        """One document as an item: lm-eval's requests, and the same as token ids."""
        doc_id, doc, digest = numbered
        name = self.task.config.task
        made = self.task.construct_requests(
            doc=doc, ctx=context, metadata=(name, doc_id, 1), apply_chat_template=self.chat,
            chat_template=self.lm.apply_chat_template if self.chat else None,
        )  # fmt: skip
        instances = tuple(made) if isinstance(made, list) else (made,)
        prompt = instances[0].args[0]
        requests: tuple[GenerateRequest | ScoreRequest, ...]
        if self.budget is not None:
            kwargs = {**_budgetless(instances[0].args[1]), "max_gen_toks": self.budget}
            requests = (self.lm.generate_request(prompt, kwargs),)
            whole = [len(self.lm.tok_encode(prompt))]
        else:
            pairs = [instance.args for instance in instances]
            requests = tuple(self.lm.score_request(*pair) for pair in pairs)
            whole = [sum(map(len, self.lm.encode_pair(*pair))) for pair in pairs]
        return Item(
            item_id=f"{name}/{doc_id}", item_hash=digest, prompt_hash=_hash(prompt), prompt=prompt, doc=doc,
            instances=instances, requests=requests, gold=_gold(self.task, doc),
            prompt_cut=any(n > _length(r) for n, r in zip(whole, requests, strict=True)),
        )  # fmt: skip


def _doc_hash(doc: dict[str, Any]) -> str:
    return _hash(json.dumps(doc, indent=2, default=str, ensure_ascii=False))


def _length(request: GenerateRequest | ScoreRequest) -> int:
    if isinstance(request, GenerateRequest):
        return len(request.prompt)
    return len(request.context) + len(request.continuation)


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
    lengths = [_length(r) + (r.max_new if isinstance(r, GenerateRequest) else 0) for r in item.requests]
    return Size(len(lengths), max(lengths))
