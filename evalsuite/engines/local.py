"""The embedded engine: transformers in this process.

One group is one batch. Generation keeps its own loop: prompts are padded on the left once, rows that finish leave the
batch (none enters), and stop strings are looked at only when the newest token can end one. Scoring takes hidden states
at the needed positions only, the output head on FP32 operands and an FP32 log-softmax: lm-eval's stock path takes the
log-softmax in the model's own type, and its BF16 log-likelihoods are multiples of 1/16 or coarser.

Weights are loaded once, in BF16 (the master); every arm is a `precision.apply` context over that one model.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evalsuite.engines import GenerateRequest, Generation, Score, ScoreRequest
from evalsuite.engines.attention import use_fp32_attention
from evalsuite.engines.models import eos_ids, locate, weights_sha256
from evalsuite.errors import CannotRunError
from evalsuite.precision import apply
from evalsuite.precision.emulate import best_kernel
from evalsuite.records import Arm, ModelRef, Realised

COMPACT_AT = 0.75
"""The batch is compacted when this share of its rows or less is still running: less copying than at every exit."""


class LocalEngine:
    """Engine over `AutoModelForCausalLM`. Options: `threads`, `gemm_mode` (`fast` or `exact`), `execution` (`auto`,
    the default, `native` or `emulated`; see `precision.apply`)."""

    def __init__(self, model: ModelRef, options: dict[str, Any]) -> None:
        from transformers import AutoConfig, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._folder = locate(model)
        self._options = options
        if options.get("threads"):
            torch.set_num_threads(int(options["threads"]))
        self.model = model.model_copy(update={"weights_sha256": weights_sha256(self._folder)})
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(self._folder)
            config = AutoConfig.from_pretrained(self._folder).get_text_config()
        except (OSError, ValueError) as error:
            raise CannotRunError(f"{self._folder}: {str(error).splitlines()[0]}") from None
        self.eos = eos_ids(self._folder, self.tokenizer)
        self.max_length: int = config.max_position_embeddings
        self.device = torch.accelerator.current_accelerator() or torch.device("cpu")

    def cannot_run(self, arm: Arm) -> str | None:
        """Why this engine cannot run the arm: another model's weights, or nothing."""
        if arm.model.id != self.model.id or arm.model.revision != self.model.revision:
            return f"arm '{arm.id}' names another model ('{arm.model.id}') than the run ('{self.model.id}')"
        return None

    @cached_property
    def _master(self) -> Any:
        from transformers import AutoModelForCausalLM

        try:
            model = AutoModelForCausalLM.from_pretrained(self._folder, dtype=torch.bfloat16)
        except (OSError, ValueError, RuntimeError) as error:
            raise CannotRunError(f"{self._folder}: weights cannot be loaded: {str(error).splitlines()[0]}") from None
        slow = self.device.type == "cpu" and best_kernel(self.device) != "linear-bf16"
        if slow and model.config._attn_implementation == "sdpa":
            use_fp32_attention(model)
        return model.to(self.device).eval().requires_grad_(False)

    @contextmanager
    def open(self, arm: Arm) -> "Iterator[LocalSession]":
        """Load the arm over the BF16 master; the master is restored exactly when the context ends."""
        mode = self._options.get("gemm_mode", "fast")
        execution = self._options.get("execution", "auto")
        # Not inference_mode: its tensors have no version, which the shared quantisation of q/k/v and gate/up asks for.
        with apply(self._master, arm.recipe, execution, mode) as applied, torch.no_grad():
            yield LocalSession(self, self._master, applied.realised)


class LocalSession:
    """One arm, loaded; see `engines.Session`."""

    def __init__(self, engine: LocalEngine, model: Any, realised: Realised) -> None:
        self._model = model
        self._tokenizer = engine.tokenizer
        self._eos = torch.tensor(engine.eos, device=engine.device)
        self._device = engine.device
        self._head = FP32Head(model)
        self._enders: dict[str, frozenset[int]] = {}
        attention = model.config._attn_implementation
        self.realised = realised.model_copy(
            update={"logits_dtype": self._head.logits_dtype, "kernel": f"{realised.kernel}, {attention}"}
        )

    # ------------------------------------------------------------------------------------------------- generation

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Greedy continuation of one group, in order."""
        from transformers import DynamicCache

        batch = _Batch(requests, self._tokenizer.pad_token_id or 0, self._device)
        cache = DynamicCache(config=self._model.config)
        ids, positions = batch.ids, batch.positions
        while batch.rows:
            out = self._model(
                input_ids=ids, attention_mask=batch.mask, position_ids=positions, past_key_values=cache,
                use_cache=True, logits_to_keep=1,
            )  # fmt: skip
            token = out.logits[:, -1].argmax(-1)
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
        rows = [(*r.context, *r.continuation[:-1]) for r in requests]
        width = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        where: list[tuple[int, int]] = []
        for i, (row, request) in enumerate(zip(rows, requests, strict=True)):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
            where += [(i, len(request.context) - 1 + j) for j in range(len(request.continuation))]
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


class _Batch:
    """The running rows of one group: ids, mask and positions of the next forward pass, and what each row has so far."""

    def __init__(self, requests: Sequence[GenerateRequest], pad: int, device: torch.device) -> None:
        self.requests = requests
        self.rows = list(range(len(requests)))
        self.tokens: list[list[int]] = [[] for _ in requests]
        self.reason: list[Any] = [None] * len(requests)
        width = max(len(r.prompt) for r in requests)
        ids = torch.full((len(requests), width), pad, dtype=torch.long)
        mask = torch.zeros(len(requests), width, dtype=torch.long)
        for i, request in enumerate(requests):
            ids[i, width - len(request.prompt) :] = torch.tensor(request.prompt)
            mask[i, width - len(request.prompt) :] = 1
        self.ids, self.mask = ids.to(device), mask.to(device)
        self.positions = (self.mask.cumsum(-1) - 1).clamp_min(0)

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


class FP32Head:
    """Logits at chosen positions from FP32 operands, where the architecture's head is a plain linear layer.

    A model that scales or caps its logits is recognised by a probe (its own logits are not `hidden @ W`); its own
    logits are then used, widened to FP32, and `logits_dtype` says so.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._body = model.get_decoder()
        self._head = model.get_output_embeddings()
        self._weight = self._head.weight.float()
        self._bias = None if getattr(self._head, "bias", None) is None else self._head.bias.float()
        self.logits_dtype = "float32" if self._plain() else str(model.dtype).removeprefix("torch.")

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
        if self.logits_dtype == "float32":
            hidden = self._body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            return self._project(hidden[at[:, 0], at[:, 1]])
        logits: Tensor = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits[at[:, 0], at[:, 1]].float()
