import json
from pathlib import Path

import pytest

from evalsuite import resources
from evalsuite.engines import ENGINES, OPTIONS
from evalsuite.errors import CannotRunError, SuiteError, UsageError
from evalsuite.located import parse
from evalsuite.spec import Overrides, load, parse_duration, resolve, shipped_suites
from evalsuite.tasks import catalogue, own_files

GOOD = """\
schema: 1
name: mine
model: reference
arms: [bf16, fp8-e4m3, {id: other, recipe: fp8-ue8m0}]
baseline: bf16
tasks:
  - ref_boolean
  - {task: gsm8k, margin: 0.03}
decision: {margin: 0.02}
"""


def resolved(text: str, **overrides: object):
    return resolve(parse(text, "s.yaml"), Overrides(**overrides))[0]


def test_the_noise_floor_arm_stands_behind_the_baseline_and_shares_its_recipe():
    spec = resolved(GOOD)

    assert [arm.id for arm in spec.arms] == ["bf16", "bf16@aa", "fp8-e4m3", "other"]
    assert spec.noise_arm is not None
    assert spec.noise_arm.recipe == spec.arm("bf16").recipe
    assert [arm.id for arm in spec.candidates] == ["fp8-e4m3", "other"]


def test_a_task_entry_overrides_the_catalogue_and_keeps_the_rest():
    gsm8k = resolved(GOOD).tasks[1]

    assert (gsm8k.margin, gsm8k.filter) == (0.03, "flexible-extract")


def test_the_same_suite_resolves_to_the_same_specification():
    assert resolved(GOOD).digest() == resolved(GOOD).digest()
    assert resolved(GOOD).digest() != resolved(GOOD, limit=3).digest()


def test_arms_on_the_command_line_keep_the_baseline_and_may_name_any_recipe():
    assert [arm.id for arm in resolved(GOOD, arms=("fp8-ue8m0",)).arms] == ["bf16", "bf16@aa", "fp8-ue8m0"]


def test_tasks_on_the_command_line_come_from_the_suite_or_the_catalogue():
    assert [task.task for task in resolved(GOOD, tasks=("gsm8k", "ref_truth")).tasks] == ["gsm8k", "ref_truth"]


def test_several_models_are_several_runs():
    text = GOOD.replace("model: reference", "model: [reference, {id: ORG/NAME, revision: abc}]")

    assert [s.model.id for s in resolve(parse(text, "s.yaml"))] == ["reference", "ORG/NAME"]


def test_every_shipped_suite_resolves():
    assert {"reference", "smoke"} <= set(shipped_suites())
    for name in shipped_suites():
        assert resolve(load(name))


@pytest.mark.parametrize("name", sorted(name for name in own_files() if name.startswith("ref_")))
def test_the_chance_in_the_catalogue_is_what_guessing_gets_on_the_frozen_items(name: str):
    file = resources.tasks() / "items" / f"{name.removeprefix('ref_')}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    two_way = {"Yes", "No", "True", "False"}
    guess = [1 / len(r["options"]) if r.get("options") else 0.5 * (r["answer"] in two_way) for r in rows]

    assert (catalogue()[name].chance or 0) == pytest.approx(sum(guess) / len(guess), abs=0.006)


def test_engine_options_are_listed_for_each_engine():
    assert set(ENGINES) == set(OPTIONS)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fp8-e4m3,", "fp8-e4m33,", r"s.yaml:4:14: arms\[1\]: unknown recipe 'fp8-e4m33'. Did you mean 'fp8-e4m3'"),
        ("- ref_boolean", "- ref_bolean", r"s.yaml:7:5: tasks\[0\]: task 'ref_bolean' is not in the catalogue"),
        ("baseline: bf16", "baseline: bf61", r"s.yaml:5:1: baseline: unknown arm 'bf61'. Did you mean 'bf16'"),
        ("name: mine", "nane: mine", r"s.yaml:2:1: unknown key 'nane'. Did you mean 'name'"),
        ("- ref_boolean", "- {task: mine, filter: none, modes: [direct], role: monitor, margin: 0.1}",
         r"s.yaml:7:5: missing key 'metric' in tasks\[0\]"),
        ("- ref_boolean", "- {task: mine, metric: acc, modes: [direct], role: monitor, margin: 0.1}",
         r"missing key 'filter' in tasks\[0\]"),
        ("margin: 0.02", "margin: 2", r"s.yaml:9:1: decision: margin and alpha must lie between"),
        ("schema: 1", "schema: 2", r"s.yaml:1:1: schema"),
        ("- ref_boolean", "- gsm8k", r"s.yaml:8:5: tasks\[1\]: task 'gsm8k' stands twice"),
        ("decision:", "engine: vlm\ndecision:", r"unknown engine 'vlm'"),
        ("decision:", "engine: {name: local, options: {thread: 1}}\ndecision:", r"unknown option 'thread'"),
        ("id: other", "id: ../up", r"arm id '../up' may hold"),
        ("decision:", "sampling: {direct: {k: 4}}\ndecision:", r"4 samples at temperature 0 are all the same"),
        ("[bf16, fp8-e4m3, {id: other, recipe: fp8-ue8m0}]", "[]", r"arms"),
    ],
)  # fmt: skip
def test_a_wrong_suite_is_refused_with_file_line_and_what_is_allowed(old, new, message):
    assert old in GOOD

    with pytest.raises(SuiteError, match=message):
        resolved(GOOD.replace(old, new))


def test_unknown_names_on_the_command_line_are_refused():
    with pytest.raises(UsageError, match="Unknown suite 'smok'.*Did you mean 'smoke'"):
        load("smok")
    with pytest.raises(UsageError, match="Unknown task 'gsm8'.*Did you mean 'gsm8k'"):
        resolved(GOOD, tasks=("gsm8",))
    with pytest.raises(CannotRunError, match="cannot be read"):
        load("absent.yaml")


def test_own_items_are_checked_when_the_suite_is_read(tmp_path: Path):
    items = tmp_path / "items.jsonl"
    items.write_text('{"question": "1+1?", "answer": "2"}\n{"question": "2+2?"}\n')
    entry = (
        "- {task: mine, items: items.jsonl, metric: exact_match, filter: answer, modes: [direct], "
        "max_gen_toks: 8, role: certify, margin: 0.1}"
    )
    text = GOOD.replace("- ref_boolean", entry)

    with pytest.raises(SuiteError, match=r"items.jsonl:2:1: missing 'answer'"):
        resolve(parse(text, str(tmp_path / "s.yaml")))
    items.write_text('{"question": "1+1?", "answer": "2"}\n{"question" "2+2?"}\n')
    with pytest.raises(SuiteError, match=r"items.jsonl:2:13: broken line"):
        resolve(parse(text, str(tmp_path / "s.yaml")))
    items.write_text('{"question": "1+1?", "answer": 2}\n')
    assert resolve(parse(text, str(tmp_path / "s.yaml")))[0].tasks[0].items == str(items)


def test_durations_are_read_with_their_unit():
    assert [parse_duration(t) for t in (None, "90", "90s", "1.5m", "2h", 5)] == [None, 90, 90, 90, 7200, 5]
    with pytest.raises(SuiteError, match="not a duration"):
        parse_duration("soon")


def test_an_arm_may_be_another_checkpoint_as_shipped():
    arm = resolved(GOOD.replace("{id: other, recipe: fp8-ue8m0}", "{id: s, model: {id: A/B, revision: v1}, "
                                "recipe: as-shipped}")).arm("s")  # fmt: skip

    assert (arm.model.id, arm.model.revision, arm.recipe.id, arm.recipe.weights) == ("A/B", "v1", "as-shipped", None)
    with pytest.raises(SuiteError, match="unknown recipe 'as-shiped'. Did you mean 'as-shipped'"):
        resolved(GOOD.replace("recipe: fp8-ue8m0", "recipe: as-shiped"))
