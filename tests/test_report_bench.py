"""The terminal's view of a bench: every number with its interval, every absent one with its reason."""

import re

import pytest
from rich.console import Console
from test_judge_joint import judged, priced
from test_judge_rounds import NULL, REPLAY, bench_of, emulated, measured, steady, swept, three

from evalsuite.judge import judge_bench
from evalsuite.records import MeterAbsent
from evalsuite.report_bench import bench_view

ABSENT = MeterAbsent(id="rapl", reason="rapl_absent_vm", detail="a virtual machine")


def shown(bench, judgement=None):
    console = Console(width=240)
    with console.capture() as capture:
        console.print(bench_view(bench, judgement or judge_bench(bench)), highlight=False)
    return capture.get()


def line(text, start):
    return next(row for row in text.splitlines() if row.startswith(start))


def test_a_row_has_speed_with_interval_ratio_and_why_there_are_no_joules():
    text = shown(bench_of(*three(), absent=(ABSENT,)))

    speed, change = r"native +107(\.\d)? \[\d+(\.\d)?, \d+(\.\d)?\] ", r"1\.07\d \[1\.06\d, 1\.07\d\]"
    assert re.search(f"{speed}.*{change}", line(text, "fp8 "))
    assert "energy: — (no meter: rapl_absent_vm)" in text
    assert line(text, "bf16@null (null)")
    assert "fp8 decodes 1.07 times as fast as bf16" in text
    assert "virtual machines do not have them" in text


def test_an_emulated_arm_has_no_speed_on_the_screen_or_in_the_document():
    base, null, _ = three()
    bench = bench_of(base, null, emulated(), absent=(ABSENT,))
    judgement = judge_bench(bench)
    row = line(shown(bench, judgement), "fp8 ")

    assert "emulated – speed not meaningful" in row
    assert not re.search(r"\d", row.removeprefix("fp8"))
    for made in (*judgement.points, *judgement.ratios):
        if made.arm == "fp8":
            document = made.model_dump(exclude={"workload", "baseline_workload", "arm", "sentence"})
            numbers = {k: v for k, v in document.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
            # Counts of rounds, and what the baseline shows against itself.
            assert all(v == 0 for k, v in numbers.items() if k not in ("aa_halfwidth", "drift"))


def test_arms_that_were_not_reached_say_so():
    base, null, _ = three()
    row = line(shown(bench_of(base, null)), "fp8 ")

    assert "not reached" in row
    assert "interrupted" in row


def test_joint_costs_name_the_run_and_the_point_they_are_from():
    bench = priced(price_per_hour=1.0)
    text = shown(bench, judged(bench))

    assert f"cost of a correct answer, direct mode  (answers of r1; cost a token at: {REPLAY.key})" in text
    assert re.search(r"fp8 +80\.0 % +105 +1\.050 \[1\.050, 1\.050\]", text)
    assert "j 0.840 [0.840, 0.840]" in text


def test_best_batches_and_scaling_have_tables_of_their_own():
    best = shown(swept({("bf16", 8): 1.0, (NULL, 8): 1.0, ("fp8", 8): 0.9, ("fp8", 32): 2.0}))
    rows = [measured("bf16", steady(f, seed=n), workload=REPLAY.model_copy(update={"devices": n}))
            for n, f in ((1, 1.0), (2, 1.2))]  # fmt: skip
    scaled = shown(bench_of(*rows))

    assert "each arm at its best batch" in best
    assert "scaling over devices" in scaled
    assert "beyond 1 it does not pay" in scaled


@pytest.mark.parametrize("reasons", [("aa",), ()])
def test_a_failed_null_arm_is_said_in_words(reasons):
    base, null, cand = three()
    bench = bench_of(base, measured(NULL, steady(1.03, seed=5)) if reasons else null, cand)

    assert ("measure again" in shown(bench)) == bool(reasons)
