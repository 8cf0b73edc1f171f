"""The error-rate benchmark itself: its regions are the judge's, its sums are the specification's numbers."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("error_rates", ROOT / "benchmarks" / "error_rates.py")
rates = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(rates)


@pytest.mark.parametrize("n", [100, 250])
def test_chances_of_verdicts_are_those_of_the_specification(n: int):
    regions = {side: rates.Region(n, 0.01, side) for side in ("safe", "unsafe")}
    for (items, psi), row in rates.SPEC_34.items():
        for drop, (safe, unsafe) in row.items() if items == n else ():
            assert safe == pytest.approx(100 * regions["safe"].chance(psi, drop / 100), abs=0.55)
            assert unsafe == pytest.approx(100 * regions["unsafe"].chance(psi, drop / 100), abs=0.55)


@pytest.mark.parametrize("side", ["safe", "unsafe"])
def test_no_share_of_flips_makes_the_error_rate_exceed_five_percent(side: str):
    region = rates.Region(250, 0.02, side)

    assert max(region.chance(psi, 0.02) for psi in np.linspace(0.02, 0.6, 60)) <= 0.05
    assert region.check(np.random.default_rng(0)) > 0


def test_the_usual_rule_passes_a_third_of_the_bad_changes():
    assert 36.6 == pytest.approx(100 * rates.naive(100, 0.01, 0.01, 0.01), abs=0.05)
    assert 22.1 == pytest.approx(100 * rates.naive(100, 0.01, 0.02, 0.01), abs=0.05)


def test_the_sequential_wealth_is_the_judges():
    assert rates.check_sequential(np.random.default_rng(1)) == 20


def test_the_stored_results_hold_what_is_claimed():
    found = json.loads((ROOT / "results" / "reference" / "error_rates.json").read_text(encoding="utf-8"))

    assert found["sequential_runs"] >= 20_000
    assert all(row["worst"] <= 5.0 for row in found["worst_over_psi_to_35_percent"])
    assert found["largest_distance_to_the_specification_points"] <= 1.0
    for row in found["errors_at_the_margin"]:
        assert max(row["false_safe"], row["false_unsafe"]) <= 5.0
        noise = 3 * found["sequential_standard_error_points"]
        assert max(row["sequential_false_safe"], row["sequential_false_unsafe"]) <= 5.0 + noise
