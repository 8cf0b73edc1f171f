"""Calibration texts: which ones, how they are read, and that no judged item is among them."""

import json

import pytest

from evalsuite import calibration, workflow
from evalsuite import spec as suites
from evalsuite.errors import CannotRunError, SuiteError, UsageError
from evalsuite.harness.activations import judged, noted
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Cell, CellRecord, ModelRef
from evalsuite.reference.calibration import texts as reference_texts
from evalsuite.reference.freeze import ITEMS

STATIC = "fp8-e4m3-tensor-static"
OURS, OTHERS = ModelRef(id="reference"), ModelRef(id="./mine")


@pytest.fixture
def lines(tmp_path):
    def write(text, name="texts.jsonl"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture
def static_suite(suite):
    """A suite over the tiny model whose one candidate has static scales."""

    def write(texts, limit=8):
        path = suite(limit=limit)
        entry = f"{{id: {STATIC}, recipe: {STATIC}, calibration: {texts}}}"
        text = path.read_text(encoding="utf-8").replace("[bf16, fp8-ue8m0]", f"[bf16, {entry}]")
        path.write_text(text.replace("noise_floor: true", "noise_floor: false"), encoding="utf-8")
        return suites.resolve(suites.load(str(path)))[0]

    return write


def test_texts_are_read_from_lines_and_from_both_kinds_of_jsonl(lines):
    assert calibration.read_texts(lines("one text\n\nanother\n", "a.txt")) == ["one text", "another"]
    rows = '{"text": "plain"}\n{"question": "1 + 1?", "answer": "2"}\n{"question": "alone"}\n'
    assert calibration.read_texts(lines(rows)) == ["plain", "1 + 1?\n2", "alone"]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ('{"prompt": "x"}\n', "a.jsonl", "text 1: expected `text`"),
        ('{"text": "  "}\n', "a.jsonl", "text 1"),
        ('{"text": 3}\n', "a.jsonl", "text 1"),
        ("\n \n", "a.txt", "no calibration texts"),
        ("", "a.jsonl", "no items"),
    ],
)
def test_texts_that_are_none_are_refused(lines, text, name, message):
    with pytest.raises(SuiteError, match=message):
        calibration.read_texts(lines(text, name))


def test_the_embedded_model_has_shipped_texts_and_any_other_model_must_name_some(lines, tmp_path):
    assert calibration.chosen(None, OURS, tmp_path).file == "reference"
    with pytest.raises(UsageError, match="add `calibration: FILE`.*none that is judged"):
        calibration.chosen(None, OTHERS, tmp_path)
    lines("a text\n", "a.txt")
    assert calibration.chosen("a.txt", OTHERS, tmp_path).file == str(tmp_path / "a.txt")
    with pytest.raises(CannotRunError, match="cannot be read"):
        calibration.chosen("absent.txt", OTHERS, tmp_path)


def test_texts_that_changed_after_planning_are_refused(lines, tmp_path):
    path = lines("a text\n", "a.txt")
    planned = calibration.chosen("a.txt", OTHERS, tmp_path)
    path.write_text("another text\n", encoding="utf-8")
    with pytest.raises(CannotRunError, match="changed since the run was planned"):
        calibration.read_again(planned)


def test_the_shipped_texts_are_those_that_the_generator_writes_and_hold_no_frozen_item():
    shipped = calibration.read_texts(calibration.reference_texts())
    frozen = [("", "", json.loads(line)["question"]) for path in ITEMS.glob("*.jsonl")
              for line in path.read_text(encoding="utf-8").splitlines()]  # fmt: skip

    assert shipped == reference_texts(ITEMS)
    assert len(set(shipped)) == len(shipped) == 132
    assert judged(shipped, frozen) == []


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("<|user|>\nTrue and False  is<|end|>\n<|assistant|>\nFalse", True),
        ("Question: true and false is\nAnswer: False", True),
        ("not True and False is\nTrue", False),  # a longer expression that ends like the item
        ("Anna has three apples and buys four more. How many apples has she? Seven.", True),
        ("anna has three apples and buys four more.", True),  # what the prompt holds
        ("Bea has three apples and buys four more. How many apples has she?", False),
    ],
)
def test_a_judged_item_is_recognised_in_a_text(text, held):
    apples = "Anna has three apples and buys four more. How many apples has she?"
    asked = [("t/0", "True and False is", "True and False is"), ("t/1", f"Q: {apples}\nA:", apples)]

    assert bool(judged([text], asked)) == held


def test_a_suite_that_needs_texts_says_so_with_file_and_line_and_one_that_does_not_refuses_them(suite):
    path = suite()
    original = path.read_text(encoding="utf-8")
    path.write_text(original.replace("fp8-ue8m0]", f"{STATIC}]"), encoding="utf-8")
    with pytest.raises(SuiteError, match=rf"tiny\.yaml:\d+:\d+: .*{STATIC}.*calibration: FILE"):
        suites.resolve(suites.load(str(path)))
    entry = "{id: x, recipe: fp8-ue8m0, calibration: reference}"
    path.write_text(original.replace("fp8-ue8m0]", f"{entry}]"), encoding="utf-8")
    with pytest.raises(SuiteError, match="no static scales; remove `calibration`"):
        suites.resolve(suites.load(str(path)))


def test_a_run_stores_what_its_static_scales_were_made_from_and_what_they_clipped(static_suite, lines, tmp_path):
    spec = static_suite(lines("Calculate.\n", "few.txt"))
    run = workflow.run(spec, workflow.Options(results=tmp_path / "results"))
    cells = [r for r in run.manifest.cells.values() if r.cell.arm == STATIC]

    assert run.manifest.status == "done"
    for record in cells:
        made = record.realised.calibration
        assert (made.source, made.n_texts) == ("few.txt", 1)
        assert set(made.amax) == set(record.realised.modules)
        assert record.activations.totals["blocks"] > 0
        assert record.activations.totals["nonfinite_blocks"] == 0
        found = [f for f in record.findings if f.code == "CALIBRATION_EXCEEDED"]
        assert len(found) == bool(record.activations.totals["clipped_blocks"])
    assert any(record.activations.totals["clipped_blocks"] for record in cells)
    assert "CALIBRATION_EXCEEDED" in {f.code for d in run.decisions() for f in d.findings}
    assert all(r.activations is None for r in run.manifest.cells.values() if r.cell.arm == "bf16")


def test_a_run_whose_calibration_texts_hold_a_judged_item_is_refused_before_it_starts(static_suite, lines, tmp_path):
    rows = (ITEMS / "chain_sum.jsonl").read_text(encoding="utf-8")
    spec = static_suite(lines(rows), limit=4)
    with pytest.raises(UsageError, match=r"4 calibration texts hold an item that this run judges .*ref_chain_sum/"):
        workflow.run(spec, workflow.Options(results=tmp_path / "results"))

    assert not list((tmp_path / "results").glob("*/manifest.json"))


def record():
    cell = Cell(arm="fp8", task="t", mode="direct")
    return CellRecord(cell=cell, status="running", resume_key="0", n_planned=1)


def test_non_finite_activations_become_an_error_that_names_the_layers():
    sound = {"blocks": 100, "nonfinite_blocks": 0, "clipped_blocks": 3}
    first = noted(record(), RECIPES["fp8-e4m3"], {"a": sound, "b": sound})
    second = noted(first, RECIPES["fp8-e4m3"], {"a": sound, "b": sound | {"nonfinite_blocks": 2}})

    assert first.findings == ()
    assert second.activations.groups == 2
    assert second.activations.totals == {"blocks": 400, "nonfinite_blocks": 2, "clipped_blocks": 12}
    assert second.activations.modules == {"a": {"clipped_blocks": 6}, "b": {"clipped_blocks": 6, "nonfinite_blocks": 2}}
    assert [(f.code, f.severity) for f in second.findings] == [("NONFINITE_ACTIVATIONS", "error")]
    assert "2 of 400 blocks" in second.findings[0].message
    assert "b 2" in second.findings[0].message


def test_a_finding_is_replaced_as_counts_grow_and_nothing_changes_without_counts():
    bad = {"a": {"blocks": 10, "nonfinite_blocks": 1, "clipped_blocks": 0}}
    twice = noted(noted(record(), RECIPES["fp8-e4m3"], bad), RECIPES["fp8-e4m3"], bad)

    assert len(twice.findings) == 1
    assert "2 of 20" in twice.findings[0].message
    assert noted(twice, RECIPES["fp8-e4m3"], {}) is twice
