"""Import of lm-eval's sample logs: four versions written by lm-eval itself, edge cases, and no torch anywhere."""

import gzip
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from evalsuite import workflow
from evalsuite.cli import app
from evalsuite.errors import NotComparableError, SuiteError, UsageError
from evalsuite.importing import Asked, keep
from evalsuite.importing.arms import name_arms
from evalsuite.importing.folders import Log, find_log
from evalsuite.importing.lines import read_answers
from evalsuite.importing.lm_eval import read_logs
from evalsuite.importing.scoring import choose, parse_choices
from evalsuite.records import SAMPLE_COLUMNS, Manifest
from evalsuite.store import Store, read_manifest

LOGS = Path(__file__).parent / "lm_eval_logs"
VERSIONS = sorted(path.name for path in LOGS.glob("v*"))
CHOICES = {"metrics": ("acc",), "filters": ("strict-match",)}


def imported(base: Path, cand: Path, **asked):
    """The two logs as a run, not stored."""
    return read_logs(Asked(baseline=base, candidate=cand, **{**CHOICES, **asked}))


def judged(run, tmp_path: Path):
    stored, _ = keep(run, Store(tmp_path / "results"))
    return workflow.judge(stored, Store(tmp_path / "results").runs())


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A copy of the newest logs, to be changed."""
    shutil.copytree(LOGS / "v0.4.13", tmp_path / "logs")
    return tmp_path / "logs"


def samples_file(folder: Path, task: str) -> Path:
    return next(folder.rglob(f"samples_{task}_*.jsonl"))


def change(folder: Path, task: str, edit) -> None:
    """Rewrite the lines of a log; an edit that returns None drops the line."""
    file = samples_file(folder, task)
    lines = [edit(json.loads(line)) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines if line is not None))


def change_results(folder: Path, edit) -> None:
    file = next(folder.rglob("results_*.json"))
    data = json.loads(file.read_text())
    edit(data)
    file.write_text(json.dumps(data))


def test_four_versions_of_the_format_are_tested():
    assert VERSIONS == ["v0.4.13", "v0.4.2", "v0.4.3", "v0.4.8"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_gives_the_scores_that_lm_eval_reports(version: str):
    log = find_log(LOGS / version / "cand")
    run = imported(LOGS / version / "base", LOGS / version / "cand")
    for task in run.spec.tasks:
        rows = next(rows for cell, rows in run.rows.items() if cell.arm == "tiny-FP8" and cell.task == task.task)
        reported = log.of_task("results", task.task)[f"{task.metric},{task.filter}"]

        assert sum(row["score"] for row in rows) / len(rows) == pytest.approx(reported)


@pytest.mark.parametrize("version", [v for v in VERSIONS if v != "v0.4.13"])
def test_old_and_new_logs_hold_the_same_samples(version: str):
    new, old = (imported(LOGS / v / "base", LOGS / v / "cand") for v in ("v0.4.13", version))

    assert {cell.key: rows for cell, rows in old.rows.items()} == {cell.key: rows for cell, rows in new.rows.items()}
    assert dict(old.items) == dict(new.items)


def test_hashes_that_an_old_log_lacks_are_those_that_a_new_one_states():
    file = samples_file(LOGS / "v0.4.13" / "base", "mini_size")
    stated = [json.loads(line) for line in file.read_text().splitlines()]
    old = read_answers(next((LOGS / "v0.4.2" / "base").glob("*mini_size.jsonl")), ["none"])

    assert [(s["doc_hash"][:16], s["prompt_hash"][:16]) for s in stated] == [(a.item_hash, a.prompt_hash) for a in old]


@pytest.mark.parametrize("version", VERSIONS)
def test_filters_are_told_apart_where_the_log_does_not_name_them(version: str, tmp_path: Path):
    strict, flexible = (imported(LOGS / version / "base", LOGS / version / "cand", filters=(name,))
                        for name in ("strict-match", "flexible-extract"))  # fmt: skip
    right = [sum(row["correct"] for cell, rows in run.rows.items() for row in rows
                 if (cell.arm, cell.task) == ("tiny", "mini_sums")) for run in (strict, flexible)]  # fmt: skip

    assert right == [6, 7]


def test_a_run_of_the_store_is_written_that_every_verb_reads(tmp_path: Path):
    results = tmp_path / "results"
    args = ["import", "lm-eval", str(LOGS / "v0.4.13/base"), str(LOGS / "v0.4.13/cand"), "--noise",
            str(LOGS / "v0.4.13/again"), "--metric", "acc", "--filter", "strict-match",
            "--results", str(results)]  # fmt: skip
    done = CliRunner().invoke(app, args)
    manifest = Store(results).run().manifest
    samples = Store(results).run().samples()
    shown = CliRunner().invoke(app, ["show", "last", "mini_sums/8", "--results", str(results)])
    verdict = CliRunner().invoke(app, ["verdict", "--results", str(results)])
    page = workflow.publish(results)

    assert done.exit_code == 0, done.output
    assert "INCONCLUSIVE: on new items like these 30 (direct mode), tiny-FP8" in done.stdout.replace("\n", " ")
    assert (manifest.provenance, manifest.status) == ("imported", "done")
    assert list(samples.columns) == list(SAMPLE_COLUMNS)
    assert {"tiny", "tiny-FP8", "tiny@aa"} == set(samples["arm"])
    assert shown.output.count("nothing found (unparsable)") == 3
    assert verdict.exit_code == 11
    text = "".join(file.read_text() for file in page.parent.rglob("*.html"))
    assert "not recorded in the imported logs" in text


def test_what_the_logs_do_not_hold_is_unknown_not_zero(tmp_path: Path):
    stored, _ = keep(imported(LOGS / "v0.4.13/base", LOGS / "v0.4.13/cand"), Store(tmp_path))
    samples = stored.samples()

    for column in ("truncated", "n_prompt_tokens", "n_output_tokens", "n_thinking_tokens", "finish_reason", "seed"):
        assert samples[column].isna().all(), column
    assert all(record.realised is None for record in stored.manifest.cells.values())
    assert stored.manifest.spec.arms[0].recipe.compute == "unknown"


def test_choices_keep_their_log_likelihoods_margin_and_chance():
    run = imported(LOGS / "v0.4.13/base", LOGS / "v0.4.13/cand")
    row = next(rows[0] for cell, rows in run.rows.items() if cell.key == "tiny.mini_size.direct.r0")
    chance = {task.task: task.chance for task in run.spec.tasks}

    assert (row["gold"], row["prediction"], row["tie"]) == ("2", "2", False)
    assert row["margin"] == pytest.approx(row["choice_loglikelihoods"][1] - row["choice_loglikelihoods"][0])
    assert chance == {"mini_size": 0.5, "mini_age": pytest.approx(1 / 3, abs=1e-6), "mini_sums": None}


def test_equal_best_log_likelihoods_are_a_tie(logs: Path):
    def tie(line):
        return line | {"filtered_resps": [["-1.5", "False"]] * 2, "acc": float(line["target"] == "0")}

    change(logs / "base", "mini_size", tie)
    run = imported(logs / "base", logs / "cand", tasks=("mini_size",))

    assert all(row["tie"] for cell, rows in run.rows.items() if cell.arm == "tiny" for row in rows)


def test_the_same_logs_imported_twice_are_one_run_and_another_margin_is_another(tmp_path: Path):
    one, two, three = (imported(LOGS / "v0.4.8/base", LOGS / "v0.4.8/cand", margin=m) for m in (0.1, 0.1, 0.2))
    store = Store(tmp_path)

    assert [keep(run, store)[1] for run in (one, two, three)] == [True, False, True]
    assert len(store.runs()) == 2
    assert judged(two, tmp_path / "x").decisions[0].attempt == 1


def test_changed_prompts_are_invalid_with_the_reason_and_code_12(logs: Path, tmp_path: Path):
    change(logs / "cand", "mini_age", lambda line: line | {"prompt_hash": "0" * 64} if line["doc_id"] == 3 else line)
    args = ["import", "lm-eval", str(logs / "base"), str(logs / "cand"), "--metric", "acc", "--filter", "strict-match",
            "--results", str(tmp_path / "r")]  # fmt: skip
    plain, gate = CliRunner().invoke(app, args), CliRunner().invoke(app, [*args, "--gate"])

    assert (plain.exit_code, gate.exit_code) == (0, 12)
    assert "1 items were asked with different prompts" in plain.stdout.replace("\n", " ")


def test_other_task_versions_are_invalid_for_that_task(logs: Path, tmp_path: Path):
    change_results(logs / "cand", lambda data: data["versions"].update(mini_sums=3.0))
    decision = judged(imported(logs / "base", logs / "cand"), tmp_path).decisions[0]

    assert decision.verdict == "INVALID"
    assert "task version 2 in the baseline's log, 3 in the other" in decision.sentence
    assert {task.subject.task: task.verdict for task in decision.tasks}["mini_sums"] == "INVALID"
    assert {task.subject.task: task.verdict for task in decision.tasks}["mini_age"] == "INCONCLUSIVE"
    assert "NOT_COMPARABLE" in {finding.code for finding in decision.findings}


def test_other_items_under_the_same_number_are_invalid(logs: Path, tmp_path: Path):
    change(logs / "cand", "mini_age", lambda line: line | {"doc_hash": "f" * 64} if line["doc_id"] == 0 else line)
    decision = judged(imported(logs / "base", logs / "cand"), tmp_path).decisions[0]

    assert decision.verdict == "INVALID"
    assert "1 items have another content under the same number (the first: 0)" in decision.sentence


def test_items_in_one_arm_only_are_missing(logs: Path, tmp_path: Path):
    change(logs / "cand", "mini_age", lambda line: None if line["doc_id"] == 3 else line)
    change(logs / "base", "mini_age", lambda line: None if line["doc_id"] in (5, 6) else line)
    counts = judged(imported(logs / "base", logs / "cand"), tmp_path).decisions[0].pooled.counts

    assert (counts.missing_cand, counts.missing_base, counts.n) == (1, 2, 27)


@pytest.mark.parametrize("bad", ["nan", "-inf"])
def test_log_likelihoods_that_are_no_numbers_are_missing_and_said(bad: str, logs: Path, tmp_path: Path):
    def spoil(line):
        return line | {"filtered_resps": [[bad, "False"], *line["filtered_resps"][1:]]} if line["doc_id"] == 4 else line

    change(logs / "cand", "mini_size", spoil)
    run = imported(logs / "base", logs / "cand")

    assert any("1 items have a score or a log-likelihood that is no number" in note for note in run.notes)
    assert judged(run, tmp_path).decisions[0].pooled.counts.missing_cand == 1


def test_a_task_of_one_log_only_is_missing_unless_it_is_left_out(logs: Path, tmp_path: Path):
    samples_file(logs / "cand", "mini_age").unlink()
    whole = judged(imported(logs / "base", logs / "cand"), tmp_path / "a").decisions[0]
    part = judged(imported(logs / "base", logs / "cand", tasks=("mini_s*",)), tmp_path / "b").decisions[0]

    assert (whole.verdict, whole.pooled.counts.missing_cand) == ("INVALID", 10)
    assert (part.verdict, part.pooled.n) == ("INCONCLUSIVE", 20)


def test_logs_without_a_common_task_are_refused(logs: Path):
    for task in ("mini_size", "mini_sums"):
        samples_file(logs / "cand", task).unlink()
    samples_file(logs / "base", "mini_age").unlink()

    with pytest.raises(NotComparableError, match="No task is in both logs"):
        imported(logs / "base", logs / "cand")


def test_a_second_baseline_run_is_the_noise_floor(logs: Path, tmp_path: Path):
    quiet = judged(imported(logs / "base", logs / "cand", noise=logs / "again"), tmp_path / "a").decisions[0]
    other = judged(imported(logs / "base", logs / "cand", noise=logs / "cand"), tmp_path / "b").decisions[0]
    none = judged(imported(logs / "base", logs / "cand"), tmp_path / "c").decisions[0]

    assert (quiet.noise.n10, quiet.noise.n01) == (0, 0)
    assert other.noise.n10 + other.noise.n01 == 11
    assert "NOISE_FLOOR_MISSING" in {finding.code for finding in none.findings}
    change_results(logs / "again", lambda data: data["versions"].update(mini_sums=3.0))
    with pytest.raises(NotComparableError, match="--noise"):
        imported(logs / "base", logs / "cand", noise=logs / "again")


def test_other_settings_are_a_warning_that_names_them(logs: Path, tmp_path: Path):
    change_results(logs / "cand", lambda data: data["config"].update(limit=5))
    change(logs / "cand", "mini_sums", lambda line: line | {"arguments": {"gen_args_0": {
        "arg_0": line["arguments"]["gen_args_0"]["arg_0"], "arg_1": {"until": [], "max_gen_toks": 9}}}})  # fmt: skip
    messages = [f.message for f in judged(imported(logs / "base", logs / "cand"), tmp_path).decisions[0].findings
                if f.code == "SETTINGS_DIFFER"]  # fmt: skip

    assert any("limit not stated against 5" in message for message in messages)
    keys = "until, do_sample, temperature, max_gen_toks"
    assert any(f"mini_sums was generated with different {keys}" in message for message in messages)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_group_stands_for_its_tasks(version: str):
    run = imported(LOGS / version / "base", LOGS / version / "cand", tasks=("mini_group",))

    assert {task.task for task in run.spec.tasks} == {"mini_age", "mini_size"}


def test_files_of_others_beside_an_old_log_do_no_harm(tmp_path: Path):
    shutil.copytree(LOGS / "v0.4.2" / "base", tmp_path / "base")
    (tmp_path / "base" / "notes.json").write_text("{not json")

    assert set(find_log(tmp_path / "base").samples) == {"mini_age", "mini_size", "mini_sums"}
    (tmp_path / "base" / "results.json").write_text("{not json")
    with pytest.raises(SuiteError, match="results.json:1:2: not valid JSON"):
        find_log(tmp_path / "base")


def test_the_newest_of_several_runs_is_read_and_that_is_said(logs: Path):
    folder = next((logs / "base").iterdir())
    old = samples_file(folder, "mini_age")
    shutil.copy(old, folder / "samples_mini_age_2020-01-01T00-00-00.000000.jsonl")
    log = find_log(logs / "base")

    assert log.samples["mini_age"] == old
    assert "2 runs; the newest" in log.notes[0]
    assert "Older logs left aside: mini_age" in log.notes[0]


def test_a_results_file_chooses_the_run(logs: Path):
    folder = next((logs / "base").iterdir())
    shutil.copy(samples_file(folder, "mini_age"), folder / "samples_mini_age_2020-01-01T00-00-00.000000.jsonl")
    shutil.copy(next(folder.glob("results_*")), folder / "results_2020-01-01T00-00-00.000000.json")

    assert list(find_log(folder / "results_2020-01-01T00-00-00.000000.json").samples) == ["mini_age"]


def test_a_gzipped_log_is_read(logs: Path):
    file = samples_file(logs / "base", "mini_age")
    (file.parent / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()

    assert len(imported(logs / "base", logs / "cand", tasks=("mini_age",)).items["mini_age.direct"]) == 10


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def packed(folder: Path) -> None:
    empty(folder)
    (folder / "logs.tar.gz").write_bytes(b"x")


def unlogged(folder: Path) -> None:
    for file in folder.rglob("samples_*"):
        file.unlink()


def foreign(folder: Path) -> None:
    empty(folder)
    (folder / "notes.txt").write_text("no log")


def two_models(folder: Path) -> None:
    shutil.copytree(folder / "example__tiny", folder / "example__other")


def torn(folder: Path) -> None:
    file = samples_file(folder, "mini_age")
    file.write_text(file.read_text()[:-200])


def pointer(folder: Path) -> None:
    samples_file(folder, "mini_age").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def other_lines(folder: Path) -> None:
    samples_file(folder, "mini_age").write_text('{"question": "?"}\n')


def blank(folder: Path) -> None:
    samples_file(folder, "mini_age").write_text("")


@pytest.mark.parametrize(("spoil", "error", "words"), [
    (empty, UsageError, "the folder is empty"), (packed, UsageError, "packed files (logs.tar.gz). Unpack them first"),
    (unlogged, UsageError, "--log_samples"), (foreign, UsageError, "no lm-eval logs"),
    (two_models, UsageError, "logs of 2 models or runs"), (torn, SuiteError, "jsonl:10:"),
    (pointer, SuiteError, "git lfs pull"), (other_lines, SuiteError, "jsonl:1:1: not a sample of lm-eval"),
    (blank, SuiteError, "no samples in this file"), (shutil.rmtree, UsageError, "no such folder"),
])  # fmt: skip
def test_what_is_no_log_is_refused_with_what_to_do(spoil, error, words: str, logs: Path):
    spoil(logs / "base")

    with pytest.raises(error) as raised:
        imported(logs / "base", logs / "cand")
    assert words in str(raised.value)


def test_open_choices_are_errors_that_list_them(logs: Path):
    with pytest.raises(UsageError, match="several: metric acc, acc_norm. State the one that counts"):
        imported(logs / "base", logs / "cand", metrics=())
    with pytest.raises(UsageError, match="several: filter strict-match, flexible-extract"):
        imported(logs / "base", logs / "cand", filters=())
    with pytest.raises(UsageError, match="logged no metric 'f1'"):
        imported(logs / "base", logs / "cand", metrics=("mini_*=f1",))
    with pytest.raises(UsageError, match="no such task"):
        imported(logs / "base", logs / "cand", tasks=("gsm8k",))
    with pytest.raises(UsageError, match="TASK=NAME"):
        parse_choices(["=acc"], "metric")


def test_a_choice_for_a_task_wins_over_a_pattern_and_a_pattern_over_a_bare_name():
    metrics = ("acc", "mini_*=acc_norm", "mini_age=acc")
    run = imported(LOGS / "v0.4.13/base", LOGS / "v0.4.13/cand", metrics=metrics, tasks=("mini_age", "mini_size"))

    assert {task.task: task.metric for task in run.spec.tasks} == {"mini_size": "acc_norm", "mini_age": "acc"}


def test_a_metric_that_is_not_right_or_wrong_does_not_count(logs: Path):
    for arm in ("base", "cand"):
        change(logs / arm, "mini_age", lambda line: line | {"acc_norm": 0.5})
    answers = read_answers(samples_file(logs / "base", "mini_age"), ["none"])

    assert choose("mini_age", [answers, answers], (), ()) == ("acc", "none")
    for answer in answers:
        answer.scores["acc"] = math.pi
    with pytest.raises(UsageError, match="no metric is 0 or 1"):
        choose("mini_age", [answers, answers], (), ())


def test_what_the_catalogue_states_needs_no_choice(logs: Path):
    for arm in ("base", "cand"):
        file = samples_file(logs / arm, "mini_sums")
        file.rename(file.with_name(file.name.replace("mini_sums", "gsm8k")))
    run = imported(logs / "base", logs / "cand", metrics=(), filters=(), tasks=("gsm8k",))

    assert (run.spec.tasks[0].filter, run.spec.tasks[0].margin) == ("flexible-extract", 0.02)


def log_of(args: str) -> Log:
    return Log(Path("run"), {}, {"config": {"model": "hf", "model_args": args}})


@pytest.mark.parametrize(("base", "cand", "asked", "names"), [
    ("pretrained=org/m", "pretrained=org/m-FP8", (None, None), ("m", "m-FP8")),
    ("pretrained=org/m,dtype=bfloat16", "pretrained=org/m,dtype=float8", (None, None),
     ("m-dtype-bfloat16", "m-dtype-float8")),
    ("pretrained=org/m", "pretrained=org/m", (None, None), ("baseline", "candidate")),
    ("pretrained=org/m", "pretrained=org/m", ("bf16", "fp8"), ("bf16", "fp8")),
    ("model=./out/my model/", "model=x", (None, "y"), ("my-model", "y")),
])  # fmt: skip
def test_arms_are_named_by_what_tells_them_apart(base, cand, asked, names):
    assert names == name_arms(log_of(base), log_of(cand), asked)


def test_names_that_cannot_be_folders_or_are_equal_are_refused():
    with pytest.raises(UsageError, match="letters, digits"):
        name_arms(log_of("model=a"), log_of("model=b"), ("a/b", None))
    with pytest.raises(UsageError, match="Both arms are called"):
        name_arms(log_of("model=a"), log_of("model=b"), ("a", "a"))


def test_usage_errors_have_code_2(tmp_path: Path):
    base, cand = str(LOGS / "v0.4.13/base"), str(LOGS / "v0.4.13/cand")
    for args in (["lm-evl", base, cand], ["lm-eval", base], ["lm-eval", base, cand, "--margin", "1"]):
        done = subprocess.run([sys.executable, "-m", "evalsuite", "import", *args, "--results", str(tmp_path / "r")],
                              capture_output=True, text=True, check=False)  # fmt: skip

        assert (done.returncode, done.stdout) == (2, "")
        assert not (tmp_path / "r").exists()


def test_a_large_equal_pair_is_safe(logs: Path, tmp_path: Path):
    for arm in ("base", "cand"):
        file = samples_file(logs / arm, "mini_age")
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(
            json.dumps(line | {"doc_id": 10 * i + line["doc_id"], "doc_hash": f"{i:08x}{line['doc_id']:08x}" * 4,
                               "acc": float(line["doc_id"] > 1)}) + "\n" for i in range(40) for line in lines
        ))  # fmt: skip
    run = imported(logs / "base", logs / "cand", tasks=("mini_age",), margin=0.02)
    judgement = judged(run, tmp_path)

    assert (judgement.verdict, judgement.exit_code) == ("SAFE", 0)
    assert run.spec.tasks[0].margin == 0.03  # guard by size: 400 items


def test_importing_needs_no_torch_and_no_lm_eval(tmp_path: Path):
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'lm_eval', 'datasets'): sys.modules[name] = None\n"
        f"sys.argv = ['evalsuite', 'import', 'lm-eval', {str(LOGS / 'v0.4.13/base')!r}, "
        f"{str(LOGS / 'v0.4.13/cand')!r}, '--metric', 'acc', "
        f" '--filter', 'strict-match', '--results', {str(tmp_path)!r}, '--json', '--gate']\n"
        "from evalsuite.cli import main\n"
        "main()\n"
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 11, done.stderr
    assert json.loads(done.stdout)["run"]["verdict"] == "INCONCLUSIVE"


def test_an_imported_run_cannot_be_resumed(tmp_path: Path):
    keep(imported(LOGS / "v0.4.8/base", LOGS / "v0.4.8/cand"), Store(tmp_path))
    done = subprocess.run([sys.executable, "-m", "evalsuite", "run", "--resume", "last", "--results", str(tmp_path)],
                          capture_output=True, text=True, check=False)  # fmt: skip

    assert done.returncode == 5
    assert "was imported, not measured" in done.stderr


def test_a_manifest_without_provenance_was_measured(tmp_path: Path):
    stored, _ = keep(imported(LOGS / "v0.4.8/base", LOGS / "v0.4.8/cand"), Store(tmp_path))
    data = stored.manifest.model_dump(mode="json")
    del data["provenance"]
    (tmp_path / "manifest.json").write_text(json.dumps(data))

    assert isinstance(stored.manifest, Manifest)
    assert read_manifest(tmp_path / "manifest.json").provenance == "measured"
    assert isinstance(stored.samples(), pd.DataFrame)
