"""The benchmark of the estimator: its arrays are the judge's documents, and its stored results hold what is claimed."""

import importlib.util
import json
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("estimator", ROOT / "benchmarks" / "estimator.py")
estimator = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(estimator)


def test_whole_documents_give_the_ratios_of_the_arrays():
    made = estimator.simulate(-0.05, estimator.places(6, sequential=False), 3, np.random.default_rng(0))

    assert estimator.check(made, 3) == 3


def test_every_arm_has_every_place_equally_often():
    turns = estimator.places(6, sequential=False)  # of each arm in each round, counted from the first window
    orders = turns - 3 * np.arange(6)[:, None]

    assert all(sorted(order) == [0, 1, 2] for order in orders.tolist())
    assert all((orders[:, place] == arm).sum() == 2 for place in range(3) for arm in range(3))
    assert (estimator.places(6, sequential=False).sum(axis=0) == 6 * 8.5).all()


def test_the_stored_results_hold_what_is_claimed():
    found = json.loads((ROOT / "results" / "reference" / "estimator.json").read_text(encoding="utf-8"))
    six = [row for row in found["rows"] if row["rounds"] >= 6]

    assert found["sims"] >= 2000
    for row in six:
        if row["order"] == "interleaved":
            assert abs(row["bias_percent"]) < 0.15
            assert row["coverage_percent"] > 93
        elif row["drift_percent"] == -10:
            assert abs(row["bias_percent"]) > 6
            assert row["coverage_percent"] < 1
