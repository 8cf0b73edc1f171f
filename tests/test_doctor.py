"""The doctor looks at everything a run needs, and says what to do."""

import json
from collections import namedtuple
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evalsuite import doctor, machine
from evalsuite.cli import app
from evalsuite.errors import CannotRunError

Usage = namedtuple("Usage", "total used free")


def of(checks: list[doctor.Check], name: str) -> list[doctor.Check]:
    return [check for check in checks if check.name == name]


def test_a_machine_that_runs_these_tests_can_run_the_suite(tmp_path: Path):
    checks = doctor.look(tmp_path / "results")

    assert {"python", "packages", "devices", "kernel", "bf16", "meters", "tasks", "disk", "memory", "results"} == {
        check.name for check in checks}  # fmt: skip
    assert [check for check in checks if check.state == "problem"] == []
    assert doctor.possible(checks)
    assert list(tmp_path.iterdir()) == []  # looking leaves nothing behind
    assert any(check.says.startswith("cpu: ") for check in of(checks, "devices"))


def test_whatever_is_not_good_says_what_to_do(tmp_path: Path):
    assert all(check.do or check.name == "bf16" for check in doctor.look(tmp_path) if check.state != "good")


def test_a_missing_package_is_a_problem_and_one_of_an_extra_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    needs = ["torch>=2.11; extra == 'run'", "no-such-package>=3; extra == 'run'", "numpy>=999",
             "nothing-either>=1; extra == 'energy'", "never-asked>=1; extra == 'test'"]  # fmt: skip
    monkeypatch.setattr(doctor, "requires", lambda _: needs)
    found = of(doctor.look(tmp_path), "packages")

    assert [(check.state, check.do) for check in found] == [
        ("good", None), ("problem", "pip install 'no-such-package>=3'"), ("problem", "pip install 'numpy>=999'"),
        ("note", "pip install 'nothing-either>=1'")]  # fmt: skip
    assert "none is installed" in found[1].says
    assert not doctor.possible(found)


@pytest.mark.parametrize(("free", "state"), [(1 << 20, "problem"), (1 << 30, "note"), (1 << 40, "good")])
def test_disk_and_memory_that_run_short_are_noted_and_then_a_problem(tmp_path, monkeypatch, free: int, state: str):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(0, 0, free))
    monkeypatch.setattr(machine, "available_bytes", lambda: 4 * free)
    checks = doctor.look(tmp_path)

    assert [check.state for check in of(checks, "disk")] == [state]
    assert [check.state for check in of(checks, "memory")] == ["good" if state == "note" else state]


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refused)  # root may write anywhere
    (check,) = of(doctor.look(tmp_path), "results")

    assert (check.state, "Permission denied" in check.says) == ("problem", True)


def test_a_part_that_breaks_is_a_problem_and_the_others_are_still_looked_at(tmp_path, monkeypatch: pytest.MonkeyPatch):
    def broken(_: Path) -> list[doctor.Check]:
        raise ImportError("No module named 'torch'")

    def wrong(_: Path) -> list[doctor.Check]:
        raise CannotRunError("no")

    monkeypatch.setattr(doctor, "CHECKS", {**doctor.CHECKS, "devices": broken, "tasks": wrong})
    checks = doctor.look(tmp_path)

    assert [check.state for check in of(checks, "devices") + of(checks, "tasks")] == ["problem", "problem"]
    assert of(checks, "devices")[0].says == "No module named 'torch'"
    assert of(checks, "results")[0].state == "good"


def test_without_a_compiler_the_kernel_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from evalsuite.precision import compiled

    monkeypatch.setenv("CXX", "no-such-compiler")
    compiled.loaded.cache_clear()
    try:
        (check,) = of(doctor.look(tmp_path), "kernel")
    finally:
        compiled.loaded.cache_clear()

    assert (check.state, "no-such-compiler" in check.says) == ("note", True)


@pytest.mark.parametrize(("state", "code"), [("good", 0), ("note", 0), ("problem", 3)])
def test_the_verb_prints_what_to_do_and_exits_3_where_a_run_is_impossible(monkeypatch, state: str, code: int):
    check = doctor.Check(name="disk", state=state, says="[half] full", do="pip install 'evalsuite[energy]'")
    monkeypatch.setattr(doctor, "look", lambda _: [check])
    shown, data = CliRunner().invoke(app, ["doctor"]), CliRunner().invoke(app, ["doctor", "--json"])

    assert shown.exit_code == data.exit_code == code
    assert "[half] full" in shown.output  # brackets are text
    assert "evalsuite[energy]" in shown.output
    document = json.loads(data.output)
    assert document["possible"] is (code == 0)
    assert document["checks"] == [check.model_dump()]
    assert {"meter", "state", "scope", "method", "quality", "devices", "reason", "detail"} <= set(document["meters"][0])


def test_lists_show_brackets_as_text(capsys: pytest.CaptureFixture[str]):
    from evalsuite import report

    report.print_view(report.rows_view([{"detail": "pip install 'evalsuite[energy]'"}]))

    assert "evalsuite[energy]" in capsys.readouterr().out
