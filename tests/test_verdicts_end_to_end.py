"""Whole runs of the embedded model whose verdict is known in advance, down to the exit code (`make test-long`)."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalsuite import resources
from evalsuite.precision.stress import plant
from evalsuite.store import Store, file_sha256

pytestmark = pytest.mark.long
SUITE = """\
schema: 1
name: known
model: {model}
arms: [bf16, {{id: again, recipe: bf16}}, fp8-ue8m0, int8-row]
baseline: bf16
tasks:
  - {{task: ref_counting, modes: [thinking], max_gen_toks: 160}}
  - {{task: ref_boolean, modes: [thinking], max_gen_toks: 200}}
decision: {{margin: 0.05}}
divergence: {{tokens: 4000}}
limit: 150
"""


def evalsuite(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "evalsuite", *map(str, args)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def stressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of one run over a copy of the model with outlier channels; BF16 computes the same as before."""
    folder = tmp_path_factory.mktemp("stressed")
    plant(resources.reference_model(), "outlier-channels", 256.0, folder / "model")
    (folder / "known.yaml").write_text(SUITE.format(model=folder / "model"))
    done = evalsuite("run", folder / "known.yaml", "--results", folder / "results")
    assert done.returncode == 0, done.stderr
    return folder / "results"


def verdicts(results: Path) -> dict[str, str]:
    from evalsuite.workflow import load_run

    run = load_run(Store(results).run().path)
    return {decision.pooled.subject.candidate: decision.verdict for decision in run.decisions()}


def test_bf16_against_bf16_is_neither_unsafe_nor_invalid(stressed: Path):
    assert verdicts(stressed)["again"] in ("SAFE", "INCONCLUSIVE")


def test_outlier_channels_make_int8_unsafe_and_fp8_not(stressed: Path):
    found = verdicts(stressed)

    assert found["int8-row"] == "UNSAFE"
    assert found["fp8-ue8m0"] != "UNSAFE"
    assert evalsuite("verdict", "--results", stressed).returncode == 10  # the worst of all


def test_a_loss_planted_in_stored_answers_is_unsafe(stressed: Path, tmp_path: Path):
    """Right answers of one arm made wrong on a tenth of all items; hashes kept right, as a real run would have them."""
    import json
    import shutil

    results = tmp_path / "results"
    shutil.copytree(stressed, results)
    run = Store(results).run()
    manifest = json.loads((run.path / "manifest.json").read_text())
    for key in [key for key in manifest["cells"] if key.startswith("again.")]:
        file = run.path / "cells" / key / "samples.parquet"
        table = pq.read_table(file)
        frame: pd.DataFrame = table.to_pandas()
        wrong = frame.index[frame["correct"]][: len(frame) // 10]
        frame.loc[wrong, "correct"] = False
        pq.write_table(pa.Table.from_pandas(frame, schema=table.schema, preserve_index=False), file)
        manifest["cells"][key]["samples_sha256"] = file_sha256(file)
    (run.path / "manifest.json").write_text(json.dumps(manifest))

    assert verdicts(results)["again"] == "UNSAFE"
    assert evalsuite("verdict", "--results", results).returncode == 10
