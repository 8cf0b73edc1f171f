"""The benchmark for a machine with a chip: rehearsed on the CPU, refused where there is no device."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "native.py"


def run(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_it_refuses_where_there_is_no_device():
    if torch.accelerator.is_available():
        pytest.skip("there is one")
    done = run("--device", "cuda")

    assert done.returncode == 3
    assert "Device 'cuda' is not there" in done.stderr


def test_a_rehearsal_is_never_written_among_the_results(tmp_path: Path):
    target = ROOT / "results" / "native" / "rehearsal.json"
    done = run("--kernel", "reference", "--out", target)

    assert done.returncode == 2
    assert not target.exists()


@pytest.mark.long
def test_a_rehearsal_runs_end_to_end_and_says_that_it_is_none_of_hardware(tmp_path: Path):
    done = run("--kernel", "reference", "--out", tmp_path / "rehearsal.json")
    document = json.loads((tmp_path / "rehearsal.json").read_text())

    assert done.returncode == 0, done.stderr
    assert document["hardware"] is False
    assert "no hardware result" in document["note"]
    assert document["times"] is None
    assert not any(arm["native"] for arm in document["arms"].values())
    assert {row["tokens"] for row in document["arms"]["fp8-ue8m0"]["products"]} == {1, 3, 4, 5, 127, 128, 129}
    assert document["model"]["fp8-ue8m0"]["faults"] == []
