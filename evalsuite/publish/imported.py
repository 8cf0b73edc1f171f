"""Results of other programs, as the table at the foot of the throughput page: beside ours, never mixed with them."""

from collections.abc import Sequence
from typing import NamedTuple

from evalsuite.publish import text
from evalsuite.publish.benches import spelled
from evalsuite.records import ForeignFile, ForeignSpeed

SHOWN = 200
"""Rows in the page; the CSV has them all."""
NOT_COMPARED = "These were measured by other programs, by their own rules; they are not compared with ours."


class Imported(NamedTuple):
    """One row of the table."""

    row: ForeignSpeed
    source: str
    workload: str
    speed: str
    latency: str
    energy: str
    reasons: tuple[tuple[str, str, bool], ...]


def rows(files: Sequence[ForeignFile]) -> list[Imported]:
    """All rows of all files, oldest import first."""
    return [_row(row) for file in files for row in file.rows]


def _row(row: ForeignSpeed) -> Imported:
    version = row.source_version or (row.source_commit or "")[:8]
    return Imported(
        row, f"{row.source_tool} {version}".strip(), _workload(row), _speed(row), _latency(row), _energy(row),
        spelled(row.reasons),
    )  # fmt: skip


def _workload(row: ForeignSpeed) -> str:
    own = row.workload
    named = (("in", own.input_tokens), ("out", own.output_tokens), ("deep", own.depth), ("in flight", own.batch),
             ("requests", own.requests), ("devices", own.devices))  # fmt: skip
    return ", ".join(f"{value:,.6g} {name}" for name, value in named if value is not None)


def _speed(row: ForeignSpeed) -> str:
    own = row.throughput
    named = (("output tok/s", own.output_tok_s), ("decode tok/s", own.decode_tok_s),
             ("prefill tok/s", own.prefill_tok_s), ("tok/s in and out", own.total_tok_s),
             ("requests/s", own.requests_s))  # fmt: skip
    said = ", ".join(f"{text.amount(value)} {name}" for name, value in named if value is not None)
    return f"{said}{' a device' if said and own.per_device else ''}"


def _latency(row: ForeignSpeed) -> str:
    parts = []
    for kind, stats in row.latency.items():
        pick = next((name for name in ("p50", "mean") if name in stats), None)
        if pick is not None:
            parts.append(f"{kind.removesuffix('_s').upper()} {pick} {text.amount(1000 * stats[pick])} ms")
    return ", ".join(parts)


def _energy(row: ForeignSpeed) -> str:
    """Every energy with what it is: three kinds never share a word."""
    parts = []
    for one in row.energy:
        named = (("J an output token", one.j_per_output_token), ("J a token", one.j_per_total_token),
                 ("J a request", one.j_per_request), ("J in all", one.energy_j), ("W", one.power_w))  # fmt: skip
        value = next((f"{text.amount(v)} {name}" for name, v in named if v is not None), None)
        if value is not None:
            parts.append(f"measured ({one.scope}, {one.quality}): {value}")
    parts += [f"{guess.provenance.replace('_', ' ')} ({guess.method}): {text.amount(guess.energy_j)} J"
              for guess in row.energy_estimate]  # fmt: skip
    if row.provisioned_power is not None:
        parts += [f"provisioned: {text.amount(value)} tok/s a MW ({key})"
                  for key, value in row.provisioned_power.tokens_per_s_per_mw.items()]  # fmt: skip
    return "; ".join(parts)
