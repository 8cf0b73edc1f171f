"""The rig over the embedded engine: arms side by side in one process, prefill and decode in windows of their own.

A decode window steps behind prompts that are in the cache already, and goes back behind them after `output_tokens`
steps, so that the depth stays what it says. Nothing is shared between rows. The device is synchronised at the edges of
a window only: there the number of iterations is fixed beforehand, by the pace of the warm-up.
"""

import gc
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from evalsuite.engines import Decoding, GenerateRequest, Session
from evalsuite.engines.local import LocalEngine
from evalsuite.errors import CannotRunError
from evalsuite.groups import Size, cut
from evalsuite.measure import host, roofline
from evalsuite.measure.loads import DoesNotFitError, Load, Opened, Work
from evalsuite.measure.prompts import Corpus
from evalsuite.precision import devices, native, weight_only
from evalsuite.records import Arm, Execution, Memory, ModelRef, Realised, Recipe, Workload


class LocalRig:
    """See `loads.Rig`. `lengths`: prompt and answer tokens that `replay` repeats."""

    runner = "static"

    def __init__(self, model: ModelRef, options: dict[str, Any], lengths: tuple[tuple[int, int], ...] = ()) -> None:
        self._model, self._options, self._lengths = model, options, lengths
        self._stack = ExitStack()
        self._sessions: dict[str, Session] = {}
        self._loads: dict[tuple[str, Workload], Load] = {}
        first = self._engine(model)
        self.model, self.max_length = first.model, first.max_length
        self.config = first.config
        self._corpus, self._tokenizer = Corpus(), first.tokenizer

    def open(self, arm: Arm) -> Opened:
        """See `loads.Rig`."""
        began = time.perf_counter()
        engine = self._engine(arm.model)
        reason = engine.cannot_run(arm)
        if reason is not None:
            raise CannotRunError(f"{reason[0].upper()}{reason[1:]}.")
        arm, _ = engine.resolve(arm)
        why = emulated_because(arm.recipe)
        if why is not None:
            return Opened("emulated", None, self._memory(arm.recipe, None), 0.0, ("emulated_speed",), arm)
        before = held_bytes()
        session = self._stack.enter_context(engine.open(arm))
        self._sessions[arm.id] = session
        execution, reasons = execution_of(session.realised)
        took = time.perf_counter() - began
        return Opened(execution, session.realised, self._memory(arm.recipe, held_bytes() - before), took, reasons, arm)

    def load(self, arm: Arm, workload: Workload) -> Load:
        """See `loads.Rig`."""
        key = arm.id, workload
        if key not in self._loads:
            session = self._sessions[arm.id]
            if workload.runner == "replay":
                rows = self.prompts([n for n, _ in self._lengths])
                self._loads[key] = Replay(session, rows, [n for _, n in self._lengths])
            else:
                rows = self.prompts([workload.input_tokens] * workload.batch)
                kind = Prefill if workload.phase == "prefill" else Decode
                self._loads[key] = kind(session, rows, workload)
        return self._loads[key]

    def prompts(self, lengths: Sequence[int]) -> list[tuple[int, ...]]:
        """Real text of these lengths, in tokens; the same for every arm."""
        encode = partial(self._tokenizer.encode, add_special_tokens=False)
        return [tuple(self._corpus.tokens(number, length, encode)) for number, length in enumerate(lengths)]

    def close(self) -> None:
        """See `loads.Rig`."""
        self._loads.clear()
        self._sessions.clear()
        self._stack.close()

    def _engine(self, model: ModelRef) -> LocalEngine:
        """Each arm has a model of its own, so that all are loaded at once."""
        return LocalEngine(model, self._options)

    def _memory(self, recipe: Recipe, resident: int | None) -> Memory | None:
        if not roofline.is_dense(self.config):
            return None
        shape = roofline.shape_of(self.config)
        embedding = 0 if getattr(self.config, "tie_word_embeddings", False) else self.config.vocab_size * 2
        stored = roofline.weight_bytes(shape, recipe) + embedding * self.config.hidden_size
        return Memory(weights_bytes=round(stored), resident_bytes=resident,
                      kv_bytes_per_token=round(roofline.kv_bytes(shape, recipe)))  # fmt: skip


def emulated_because(recipe: Recipe) -> str | None:
    """Why a recipe has no native arithmetic on the device that models run on; None where it has."""
    if recipe.weights is None and recipe.kv_cache is None:
        return None
    if devices.best() == "cpu" and weight_only.takes(recipe):
        return weight_only.works()
    return native.cannot_run(recipe, devices.present(devices.best()))


def execution_of(realised: Realised) -> tuple[Execution, tuple[str, ...]]:
    """What a session's report means for its speed."""
    if realised.execution == "emulated":
        return "emulated", ("emulated_speed",)
    if realised.execution == "native-unproven":
        return "emulated", ("kernel_unproven",)
    # BF16 operands widened and multiplied in FP32, INT8 weights multiplied in BF16: stored in one format, computed in
    # another.
    mixed = "accumulate" in realised.kernel or weight_only.KERNEL in realised.kernel
    return ("native_mixed" if mixed else "native"), ()


@contextmanager
def _fitting() -> Iterator[None]:
    """DoesNotFitError for every way in which torch says that memory is short."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        short = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if short:
            raise DoesNotFitError((str(error) or "out of memory").splitlines()[0]) from None
        raise


def held_bytes() -> int:
    """Bytes of all tensors of this process, each storage once; on an accelerator, of its allocator."""
    if torch.accelerator.is_available():
        return torch.accelerator.memory_allocated()
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor):
            with suppress(RuntimeError):  # a tensor without storage
                storage = thing.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def synchronize() -> None:
    """Wait for the accelerator, if there is one."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


class _Steps:
    """A load that repeats one step. Subclasses say what a step is and what it counts."""

    def __init__(self, session: Session, rows: list[tuple[int, ...]], workload: Workload) -> None:
        self._session, self._workload = session, workload
        self._requests = [GenerateRequest(row, workload.output_tokens or 1, ()) for row in rows]
        self._step_s: float | None = None

    def step(self) -> None:
        """One iteration."""
        raise NotImplementedError

    def counted(self, iterations: int) -> tuple[int, int, int]:
        """Prompt tokens, generated tokens, and requests of so many iterations."""
        raise NotImplementedError

    def warm(self, seconds: float) -> None:
        """See `loads.Load`; also learns the pace."""
        with torch.no_grad(), _fitting():
            done, began = 0, time.perf_counter()
            while done < 2 or time.perf_counter() - began < seconds:
                self.step()
                if done % 8 == 0:
                    synchronize()  # else the host runs ahead of the device
                done += 1
            synchronize()
        self._step_s = (time.perf_counter() - began) / done

    def run(self, seconds: float) -> Work:
        """See `loads.Load`."""
        if self._step_s is None:
            self.warm(min(seconds, 1.0))
        with torch.no_grad(), _fitting(), _Peak() as peak:
            synchronize()
            start = time.perf_counter_ns()
            count = self._repeated(seconds)
            synchronize()
            end = time.perf_counter_ns()
        read, written, requests = self.counted(count)
        return Work(start, end, count, read, written, requests, peak_bytes=peak.bytes)

    def _repeated(self, seconds: float) -> int:
        """Iterations for so long: by the clock on processors; on accelerators, which run behind the host, by count."""
        if torch.accelerator.is_available():
            count = max(1, math.ceil(1.02 * seconds / (self._step_s or seconds)))
            for _ in range(count):
                self.step()
            return count
        count, until = 0, time.perf_counter() + seconds
        while not count or time.perf_counter() < until:
            self.step()
            count += 1
        return count

    def close(self) -> None:
        """See `loads.Load`."""


class Prefill(_Steps):
    """Whole prompts, with the logits of their last tokens; no sampling, no tokenising."""

    def step(self) -> None:
        """Read all prompts."""
        self._session.decoding(self._requests).next(None)

    def counted(self, iterations: int) -> tuple[int, int, int]:
        """Prompt tokens."""
        rows = len(self._requests)
        return iterations * rows * self._workload.input_tokens, 0, iterations * rows


class Decode(_Steps):
    """One token a row and step, chosen on the device; back behind the prompts after `output_tokens` steps."""

    _decoding: Decoding | None = None
    _token: Any = None
    _first: Any = None
    """The token behind the prompts: it is not generated anew after each rewind."""
    _made = 0

    def step(self) -> None:
        """One token a row."""
        if self._decoding is None:
            self._decoding = self._session.decoding(self._requests)
            self._token = self._first = self._decoding.next(None).argmax(-1)
        if self._made == self._workload.output_tokens:
            self._decoding.rewind()
            self._made, self._token = 0, self._first
        self._token = self._decoding.next(self._token).argmax(-1)
        self._made += 1

    def warm(self, seconds: float) -> None:
        """As above, with the prompts in the cache before anything is timed."""
        if self._decoding is None:
            with torch.no_grad():
                self.step()
        super().warm(seconds)

    def counted(self, iterations: int) -> tuple[int, int, int]:
        """Generated tokens."""
        return 0, iterations * len(self._requests), 0

    def close(self) -> None:
        """Drop the cache."""
        self._decoding = self._token = self._first = None
        self._made = 0


class Replay(_Steps):
    """A list of (prompt, answer) lengths through the engine's own `generate`, in its groups; every answer as long as
    told. The same list for every arm, so that speed is not mixed up with length."""

    def __init__(self, session: Session, rows: list[tuple[int, ...]], lengths: list[int]) -> None:
        self._session, self._step_s = session, None
        asked = [GenerateRequest(r, n, (), ignore_eos=True) for r, n in zip(rows, lengths, strict=True)]
        sizes = [Size(1, len(r.prompt) + r.max_new) for r in asked]
        self._groups = [[asked[i] for i in group] for group in cut(sizes)]
        self._counts = sum(len(r) for r in rows), sum(lengths), len(rows)

    def step(self) -> None:
        """The whole list."""
        for group in self._groups:
            self._session.generate(group)

    def counted(self, iterations: int) -> tuple[int, int, int]:
        """Prompt tokens, answer tokens, answers."""
        read, written, requests = (iterations * count for count in self._counts)
        return read, written, requests


class _Peak:
    """Most memory used above what was in use at the start."""

    bytes: int | None = None

    def __enter__(self) -> "_Peak":
        self._accelerator = torch.accelerator.is_available()
        if self._accelerator:
            torch.accelerator.reset_peak_memory_stats()
            self._before: int | None = torch.accelerator.memory_allocated()
        else:
            self._before = host.resident_bytes() if host.reset_peak() else None
        return self

    def __exit__(self, *_: object) -> None:
        after = torch.accelerator.max_memory_allocated() if self._accelerator else host.peak_bytes()
        if self._before is not None and after is not None:
            self.bytes = max(0, after - self._before)
