"""codecarbon's `emissions.csv`: energy of runs, without any speed.

The file does not say how the processor's energy came about (its counters, or a share of a data sheet's watts), so
`cpu_energy` is of unknown provenance; `ram_energy` is always modelled; `gpu_energy` is read from counters. Their sum,
`energy_consumed`, mixes all three and is not read. A run that was written several times counts once, at its last line.
"""

import csv
import io
from typing import Any

from evalsuite.errors import UsageError
from evalsuite.importing.speeds.fields import Fields, Source, shown
from evalsuite.records import ForeignEnergy, ForeignEstimate, ForeignSpeed, ForeignWorkload

TOOL = "codecarbon"
KWH_J = 3.6e6
NUMBERS = ("duration", "cpu_energy", "gpu_energy", "ram_energy", "gpu_count")
SHORTEST_S = 30.0


def read_codecarbon(source: Source) -> list[ForeignSpeed]:
    """One row a run."""
    return [_row(fields, i) for i, fields in enumerate(_runs(source))]


def _runs(source: Source) -> list[Fields]:
    """The last line of every run, in the order of their first lines."""
    runs: dict[str, Fields] = {}
    try:
        reader = csv.DictReader(io.StringIO(source.text, newline=""))
        head = reader.fieldnames or []
        missing = [key for key in ("duration", "cpu_energy", "gpu_energy", "ram_energy") if key not in head]
        if missing:
            raise UsageError(f"{source.path}: not an emissions.csv of codecarbon: missing {', '.join(missing)} in "
                             "the first line.")  # fmt: skip
        for line in reader:
            if None in line or None in line.values():
                raise UsageError(f"{source.path}:{reader.line_num}: not as many values as the first line has keys.")
            where = f"line {reader.line_num}"
            data = {key: _value(source, where, key, text) for key, text in line.items()}
            runs[str(data.get("run_id") or where)] = Fields(source, data, where)
    except csv.Error as error:
        raise UsageError(f"{source.path}: not CSV ({error}).") from None
    return list(runs.values())


def _value(source: Source, where: str, key: str, text: str) -> Any:
    if key not in NUMBERS:
        return text
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{source.path}: {where}.{key}: expected a number, found {shown(text)}.") from None


def _row(run: Fields, index: int) -> ForeignSpeed:
    duration, devices = run.figure("duration"), run.count("gpu_count")
    gpu = None if not devices and not run.number("gpu_energy") else run.figure("gpu_energy", KWH_J)
    cpu, ram = run.figure("cpu_energy", KWH_J), run.figure("ram_energy", KWH_J)
    quality = "L3-" if (duration or 0) >= SHORTEST_S else "L1"
    energy = () if gpu is None else (
        ForeignEnergy(scope="gpu_board", method="codecarbon.gpu_counter", quality=quality, devices=devices or None,
                      energy_j=gpu),)  # fmt: skip
    guesses = []
    if cpu is not None:
        guesses.append(ForeignEstimate(provenance="imported_unknown", scope="cpu_package", method=TOOL, energy_j=cpu))
    if ram is not None:
        guesses.append(ForeignEstimate(provenance="modelled", scope="dram", method=TOOL, energy_j=ram))
    mode = run.text("tracking_mode")
    return ForeignSpeed(
        **run.row(index, TOOL), source_version=run.text("codecarbon_version"), measured_at=run.text("timestamp"),
        label=run.text("project_name"), hardware=run.text("gpu_model") or run.text("cpu_model"), window="whole_run",
        duration_s=duration, workload=ForeignWorkload(devices=devices or None), energy=energy,
        energy_estimate=tuple(guesses), reasons=() if energy else ("no_meter",),
        notes=("no tokens were counted", *([f"tracking mode {mode}"] if mode else []), *run.notes),
    )  # fmt: skip
