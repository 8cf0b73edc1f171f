"""Speed and energy results of other programs as `ForeignSpeed` rows: shown beside our own, never mixed with them.

    fields.py         values of a file that somebody else wrote, checked one by one
    vllm_serve.py     `vllm bench serve`       steady.py  the steady state of a detailed result
    vllm_offline.py   `vllm bench throughput`, `vllm bench latency`
    llama_bench.py    `llama-bench -o json|jsonl`
    optimum.py        optimum-benchmark
    ml_energy.py      ML.ENERGY: results of a run, and tasks of its leaderboard
    inferencex.py     InferenceX `agg_*.json`
    trtllm.py         `trtllm-bench --report_json`
    codecarbon.py     `emissions.csv`

A new format is one module with a function `Source -> rows` and one line in `SPEEDS`.
"""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

from evalsuite.errors import UsageError
from evalsuite.importing.speeds.codecarbon import read_codecarbon
from evalsuite.importing.speeds.fields import Source, one_line, read_source
from evalsuite.importing.speeds.inferencex import read_inferencex
from evalsuite.importing.speeds.llama_bench import read_llama_bench
from evalsuite.importing.speeds.ml_energy import read_ml_energy
from evalsuite.importing.speeds.optimum import read_optimum
from evalsuite.importing.speeds.trtllm import read_trtllm
from evalsuite.importing.speeds.vllm_offline import read_latency, read_throughput
from evalsuite.importing.speeds.vllm_serve import read_vllm_serve
from evalsuite.records import ForeignFile, ForeignSpeed

SPEEDS: dict[str, Callable[[Source], list[ForeignSpeed]]] = {
    "vllm-serve": read_vllm_serve,
    "vllm-throughput": read_throughput,
    "vllm-latency": read_latency,
    "llama-bench": read_llama_bench,
    "optimum-benchmark": read_optimum,
    "ml-energy": read_ml_energy,
    "inferencex": read_inferencex,
    "trtllm-bench": read_trtllm,
    "codecarbon": read_codecarbon,
}
"""Format -> reader of one of its files. A reader gives one row or more, or a UsageError."""


def read_speeds(kind: str, path: Path, command: str | None = None) -> ForeignFile:
    """A file of a format of `SPEEDS` as a document for the store.

    Raises:
        UsageError: the file is not of that format, or a value in it is wrong.
        CannotRunError: it cannot be read.
    """
    source = read_source(path)
    rows = SPEEDS[kind](source)
    if not rows:
        raise UsageError(f"{path}: nothing in this file was measured.")
    return ForeignFile(
        format=kind, file_name=one_line(path.name), file_sha256=source.sha256, rows=tuple(rows), command=command,
        imported=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


__all__ = ["SPEEDS", "Source", "read_speeds"]
