"""The same workload on several devices: data parallel over processes, with torch's collectives between them.

Each worker process is a device: it holds every arm, takes its share of the batch's rows, and after each step gathers
the tokens of all (as a data-parallel server does to stay in step). The time inside the collectives is counted, so that
a bench can say when adding devices stops paying. On processors a worker has its own threads and the backend is gloo:
that shows the mechanics, and the machine's cores are the limit. On accelerators worker r takes device r.

Workers are told what to do over a pipe; clocks are comparable, since `perf_counter` is the system's monotonic clock.
"""

import math
import os
import tempfile
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from evalsuite.errors import CannotRunError
from evalsuite.measure.loads import DoesNotFitError, Load, Opened, Work
from evalsuite.records import Arm, ModelRef, Workload


@dataclass(frozen=True, slots=True)
class Setting:
    """What every worker needs."""

    model: ModelRef
    options: dict[str, Any]
    lengths: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]
    """Numbers of devices that will be used: the workers form a group for each."""
    threads: int
    rendezvous: str


class ParallelRig:
    """See `loads.Rig`. `workload.devices` says how many workers a load uses."""

    def __init__(self, setting: Setting) -> None:
        self.pids: tuple[int, ...] = ()
        """Of the workers."""
        self._folder = tempfile.TemporaryDirectory()
        setting = replace(setting, rendezvous=str(Path(self._folder.name) / "store"))
        context = mp.get_context("spawn")
        self._pipes, self._workers = [], []
        size = max(setting.counts)
        for rank in range(size):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(rank, size, setting, theirs), daemon=True)
            worker.start()
            theirs.close()
            self._pipes.append(ours)
            self._workers.append(worker)
        self.pids = tuple(worker.pid for worker in self._workers if worker.pid is not None)
        try:
            self._ask(size, "ready")
        except BaseException:
            self.close()
            raise

    def open(self, arm: Arm) -> Opened:
        """See `loads.Rig`; every worker loads the arm."""
        opened: Opened = self._ask(len(self._pipes), "open", arm)[0]
        return opened

    def load(self, arm: Arm, workload: Workload) -> Load:
        """See `loads.Rig`; the batch has at least a row for each device."""
        self._ask(workload.devices, "load", arm, workload)
        return _ParallelLoad(self, arm, workload)

    def close(self) -> None:
        """See `loads.Rig`."""
        for pipe in self._pipes:
            try:
                pipe.send(("stop",))
            except OSError:
                continue
        for worker in self._workers:
            worker.join(timeout=5)
            if worker.is_alive():
                worker.kill()
        self._folder.cleanup()

    def _ask(self, count: int, *message: Any) -> list[Any]:
        """What the first `count` workers answer; their exceptions are raised here."""
        for pipe in self._pipes[:count]:
            try:
                pipe.send(message)
            except OSError:
                raise CannotRunError("A worker process ended; see its message above.") from None
        answers = []
        for pipe in self._pipes[:count]:
            try:
                answers.append(pipe.recv())
            except (EOFError, ConnectionError):
                raise CannotRunError("A worker process ended; it may have run out of memory.") from None
        for kind, value in answers:
            if kind == "failed":
                raise value
        return [value for _, value in answers]


class _ParallelLoad:
    """One arm at one point on several devices."""

    def __init__(self, rig: ParallelRig, arm: Arm, workload: Workload) -> None:
        self._rig, self._key = rig, (arm.id, workload)
        self._devices = workload.devices
        self._step_s = 0.0

    def warm(self, seconds: float) -> None:
        """See `loads.Load`; the slowest worker sets the pace."""
        self._step_s = max(self._rig._ask(self._devices, "warm", *self._key, seconds))

    def run(self, seconds: float) -> Work:
        """See `loads.Load`; from the first worker's start to the last one's end."""
        if not self._step_s:
            self.warm(min(seconds, 1.0))
        count = max(1, math.ceil(1.02 * seconds / self._step_s))
        works = self._rig._ask(self._devices, "run", *self._key, count)
        start, end = min(w.start_ns for w in works), max(w.end_ns for w in works)
        return Work(
            start, end, count, sum(w.input_tokens for w in works), sum(w.output_tokens for w in works),
            sum(w.requests for w in works),
            communication=sum(w.communication * w.seconds for w in works) * 1e9 / (end - start) / len(works),
        )  # fmt: skip

    def close(self) -> None:
        """Drop the workers' caches."""
        self._rig._ask(self._devices, "close", *self._key)


def split(batch: int, devices: int, rank: int) -> int:
    """Rows of a batch that device `rank` takes; the first ones take one more where it does not divide."""
    return batch // devices + (rank < batch % devices)


def _work(rank: int, size: int, setting: Setting, pipe: Any) -> None:
    """A worker: answers messages until it is told to stop."""
    import torch.distributed as dist

    from evalsuite.measure.local import LocalRig

    torch.set_num_threads(setting.threads)
    accelerator = torch.accelerator.is_available()
    if accelerator:
        torch.accelerator.set_device_index(rank)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        store = dist.FileStore(setting.rendezvous, size)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
        groups = {count: dist.new_group(list(range(count))) for count in setting.counts}
        rig = LocalRig(setting.model, setting.options, setting.lengths)
    except Exception as error:  # noqa: BLE001 - whatever a worker meets is raised by the driver
        pipe.recv()
        pipe.send(("failed", _carried(error)))
        return
    loads: dict[tuple[str, Workload], _Stepped] = {}
    while True:
        try:
            verb, *given = pipe.recv()
        except EOFError:
            return
        try:
            match verb:
                case "ready":
                    answer: Any = None
                case "open":
                    answer = rig.open(given[0])
                case "load":
                    arm, workload = given
                    share = split(workload.batch, workload.devices, rank)
                    own = workload.model_copy(update={"batch": share})
                    most = split(workload.batch, workload.devices, 0)
                    gather = _Gather(groups[workload.devices], workload.devices, most)
                    loads[arm.id, workload], answer = _Stepped(rig.load(arm, own), gather), None
                case "warm":
                    answer = loads[given[0], given[1]].warm(given[2])
                case "run":
                    answer = loads[given[0], given[1]].run(given[2])
                case "close":
                    loads.pop((given[0], given[1])).close()
                    answer = None
                case _:
                    rig.close()
                    dist.destroy_process_group()
                    return
            pipe.send(("done", answer))
        except Exception as error:  # noqa: BLE001 - as above
            pipe.send(("failed", _carried(error)))


def _carried(error: Exception) -> Exception:
    """An exception that survives the pipe."""
    if isinstance(error, CannotRunError | DoesNotFitError):
        return type(error)(str(error))
    return RuntimeError("".join(traceback.format_exception(error)))


class _Gather:
    """Tokens of all devices after a step, and the time that it takes."""

    def __init__(self, group: Any, devices: int, rows: int) -> None:
        self._group, self.seconds = group, 0.0
        self._own = torch.zeros(rows, dtype=torch.int64)
        self._all = [torch.zeros(rows, dtype=torch.int64) for _ in range(devices)]

    def __call__(self) -> None:
        if len(self._all) == 1:
            return
        import torch.distributed as dist

        began = time.perf_counter()
        dist.all_gather(self._all, self._own, group=self._group)
        self.seconds += time.perf_counter() - began


class _Stepped:
    """A worker's load, in step with the others."""

    def __init__(self, load: Any, gather: _Gather) -> None:
        self._load, self._gather = load, gather

    def warm(self, seconds: float) -> float:
        """Warm up alone (nobody waits for others here), then some steps together; seconds a step."""
        self._load.warm(seconds)
        began = time.perf_counter()
        with torch.no_grad():
            for _ in range(2):
                self._load.step()
                self._gather()
        return (time.perf_counter() - began) / 2

    def run(self, count: int) -> Work:
        """So many steps, all devices in step."""
        self._gather()  # all begin together
        self._gather.seconds = 0.0
        start = time.perf_counter_ns()
        with torch.no_grad():
            for _ in range(count):
                self._load.step()
                self._gather()
        end = time.perf_counter_ns()
        read, written, requests = self._load.counted(count)
        share = self._gather.seconds * 1e9 / max(end - start, 1)
        return Work(start, end, count, read, written, requests, communication=share)

    def close(self) -> None:
        """Drop the cache."""
        self._load.close()
