"""A suite's items, prompts and request groups: built once, from the prompts alone, and shared by every arm."""

import hashlib
import json
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any

from evalsuite import sequence
from evalsuite.engines import GROUP_TOKENS as BUDGETS
from evalsuite.engines import Engine, GenerateRequest, ScoreRequest
from evalsuite.errors import UsageError
from evalsuite.groups import GROUP_TOKENS, cut, seeded_order, windows
from evalsuite.harness.lm import EngineLM
from evalsuite.harness.loading import FEWSHOT_SEED, load_task
from evalsuite.harness.sharing import Request, share, size_of
from evalsuite.records import Finding, Mode, RunSpec, Sampling, Sequence, TaskSpec


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
    requests: tuple[Request, ...]
    gold: str
    cluster: str | None
    """What the item shares with others (a passage); None if it stands alone."""
    prompt_cut: bool
    """The prompt was longer than the context and lost its beginning."""


@dataclass(frozen=True)
class Source:
    """One task's documents, loaded but not yet asked."""

    spec: TaskSpec
    task: Any
    """lm-eval's task."""
    docs: tuple[tuple[int, dict[str, Any], str], ...]
    """Document id, document, hash."""
    order: tuple[int, ...]
    """Indices into `docs` in the seeded order, each content once."""


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
    ends: tuple[int, ...]
    """Items up to the end of each window; a group lies within one."""
    digest: str
    """Hash over prompts, scoring and groups."""
    tokenizer: Any
    sampling: Sampling
    findings: tuple[Finding, ...] = ()

    @property
    def repeats(self) -> int:
        """Samples an item; a log-likelihood has no chance in it, so one says all."""
        return self.sampling.k if self.task.OUTPUT_TYPE == "generate_until" else 1

    def in_window(self, groups: Seq[tuple[int, ...]], window: int) -> list[int]:
        """Numbers of the groups that lie in that window."""
        first = self.ends[window - 1] if window else 0
        return [number for number, group in enumerate(groups) if first <= group[0] < self.ends[window]]


def load_sources(spec: RunSpec) -> list[Source]:
    """The tasks of a run and their documents, in suite order; no model is needed."""
    found = []
    for task_spec in spec.tasks:
        task = load_task(task_spec, spec.datasets)
        docs = tuple((doc_id, doc, _doc_hash(doc)) for doc_id, doc in task.doc_iterator())
        first = {digest: i for i, (_, _, digest) in reversed(list(enumerate(docs)))}
        distinct = sorted(first.values())
        order = tuple(distinct[i] for i in seeded_order(len(distinct), spec.seed, task_spec.task))
        found.append(Source(task_spec, task, docs, order))
    return found


def draw_sequences(
    spec: RunSpec, sources: Seq[Source], before: Mapping[Mode, Sequence] | None = None, more: int = 0
) -> dict[Mode, Sequence]:
    """How a sequential run draws its items, by mode; empty for a fixed plan. `before`, `more`: see `sequence.draw`."""
    if spec.decision.design == "fixed":
        return {}
    found: dict[Mode, Sequence] = {}
    for mode in spec.modes:
        own = [source for source in sources if mode in source.spec.modes]
        names, available = tuple(s.spec.task for s in own), tuple(len(s.order) for s in own)
        pool = sequence.Pool(names, available, spec.limit, f"{spec.seed}:{mode}")
        found[mode] = sequence.draw(pool, spec.decision, (before or {}).get(mode), more)
    return found


def prepare(
    spec: RunSpec,
    engine: Engine,
    sources: Seq[Source] | None = None,
    sequences: Mapping[Mode, Sequence] | None = None,
) -> list[Workload]:
    """All workloads of a run, in suite order, direct before thinking. `sources`, `sequences`: made if not given."""
    _check_template(spec, engine)
    sources = load_sources(spec) if sources is None else sources
    sequences = draw_sequences(spec, sources) if sequences is None else sequences
    made = []
    for source in sources:
        for mode in source.spec.modes:
            ends = None
            if mode in sequences:
                tasks = [s.spec.task for s in sources if mode in s.spec.modes]
                ends = _task_ends(sequences[mode], tasks.index(source.spec.task))
            made.append(_workload(spec, source, mode, (engine, ends)))
    return sorted(made, key=lambda w: w.mode)


def _task_ends(drawn: Sequence, task: int) -> tuple[int, ...]:
    """Items of one task up to the end of each window of its mode."""
    return tuple(drawn.order[:end].count(task) for end in drawn.ends)


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


def _workload(run: RunSpec, source: Source, mode: Mode, how: tuple[Engine, tuple[int, ...] | None]) -> Workload:
    """One task in one mode. `how`: the engine, and where windows end in a sequential run."""
    engine, ends = how
    spec, task, docs = source.spec, source.task, source.docs
    lm = EngineLM(engine, mode)
    generates = task.OUTPUT_TYPE == "generate_until"
    chat = run.chat and generates and bool(engine.tokenizer.chat_template)
    ask = _Asker(lm, task, chat, (spec.max_gen_toks or {}).get(mode), spec.cluster)
    chosen = source.order[: run.limit] if ends is None else source.order[: max(ends, default=0)]
    ends = windows(len(chosen)) if ends is None else ends
    contexts = ask.contexts(docs, set(chosen))
    asked = [ask.item(docs[i], contexts[i]) for i in chosen]
    # The first window alone decides: a sequential run that is extended must find its groups as they were.
    shared = share([item.requests for item in asked], next((end for end in ends if end), len(asked)))
    items = tuple(replace(item, requests=requests) for item, requests in zip(asked, shared, strict=True))
    sizes = [size_of(item.requests) for item in items]
    tokens = int(run.engine_options.get("group_tokens", BUDGETS.get(run.engine, GROUP_TOKENS)))
    groups, noise = cut(sizes, tokens, ends=ends), cut(sizes, tokens, noise=True, ends=ends)
    common = [[request.shared for request in item.requests] for item in items]
    parts = [spec.model_dump_json(), mode, json.dumps([groups, noise, common]), *(i.prompt_hash for i in items)]
    repeated, cut_prompts = len(docs) - len(source.order), sum(i.prompt_cut for i in items)
    return Workload(
        spec, mode, task, items, tuple(groups), tuple(noise), ends,
        hashlib.sha256("\n".join(parts).encode()).hexdigest(), engine.tokenizer, run.sampling[mode],
        _prepare_findings(repeated, cut_prompts, len(items)),
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
    cluster: str | None
    """Field of the document that names its cluster."""

    def contexts(self, docs: Seq[tuple[int, dict[str, Any], str]], chosen: set[int]) -> dict[int, Any]:
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
        requests: tuple[Request, ...]
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
            cluster=self._cluster(doc), prompt_cut=any(n > _length(r) for n, r in zip(whole, requests, strict=True)),
        )  # fmt: skip

    def _cluster(self, doc: dict[str, Any]) -> str | None:
        if self.cluster is None:
            return None
        if self.cluster not in doc:
            raise UsageError(
                f"Task '{self.task.config.task}': cluster '{self.cluster}' is no field of its documents "
                f"({', '.join(doc)})."
            )
        return str(doc[self.cluster])


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
