"""The surface: help, exit codes, JSON, and errors that name file, line and what is allowed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evalsuite import workflow
from evalsuite.cli import app, main
from evalsuite.records import VERDICT_EXIT

VERBS = [
    "run", "plan", "bench", "verdict", "show", "quantize", "stress", "publish", "list", "doctor", "import", "export",
    "conformance",
]  # fmt: skip


def evalsuite(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "evalsuite", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    from tests.conftest import SUITE

    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.yaml").write_text(SUITE.format(name="tiny", model=tiny_model, group_tokens=4096, limit=6))
    done = evalsuite("run", folder / "tiny.yaml", "--results", folder / "results")
    assert done.returncode == 0, done.stderr
    (folder / "out.txt").write_text(done.stdout)
    return folder / "results"


def test_help_is_quick_and_imports_nothing_heavy():
    code = ("import sys; sys.argv = ['evalsuite', '--help']\nfrom evalsuite.cli import main\n"
            "try:\n    main()\nexcept SystemExit:\n    pass\n"
            "heavy = {'torch', 'lm_eval', 'plotly', 'transformers', 'datasets', 'scipy', 'pandas'} & set(sys.modules)\n"
            "assert not heavy, heavy\n")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    times = []
    for _ in range(5):
        start = time.process_time_ns(), time.perf_counter()
        evalsuite("--help")
        times.append(time.perf_counter() - start[1])

    assert min(times) < 0.3 or _loaded(), times


def _loaded() -> bool:
    """True where even an empty Python takes over 60 ms to start: the machine is busy, and time says nothing."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - start > 0.06


def test_every_verb_has_help_and_no_other_verb_exists():
    shown = CliRunner().invoke(app, ["--help"]).output
    for verb in VERBS:
        assert verb in shown
        assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0
    assert sorted(command.name or command.callback.__name__ for command in app.registered_commands) == sorted(VERBS)


def test_a_run_ends_with_verdicts_the_pages_and_the_next_command(results: Path):
    out = (results.parent / "out.txt").read_text()

    assert "INCONCLUSIVE" in out
    assert "pages   file://" in out
    assert "next    evalsuite verdict " in out
    assert (results / "site" / "index.html").is_file()


def test_verdict_prints_the_sentence_and_exits_with_the_verdicts_code(results: Path):
    plain, data = evalsuite("verdict", "--results", results), evalsuite("verdict", "--results", results, "--json")
    document = json.loads(data.stdout)

    assert plain.returncode == data.returncode == VERDICT_EXIT[document["run"]["verdict"]]
    assert document["schema_version"] == 1
    for decision in document["run"]["decisions"]:
        assert decision["sentence"].split(":")[0] in plain.stdout


@pytest.mark.parametrize("verdict", VERDICT_EXIT)
def test_the_exit_code_is_the_verdicts(verdict, results: Path, monkeypatch: pytest.MonkeyPatch):
    judge = workflow.judge
    monkeypatch.setattr(workflow, "judge", lambda *a: judge(*a).model_copy(update={"verdict": verdict}))

    assert CliRunner().invoke(app, ["verdict", "--results", str(results)]).exit_code == VERDICT_EXIT[verdict]


def test_show_follows_one_item_through_the_arms(results: Path):
    samples = workflow.load_run(next(results.glob("*-tiny-*"))).samples()
    item = samples["item_id"].iloc[0]
    shown, data = evalsuite("show", "last", item, "--results", results), evalsuite(
        "show", "last", item, "--results", results, "--json")  # fmt: skip

    assert all(f"{arm}, " in shown.stdout for arm in ("bf16", "bf16@aa", "fp8-ue8m0"))
    assert len(json.loads(data.stdout)["samples"]) == (samples["item_id"] == item).sum()


@pytest.mark.parametrize("what", ["recipes", "tasks", "suites", "engines", "meters", "runs"])
def test_lists_are_tables_and_json(what: str, results: Path):
    assert evalsuite("list", what, "--results", results).returncode == 0
    assert json.loads(evalsuite("list", what, "--results", results, "--json").stdout)[what]


def test_dry_run_prints_the_resolved_suite_and_touches_nothing(tmp_path: Path):
    done = evalsuite("run", "smoke", "--dry-run", "--results", tmp_path / "r")

    assert json.loads(done.stdout)["runs"][0]["name"] == "smoke"
    assert not (tmp_path / "r").exists()


def test_json_of_a_run_is_one_document(tiny_model: Path, tmp_path: Path):
    done = evalsuite("run", "smoke", "--model", tiny_model, "--tasks", "ref_ordering_mc", "--limit", 3, "--json",
                     "--results", tmp_path)  # fmt: skip
    document = json.loads(done.stdout)

    assert done.returncode == 0
    assert document["runs"][0]["run_id"] in {p.name for p in tmp_path.iterdir()}


def test_gate_exits_with_the_verdict(tiny_model: Path, tmp_path: Path):
    done = evalsuite("run", "smoke", "--model", tiny_model, "--tasks", "ref_ordering_mc", "--limit", 3, "--gate",
                     "--results", tmp_path)  # fmt: skip

    assert done.returncode == VERDICT_EXIT["INCONCLUSIVE"]


SUITE = """\
schema: 1
name: s
model: reference
arms: [bf16, fp8-e4m3]
baseline: bf16
tasks: [ref_truth]
decision: {margin: 0.02}
"""
ITEM = (
    "{task: mine, items: i.jsonl, metric: exact_match, filter: answer, modes: [direct], max_gen_toks: 4, "
    "role: monitor, margin: 0.1}"
)


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("fp8-e4m3", "fp8-e4m", 2, "s.yaml:4:14: arms[1]: unknown recipe 'fp8-e4m'. Did you mean 'fp8-e4m3'"),
        ("ref_truth", "ref_trut", 2, "s.yaml:6:9: tasks[0]: task 'ref_trut' is not in the catalogue"),
        ("baseline: bf16", "baseline: fp16", 2, "s.yaml:5:1: baseline: unknown arm 'fp16'"),
        ("baseline:", "baselin:", 2, "s.yaml:5:1: unknown key 'baselin'. Did you mean 'baseline'"),
        ("[ref_truth]", "[{task: x, filter: none, modes: [direct], role: monitor, margin: 0.1}]", 2,
         "missing key 'metric'"),
        ("[ref_truth]", "[{task: x, metric: acc, modes: [direct], role: monitor, margin: 0.1}]", 2,
         "missing key 'filter'"),
        ("[ref_truth]", "[{task: ref_truth, filter: answr}]", 2, "no filter 'answr'. Did you mean 'answer'"),
        ("[ref_truth]", "[{task: ref_truth, metric: acc}]", 2, "no metric 'acc'"),
        ("model: reference", "model: ./absent", 3, "Model folder './absent' does not exist"),
        ("[ref_truth]", f"[{ITEM}]", 2, "i.jsonl:2:17: broken line"),
        ("tasks: [ref_truth]", "datasets: {openai/gsm8k: gone}\ntasks: [gsm8k]", 3, "dataset folder does not exist"),
    ],
)  # fmt: skip
def test_bad_input_names_the_place_exits_with_its_code_and_leaves_nothing(old, new, code, words, tmp_path: Path):
    (tmp_path / "s.yaml").write_text(SUITE.replace(old, new))
    (tmp_path / "i.jsonl").write_text('{"question": "a", "answer": "b"}\n{"question": "a"\n')
    done = evalsuite("run", "s.yaml", "--results", "results", cwd=tmp_path)

    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "results").glob("*")) if (tmp_path / "results").exists() else True


def test_a_results_folder_that_cannot_be_written_is_code_3_before_any_work(tmp_path: Path, tiny_model: Path):
    (tmp_path / "blocked").write_text("a file, not a folder")
    done = evalsuite("run", "smoke", "--model", tiny_model, "--results", tmp_path / "blocked" / "results")

    assert done.returncode == 3
    assert "results cannot be written here" in done.stderr


@pytest.mark.parametrize("verb", ["verdict", "publish"])
def test_a_store_of_a_newer_schema_is_code_3_and_says_to_upgrade(verb: str, tmp_path: Path):
    (tmp_path / "r" / "run").mkdir(parents=True)
    (tmp_path / "r" / "run" / "manifest.json").write_text('{"schema_version": 99}')
    done = evalsuite(verb, "--results", tmp_path / "r")

    assert done.returncode == 3
    assert "Upgrade evalsuite" in done.stderr


def test_errors_with_json_are_one_document_too(tmp_path: Path):
    done = evalsuite("verdict", "--results", tmp_path, "--json")

    assert (done.returncode, json.loads(done.stdout)["error"]["exit_code"]) == (2, 2)


def test_verbose_shows_the_traceback(tmp_path: Path):
    assert "Traceback" in evalsuite("-v", "verdict", "--results", tmp_path).stderr
    assert "Traceback" not in evalsuite("verdict", "--results", tmp_path).stderr


def test_plan_says_what_a_suite_can_decide_and_what_an_earlier_run_costs(results: Path):
    folder = results.parent
    before = json.loads(evalsuite("plan", folder / "tiny.yaml", "--results", folder / "none", "--json").stdout)
    after = json.loads(evalsuite("plan", folder / "tiny.yaml", "--results", results, "--price", 2, "--json").stdout)
    first, second = before["plans"][0], after["plans"][0]

    assert first["seconds"] is None
    assert {mode["pooled"]["psi_source"] for mode in first["modes"]} == {"suite"}
    assert second["cost"] == pytest.approx(second["seconds"] / 3600 * 2)
    assert all(mode["pooled"]["psi_source"].startswith("run ") for mode in second["modes"])
    assert evalsuite("plan", folder / "tiny.yaml", "--psi", 3).returncode == 2
    assert "P(SAFE)" in evalsuite("plan", folder / "tiny.yaml").stdout
def test_quantize_writes_a_checkpoint_that_runs_as_shipped(tiny_model: Path, tmp_path: Path):
    done = evalsuite("quantize", tiny_model, "--recipe", "fp8-e4m3", "--out", tmp_path / "fp8", "--json")
    document = json.loads(done.stdout)["checkpoint"]
    (tmp_path / "s.yaml").write_text(
        SUITE.replace("reference", str(tiny_model)).replace("ref_truth", "ref_ordering_mc")
        .replace("[bf16, fp8-e4m3]", f"[bf16, {{id: s, model: {tmp_path / 'fp8'}, recipe: as-shipped}}]")
    )  # fmt: skip
    ran = evalsuite("run", tmp_path / "s.yaml", "--limit", 3, "--json", "--results", tmp_path / "r")

    assert (done.returncode, ran.returncode) == (0, 0), done.stderr + ran.stderr
    assert (document["recipe"], document["layout"], document["found"]["weights"]) == ("fp8-e4m3", "deepseek", 14)
    manifest = next((tmp_path / "r").glob("*/manifest.json")).read_text()
    assert document["weights_sha256"] in manifest
    assert "as-shipped: fp8-e4m3" in manifest


@pytest.mark.parametrize(
    ("model", "recipe", "out", "code", "words"),
    [
        (None, "fp8-ue8m1", "new", 2, "Unknown recipe 'fp8-ue8m1'. Did you mean 'fp8-ue8m0'"),
        (None, "int8-row", "new", 2, "Recipes that can be written: fp8-e4m3"),
        (None, "fp8-e4m3", "full", 5, "exists already and is not an empty folder"),
        ("./absent", "fp8-e4m3", "new", 3, "does not exist"),
    ],
)
def test_quantize_refuses_what_it_cannot_write_and_leaves_nothing(
    model, recipe, out, code, words, tiny_model, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys
):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    arguments = ["quantize", str(model or tiny_model), "--recipe", recipe, "--out", str(tmp_path / out)]
    monkeypatch.setattr(sys, "argv", ["evalsuite", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err

    assert (ended.value.code, words in error) == (code, True), error
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["full", "mine"]
