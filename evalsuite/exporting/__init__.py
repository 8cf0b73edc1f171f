"""Our benches as other programs' files: pure functions `Bench -> Exported`, no torch, nothing measured here.

    figures.py       what of a bench may leave the house, as numbers (start here)
    vllm_serve.py    what `vllm bench serve --append-result` writes
    llama_bench.py   what `llama-bench -o json` and `-o md` write
    ml_energy.py     like a task of ML.ENERGY's leaderboard
    tables.py        CSV, and a Prometheus textfile

A new format is one function and one line in `EXPORTS`.
"""

from collections.abc import Callable

from evalsuite.exporting.figures import Exported
from evalsuite.exporting.llama_bench import write_json, write_markdown
from evalsuite.exporting.ml_energy import write_ml_energy
from evalsuite.exporting.tables import write_csv, write_prometheus
from evalsuite.exporting.vllm_serve import write_vllm_serve
from evalsuite.records import Bench

EXPORTS: dict[str, Callable[[Bench], Exported]] = {
    "vllm-serve": write_vllm_serve,
    "llama-bench": write_json,
    "llama-bench-md": write_markdown,
    "ml-energy": write_ml_energy,
    "csv": write_csv,
    "prometheus": write_prometheus,
}
"""Format -> writer. A writer raises UsageError where nothing of the bench fits its format."""

__all__ = ["EXPORTS", "Exported"]
