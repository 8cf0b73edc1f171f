"""The benchmarks of formats and arms on a small size: what their full runs claim, quickly."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def script(name):
    """A benchmark as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_noise_table_of_the_specification_is_reproduced_on_a_small_size():
    rows = script("sqnr").measure(rows=96)

    assert len(rows) == 33
    # Student's t with so few elements has another largest one: its full size agrees (results/reference/sqnr.json).
    assert [row for row in rows if not row["agrees"] and row["data"] != "student-t3"] == []


def test_the_frozen_tokens_have_their_hash():
    ids, calibrating = script("arms").frozen()

    assert tuple(ids.shape) == (24, 192)
    assert len(calibrating) == 8


def test_arms_of_a_third_party_checkpoint_are_ordered_as_their_noise(data):
    arms = script("arms")
    if not (data / "checkpoints" / "babyllama-tok105").is_dir():
        pytest.skip(f"no checkpoints/babyllama-tok105 in {data}")
    keys = ("bf16", "int8-row", "w8a16-ue8m0", "fp8-ue8m0", "fp8-e4m3-tensor-static", "fp8-e5m2", "mxfp4")
    rows = {row["arm"]: row for row in arms.measure(data, keys)}

    assert arms.out_of_order([rows[key] for key in keys]) == []
    ladder = ("int8-row", "w8a16-ue8m0", "fp8-ue8m0", "fp8-e5m2", "mxfp4")
    assert [rows[key]["kl"] for key in ladder] == sorted(rows[key]["kl"] for key in ladder)
    assert rows["bf16"]["kl"] == 0
    assert 31 < rows["fp8-ue8m0"]["weight_db"] < 32
    assert not any(row["nonfinite_blocks"] for row in rows.values())


def test_a_pair_out_of_order_is_found():
    rows = [{"arm": "fp8-e4m3", "gemm_db": 31.0, "kl": 0.5}, {"arm": "mxfp4", "gemm_db": 18.0, "kl": 0.4}]

    assert script("arms").out_of_order(rows) == [("mxfp4", "fp8-e4m3")]
