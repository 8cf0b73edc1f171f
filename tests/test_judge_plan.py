"""Planning: power as the exact rule has it, floors, roles, and psi and pace from earlier runs."""

import pytest
from test_judge_pairing import accuracy, flip, world

from evalsuite.judge import judge_run
from evalsuite.judge.plan import plan_mode, psi_seen
from evalsuite.records import DecisionSpec


def spec_of(**changes):
    manifest, _ = world({(a, t, "direct"): accuracy(400, 0.7) for a in ("bf16", "fp8") for t in ("big", "small")})
    tasks = [t.model_copy(update={"role": "certify", "margin": 0.02}) for t in manifest.spec.tasks]
    return manifest.spec.model_copy(update={"tasks": tuple(tasks), "decision": DecisionSpec(margin=0.02), **changes})


def test_a_task_declared_certify_without_the_items_for_it_is_told_so():
    made = plan_mode(spec_of(), "direct", {"big": 5000, "small": 198}, {})
    big, small = made.tasks

    assert big.advice is None
    assert small.advice.startswith("cannot certify")
    assert made.joint_power == pytest.approx(made.pooled.power * big.power * small.power)
    assert small.certifiable == pytest.approx(0.053, abs=5e-4)  # statistics, section 10


def test_items_needed_are_those_of_the_table():
    made = plan_mode(spec_of(decision=DecisionSpec(margin=0.01)), "direct", {"big": 100}, {})

    assert (made.pooled.n_required, made.pooled.n_floor) == (4366, 299)


def test_the_sequential_design_says_after_how_many_items_it_expects_to_end():
    rule = DecisionSpec(margin=0.01, design="sequential")
    made = plan_mode(spec_of(decision=rule), "direct", {"big": 9000}, {})

    assert made.sequential_items == pytest.approx(3761, abs=1)
    assert plan_mode(spec_of(), "direct", {"big": 9000}, {}).sequential_items is None


def test_psi_comes_from_the_newest_run_and_is_never_below_the_noise():
    right = accuracy(1000, 0.7)
    answers = {("bf16", "big", "direct"): right, ("bf16@aa", "big", "direct"): flip(right, 0.1),
               ("fp8", "big", "direct"): flip(right, 0.02)}  # fmt: skip
    manifest, samples = world(answers)
    seen = psi_seen([(manifest, judge_run(manifest, samples))], manifest.spec, "direct")
    made = plan_mode(spec_of(), "direct", {"big": 400, "small": 400}, seen)

    assert made.pooled.psi == pytest.approx(101 / 1002)
    assert made.tasks[0].psi == pytest.approx(21 / 1002)
    assert made.tasks[1].psi == made.pooled.psi  # not seen: as the pool
    assert manifest.run_id in made.pooled.psi_source
