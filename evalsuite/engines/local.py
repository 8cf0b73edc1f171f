"""The embedded engine: transformers in this process.

One group is one batch. Generation keeps its own loop: prompts are padded on the left once, rows that finish leave the
batch (none enters), and stop strings are looked at only when the newest token can end one. Scoring takes hidden states
at the needed positions only, the output head on FP32 operands and an FP32 log-softmax: lm-eval's stock path takes the
log-softmax in the model's own type, and its BF16 log-likelihoods are multiples of 1/16 or coarser.

Weights are loaded once, in BF16 (the master); every arm of one model is a `precision.apply` context over it. An arm may
name another model, which must read the very same prompts; one model is in memory at a time. A quantised checkpoint is
loaded by `shipped`.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evalsuite.calibration import read_again
from evalsuite.engines import (
    GenerateRequest,
    Generation,
    IntArray,
    Score,
    ScoreRequest,
    Trace,
    TraceRequest,
)
from evalsuite.engines.attention import use_fp32_attention
from evalsuite.engines.models import eos_ids, load_master, locate, reader_of, reads_otherwise, weights_sha256
from evalsuite.engines.shipped import load_shipped
from evalsuite.precision import apply
from evalsuite.precision.calibrate import Texts, calibrate
from evalsuite.precision.checkpoints import Checkpoint, is_quantized, read
from evalsuite.precision.emulate import best_kernel
from evalsuite.precision.recipes import is_as_shipped, needs_calibration
from evalsuite.precision.shipped import Shipped
from evalsuite.records import Arm, Calibration, Finding, ModelRef, Realised, Recipe

SLICE_ELEMENTS = 2**26
"""Logits (positions x vocabulary) that are held at once: 256 MB."""
COMPACT_AT = 0.75
"""The batch is compacted when this share of its rows or less is still running: less copying than at every exit."""


class LocalEngine:
    """Engine over `AutoModelForCausalLM`.

    Options: `threads`, `gemm_mode` (`fast` or `exact`), `execution` (`auto`, the default, `native` or `emulated`; see
    `precision.apply`), `count` (of activations: `blocks`, or `elements`: slower; native arms count nothing).
    """

    def __init__(self, model: ModelRef, options: dict[str, Any]) -> None:
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._folder = locate(model)
        self._options = options
        if options.get("threads"):
            torch.set_num_threads(int(options["threads"]))
        self.model = model.model_copy(update={"weights_sha256": weights_sha256(self._folder)})
        self.tokenizer, config = reader_of(self._folder)
        self.eos = eos_ids(self._folder, self.tokenizer)
        self.max_length: int = config.max_position_embeddings
        self._checkpoints: dict[Path, Checkpoint] = {}
        self._calibrations: dict[tuple[Any, ...], Calibration] = {}
        self._kept: tuple[tuple[Path, bool], Any, Shipped | None] | None = None
        self.device = torch.accelerator.current_accelerator() or torch.device("cpu")

    def cannot_run(self, arm: Arm) -> str | None:
        """Another model must read the same prompts; a quantised checkpoint runs as shipped or not at all; static scales
        need texts."""
        folder = self._folder_of(arm)
        if folder != self._folder:
            reason = reads_otherwise(folder, self)
            if reason:
                return f"the prompts of arm '{arm.id}' would differ: {reason} than that of '{self.model.id}'"
        if not is_as_shipped(arm.recipe) and is_quantized(folder):
            return (f"arm '{arm.id}' asks for recipe '{arm.recipe.id}' of '{arm.model.id}', which is quantised; "
                    "recipes start from a BF16 master. Say `recipe: as-shipped`, or name the BF16 model")  # fmt: skip
        if needs_calibration(arm.recipe) and arm.calibration is None and arm.recipe.calibration is None:
            return f"arm '{arm.id}' has static activation scales and names no `calibration`"
        return None

    def resolve(self, arm: Arm) -> tuple[Arm, tuple[Finding, ...]]:
        """The arm with the hash of its weights and, as shipped, the recipe that its tensors show."""
        folder = self._folder_of(arm)
        own = folder == self._folder
        ref = self.model if own else arm.model.model_copy(update={"weights_sha256": weights_sha256(folder)})
        if not is_as_shipped(arm.recipe):
            return arm.model_copy(update={"model": ref}), ()
        checkpoint = self._checkpoint(folder)
        return arm.model_copy(update={"model": ref, "recipe": checkpoint.recipe}), checkpoint.findings

    @contextmanager
    def open(self, arm: Arm) -> "Iterator[LocalSession]":
        """Load the arm over its model's weights; they are restored exactly when the context ends."""
        mode = self._options.get("gemm_mode", "fast")
        execution = self._options.get("execution", "auto")
        model, what = self._loaded(arm)
        # Not inference_mode: its tensors have no version, which the shared quantisation of q/k/v and gate/up asks for.
        with apply(model, what, execution, mode) as applied, torch.no_grad():
            applied.count(self._options.get("count", "blocks"))
            session = LocalSession(self, model, applied.realised)
            applied.activity()  # the probe of the output head is not the run's
            session.activity = applied.activity
            yield session

    def _folder_of(self, arm: Arm) -> Path:
        same = (arm.model.id, arm.model.revision) == (self.model.id, self.model.revision)
        return self._folder if same else locate(arm.model)

    def _checkpoint(self, folder: Path) -> Checkpoint:
        if folder not in self._checkpoints:
            self._checkpoints[folder] = read(folder)
        return self._checkpoints[folder]

    def _loaded(self, arm: Arm) -> tuple[Any, Recipe | Shipped]:
        """The arm's model in memory, and what `apply` is to run on it. One model is kept: the last one asked for."""
        folder, shipped = self._folder_of(arm), is_as_shipped(arm.recipe)
        if self._kept is None or self._kept[0] != (folder, shipped):
            self._kept = None
            if shipped:
                exact = self._options.get("gemm_mode") == "exact"
                model, what = load_shipped(self._checkpoint(folder), exact=exact)
            else:
                model, what = load_master(folder), None
            slow = self.device.type == "cpu" and best_kernel(self.device) != "linear-bf16"
            if slow and model.config._attn_implementation == "sdpa":
                use_fp32_attention(model)
            self._kept = (folder, shipped), model.to(self.device).eval().requires_grad_(False), what
        _, model, own = self._kept
        return model, own or self._calibrated(arm, model)

    def _calibrated(self, arm: Arm, model: Any) -> Recipe:
        """The arm's recipe, complete: static scales get their calibration, measured on the texts that the arm names."""
        texts = arm.calibration
        if texts is None or not needs_calibration(arm.recipe):
            return arm.recipe
        key = self._folder_of(arm), texts.texts_sha256, arm.recipe.exclude
        if key not in self._calibrations:
            tokens = [self.tokenizer.encode(line)[: self.max_length] for line in read_again(texts)]
            given = Texts(Path(texts.file).name, texts.texts_sha256, tokens)
            self._calibrations[key] = calibrate(model, arm.recipe, given)
        return arm.recipe.model_copy(update={"calibration": self._calibrations[key]})


class LocalSession:
    """One arm, loaded; see `engines.Session`."""

    activity: Callable[[], dict[str, dict[str, int]]]
    """Counts over quantised activations since the last call; see `precision.emulate.Applied`."""

    def __init__(self, engine: LocalEngine, model: Any, realised: Realised) -> None:
        self._model = model
        self._tokenizer = engine.tokenizer
        self._eos = torch.tensor(engine.eos, device=engine.device)
        self._device = engine.device
        self._head = FP32Head(model, realised.modules)
        self._enders: dict[str, frozenset[int]] = {}
        attention = model.config._attn_implementation
        self.realised = realised.model_copy(
            update={"logits_dtype": self._head.logits_dtype, "kernel": f"{realised.kernel}, {attention}"}
        )

    # ------------------------------------------------------------------------------------------------- generation

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Continuations of one group, in order."""
        from transformers import DynamicCache

        batch = _Batch(requests, self._tokenizer.pad_token_id or 0, self._device)
        cache = DynamicCache(config=self._model.config)
        ids, positions = batch.ids, batch.positions
        while batch.rows:
            out = self._model(
                input_ids=ids, attention_mask=batch.mask, position_ids=positions, past_key_values=cache,
                use_cache=True, logits_to_keep=1,
            )  # fmt: skip
            token = batch.choose(out.logits[:, -1])
            keep = self._step(batch, token)
            if len(keep) < len(batch.rows):
                index = torch.tensor(keep, device=self._device, dtype=torch.long)
                batch.select(keep, index)
                cache.batch_select_indices(index)
                token = token[index]
            ids, positions = batch.extend(token)
        return batch.answers(self._tokenizer)

    def _step(self, batch: "_Batch", token: Tensor) -> list[int]:
        """Record one token a row; return the rows of the batch to keep (all of them, unless compaction pays)."""
        ended = torch.isin(token, self._eos).tolist()
        for i, (row, value) in enumerate(zip(batch.rows, token.tolist(), strict=True)):
            if batch.reason[row] is not None:
                continue
            if ended[i]:
                batch.reason[row] = "eos"
                continue
            batch.tokens[row].append(value)
            if self._stopped(batch.requests[row], batch.tokens[row]):
                batch.reason[row] = "stop"
            elif len(batch.tokens[row]) >= batch.requests[row].max_new:
                batch.reason[row] = "length"
        alive = [i for i, row in enumerate(batch.rows) if batch.reason[row] is None]
        return alive if len(alive) <= COMPACT_AT * len(batch.rows) else list(range(len(batch.rows)))

    def _stopped(self, request: GenerateRequest, tokens: list[int]) -> bool:
        for stop in request.stop:
            if tokens[-1] in self._can_end(stop):
                # A stop string of n bytes lies within the last n tokens; one more for the token that it begins in.
                text = self._tokenizer.decode(tokens[-len(stop.encode()) - 1 :], skip_special_tokens=True)
                if stop in text and self._counts(request, tokens, stop):
                    return True
        return False

    def _counts(self, request: GenerateRequest, tokens: list[int], stop: str) -> bool:
        if request.stop_after is None:
            return True
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return request.stop_after in text and stop in text.rsplit(request.stop_after, 1)[1]

    def _can_end(self, stop: str) -> frozenset[int]:
        """Tokens in whose text the last character of `stop` occurs: only they can complete it."""
        if stop not in self._enders:
            texts = self._tokenizer.batch_decode([[i] for i in range(len(self._tokenizer))])
            last = stop[-1]
            self._enders[stop] = frozenset(i for i, text in enumerate(texts) if last in text or "\ufffd" in text)
        return self._enders[stop]

    # ---------------------------------------------------------------------------------------------------- scoring

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """Log-likelihoods of one group, in order: one padded forward pass."""
        ids, mask = _padded([(*r.context, *r.continuation[:-1]) for r in requests])
        where = [(i, len(r.context) - 1 + j) for i, r in enumerate(requests) for j in range(len(r.continuation))]
        targets = torch.tensor([t for r in requests for t in r.continuation], device=self._device)
        at = torch.tensor(where, device=self._device)
        logits = self._head(ids.to(self._device), mask.to(self._device), at)
        logp = torch.log_softmax(logits, -1)
        chosen = logp.gather(-1, targets[:, None])[:, 0].double().tolist()
        greedy = (logits.argmax(-1) == targets).tolist()
        scores, start = [], 0
        for request in requests:
            end = start + len(request.continuation)
            scores.append(Score(sum(chosen[start:end]), all(greedy[start:end])))
            start = end
        return scores


    # ---------------------------------------------------------------------------------------------------- traces

    def trace(
        self, requests: Sequence[TraceRequest], top_k: int, support: Sequence[IntArray] | None = None
    ) -> list[Trace]:
        """Distributions along given texts: one padded forward pass, the output head a slice of positions at a time."""
        rows = [(*r.prompt, *r.continuation[:-1]) for r in requests]
        ids, mask = _padded(rows)
        where = [(i, len(r.prompt) - 1 + j) for i, r in enumerate(requests) for j in range(len(r.continuation))]
        written = torch.tensor([t for r in requests for t in r.continuation], device=self._device)
        wanted = None if support is None else torch.from_numpy(np.concatenate(support)).to(self._device)
        at = torch.tensor(where, device=self._device)
        parts, start = [], 0
        for logits in self._head.slices(ids.to(self._device), mask.to(self._device), at):
            end = start + len(logits)
            tokens = logits.topk(min(top_k, logits.shape[-1])).indices if wanted is None else wanted[start:end]
            parts.append(_distribution(torch.log_softmax(logits, -1), tokens, written[start:end]))
            start = end
        joined = [torch.cat(columns).cpu().numpy() for columns in zip(*parts, strict=True)]
        ends = np.cumsum([len(r.continuation) for r in requests])[:-1]
        return [Trace(*columns) for columns in zip(*(np.split(column, ends) for column in joined), strict=True)]


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask of rows padded on the right."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def _distribution(logp: Tensor, tokens: Tensor, written: Tensor) -> tuple[Tensor, ...]:
    """The columns of a `Trace` from log-probabilities (positions x vocabulary)."""
    rest = logp.scatter(-1, tokens, -torch.inf).logsumexp(-1)
    return tokens, logp.gather(-1, tokens), rest, logp.argmax(-1), logp.gather(-1, written[:, None])[:, 0]


class _Batch:
    """The running rows of one group: ids, mask and positions of the next forward pass, and what each row has so far."""

    def __init__(self, requests: Sequence[GenerateRequest], pad: int, device: torch.device) -> None:
        self.requests = requests
        self.rows = list(range(len(requests)))
        self.tokens: list[list[int]] = [[] for _ in requests]
        self.reason: list[Any] = [None] * len(requests)
        self.draws = [random.Random(r.seed) if r.temperature > 0 else None for r in requests]
        width = max(len(r.prompt) for r in requests)
        ids = torch.full((len(requests), width), pad, dtype=torch.long)
        mask = torch.zeros(len(requests), width, dtype=torch.long)
        for i, request in enumerate(requests):
            ids[i, width - len(request.prompt) :] = torch.tensor(request.prompt)
            mask[i, width - len(request.prompt) :] = 1
        self.ids, self.mask = ids.to(device), mask.to(device)
        self.positions = (self.mask.cumsum(-1) - 1).clamp_min(0)

    def choose(self, logits: Tensor) -> Tensor:
        """The next token of every row of the batch (`logits`: rows x vocabulary)."""
        token = logits.argmax(-1)
        for i, row in enumerate(self.rows):
            if (draw := self.draws[row]) is not None:
                token[i] = sample(logits[i], self.requests[row], draw.random())
        return token

    def select(self, keep: list[int], index: Tensor) -> None:
        """Drop the rows that are not in `keep`."""
        self.rows = [self.rows[i] for i in keep]
        self.mask = self.mask[index]
        self.positions = self.positions[index]

    def extend(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and positions of the next step, one column."""
        self.mask = F.pad(self.mask, (0, 1), value=1)
        self.positions = self.positions[:, -1:] + 1
        return token[:, None], self.positions

    def answers(self, tokenizer: Any) -> list[Generation]:
        texts = tokenizer.batch_decode(self.tokens, skip_special_tokens=True)
        return [
            Generation(tuple(t), text, reason)
            for t, text, reason in zip(self.tokens, texts, self.reason, strict=True)
        ]


def sample(logits: Tensor, request: GenerateRequest, uniform: float) -> int:
    """Draw a token from one row of logits by inverting its cumulative distribution, likeliest token first.

    Two arms that use the same `uniform` draw the same token wherever their distributions agree, so what differs between
    them is the arm and not the dice.
    """
    p, order = torch.softmax(logits.float() / request.temperature, -1).sort(descending=True, stable=True)
    below = p.cumsum(-1)
    kept = int((below - p < request.top_p).sum())  # the token that crosses top_p is kept
    at = torch.searchsorted(below[:kept], uniform * below[kept - 1], right=True)
    return int(order[min(int(at), kept - 1)])


class FP32Head:
    """Logits at chosen positions from FP32 operands, where the architecture's head is a plain linear layer.

    A model that scales or caps its logits is recognised by a probe (its own logits are not `hidden @ W`); its own
    logits are then used, widened to FP32, and `logits_dtype` says so. So are those of a head that is itself quantised.
    """

    def __init__(self, model: Any, quantised: tuple[str, ...]) -> None:
        self._model = model
        self._body = model.get_decoder()
        self._head = model.get_output_embeddings()
        self._weight = self._head.weight.float()
        self._bias = None if getattr(self._head, "bias", None) is None else self._head.bias.float()
        own = any(module is self._head and name in quantised for name, module in model.named_modules())
        self.logits_dtype = "float32" if not own and self._plain() else str(model.dtype).removeprefix("torch.")

    def _plain(self) -> bool:
        ids = torch.arange(1, 9, device=self._weight.device)[None]
        own = self._model(input_ids=ids, use_cache=False).logits.float()
        ours = self._project(self._body(input_ids=ids, use_cache=False).last_hidden_state)
        scale = own.abs().max().clamp_min(1e-6)
        return bool(((own - ours).abs().max() / scale) < 0.02)

    def _project(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden.float(), self._weight, self._bias)

    def __call__(self, ids: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        """Logits (float32, `len(at)` x vocabulary) at the (row, position) pairs `at` of right-padded `ids`."""
        return torch.cat(list(self.slices(ids, mask, at)))

    def slices(self, ids: Tensor, mask: Tensor, at: Tensor) -> Iterator[Tensor]:
        """The same a slice of `at` after the other, so that a large vocabulary does not fill the memory."""
        if self.logits_dtype == "float32":
            hidden = self._body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            chosen = hidden[at[:, 0], at[:, 1]]
            for part in chosen.split(max(1, SLICE_ELEMENTS // self._weight.shape[0])):
                yield self._project(part)
        else:
            logits: Tensor = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            yield logits[at[:, 0], at[:, 1]].float()
