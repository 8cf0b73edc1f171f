"""The site as files: what is written, what it links to, and that nothing of ours or of others is interpreted."""

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_publish_bench_sample import document, emulated, estimated, foreign, judged, metered, native, renamed, rows
from test_publish_sample import TASKS, counts, decision, sample_run, spec, summary

from evalsuite import resources
from evalsuite.cli import VERBS
from evalsuite.errors import CannotRunError, UsageError
from evalsuite.publish import JudgedBench, JudgedRun, Speeds, build_site, pages
from evalsuite.publish.energy import ESTIMATE
from evalsuite.records import REASONS, Arm, ModelRef, SuiteDecision

VOID = {"meta", "link", "br", "wbr", "input", "path", "circle", "use", "img"}
EVIL = '"><img src=x onerror="window.pwned=1"></script><script>window.pwned=1</script>'


class Reader(HTMLParser):
    """What a page loads and links to, and whether its tags are balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.faults: list[str] = []
        self.handlers: list[str] = []
        self.text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.handlers += [name for name in values if name.startswith("on")]
        if tag in ("script", "img", "iframe", "source", "use"):
            self.loads += [values[key] for key in ("src", "href") if values.get(key)]
        if tag == "link":
            self.loads.append(values["href"])
        if tag == "a":
            self.links.append(values["href"])
        if tag == "script" and "src" not in values:
            self.faults.append("inline script")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        self.text.append(data)


def html(site: Path) -> dict[str, Reader]:
    return {str(path.relative_to(site)): Reader(path) for path in sorted(site.rglob("*.html"))}


def broken_run() -> JudgedRun:
    """A partial run: one failed cell, one cell not run, one arm that gave nothing parsable, one that got all wrong."""
    run = sample_run()
    change = {
        "fp8-ue8m0.ref_boolean.thinking.r0": {"status": "failed", "n_done": 0, "error": "OutOfMemoryError: 2.1 GiB"},
        "fp8-ue8m0.ref_counting.thinking.r0": {"status": "planned", "n_done": 0, "realised": None},
    }
    cells = {key: r.model_copy(update=change.get(key, {})) for key, r in run.manifest.cells.items()}
    gone = {("fp8-ue8m0", task, "thinking") for task in ("ref_boolean", "ref_counting")}
    other = {
        ("fp8-ue8m0", "ref_chain_sum", "thinking"): {"n_unparsable": 800, "accuracy": 0.0, "ci": (0.0, 0.003)},
        ("fp8-ue8m0", "ref_ordering_mc", "thinking"): {"n_correct": 0, "accuracy": 0.0, "ci": (0.0, 0.004)},
    }
    arms = [s.model_copy(update=other.get((s.arm, s.task, s.mode), {}))
            for s in run.judgement.arms if (s.arm, s.task, s.mode) not in gone]  # fmt: skip
    decisions = tuple(_without_numbers(d) if _key(d) == ("fp8-ue8m0", "thinking") else d
                      for d in run.judgement.decisions)  # fmt: skip
    judgement = run.judgement.model_copy(update={"arms": tuple(arms), "decisions": decisions, "verdict": "INVALID"})
    return JudgedRun(run.manifest.model_copy(update={"cells": cells, "status": "partial"}), judgement)


def _key(suite: SuiteDecision) -> tuple[str, str]:
    return suite.pooled.subject.candidate, suite.pooled.subject.mode


def _without_numbers(suite: SuiteDecision) -> SuiteDecision:
    """The decision with two tasks and the pool untested."""

    def empty(gate):
        return decision(gate.subject, counts(0, 0, 0, 0.0), gate.plan.margin, gate.plan.role)

    tasks = tuple(empty(t) if t.subject.task in ("ref_boolean", "ref_counting") else t for t in suite.tasks)
    return suite.model_copy(update={
        "verdict": "INVALID", "pooled": empty(suite.pooled), "tasks": tasks,
        "sentence": "INVALID: no verdict: of 2,000 items 600 are missing.",
    })  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return build_site([sample_run()], tmp_path_factory.mktemp("publish") / "site", speeds()).out


def speeds() -> Speeds:
    """Two benches, the newer one with a meter and answers, and a result of another program."""
    old = renamed(judged(document(*rows()), answers=True), bench_id="old", created="2026-11-20T00:00:00Z")
    return Speeds([old, judged(metered(), answers=True)], [foreign()])


# --------------------------------------------------------------------------------------------------------- structure


def test_every_page_is_written_once_at_the_top_and_once_a_run(site):
    found = set(html(site))
    run = sample_run().slug

    assert {page.file for page in pages.PAGES} <= found
    assert {f"runs/{run}/{page.file}" for page in pages.PAGES if page.scope == "run"} <= found
    for bench in speeds().benches:
        assert {f"benches/{bench.slug}/{page.file}" for page in pages.PAGES if page.scope == "bench"} <= found


def test_pages_are_balanced_and_hold_no_inline_script_or_handler(site):
    for name, page in html(site).items():
        assert not page.faults, name
        assert not page.open, name
        assert not page.handlers, name


def test_nothing_is_loaded_from_elsewhere(site):
    for name, page in html(site).items():
        for target in page.loads:
            assert target.startswith(("#", "data:,")) or ((site / name).parent / target).is_file(), target
    for path in site.rglob("*"):
        if path.suffix in (".html", ".css", ".js") and path.name != "plotly.min.js":
            assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", path.read_text(encoding="utf-8")), path


def test_every_link_leads_to_a_file_of_the_site(site):
    for name, page in html(site).items():
        for target in page.links:
            file = target.split("#")[0]
            assert not file or ((site / name).parent / file).is_file(), f"{name}: {target}"


def test_plotly_lies_there_once_and_only_chart_pages_load_it(site):
    assert len(list(site.rglob("plotly.min.js"))) == 1
    loading = {name for name, page in html(site).items() if any("plotly" in target for target in page.loads)}
    assert {Path(name).name for name in loading} == {page.file for page in pages.PAGES if page.charts}


def test_the_manifest_hashes_every_file(site):
    manifest = json.loads((site / "site.json").read_text(encoding="utf-8"))
    files = {str(p.relative_to(site)) for p in site.rglob("*") if p.is_file()} - {"site.json"}

    assert set(manifest["files"]) == files
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((site / name).read_bytes()).hexdigest() == digest, name


def test_the_essentials_stand_in_the_page_without_a_script(site):
    text = " ".join(" ".join(html(site)["index.html"].text).split())

    for d in sample_run().judgement.decisions:
        assert d.verdict in text
        for gate in (d.pooled, *d.tasks):
            assert f"{gate.counts.n10:,} lost, {gate.counts.n01:,} gained of {gate.n:,}" in text
    assert "Not measured" in text
    assert "emulated arm" in text


def test_speed_and_energy_are_never_a_number(site):
    tiles = re.findall(r'<div class="card tile none">.*?</div>', (site / "index.html").read_text(encoding="utf-8"))

    assert len(tiles) == 2 * len(sample_run().judgement.decisions)
    assert not any(re.search(r"\d", re.sub(r"<[^>]*>", "", tile)) for tile in tiles)


def test_the_newest_run_is_the_start_page(tmp_path):
    old, new = (sample_run(run_id=name, created=f"2026-11-{day}T00:00:00Z") for name, day in (("old", 20), ("new", 24)))
    site = build_site([old, new], tmp_path / "site").out

    assert 'data-run="new"' in (site / "index.html").read_text(encoding="utf-8")
    assert 'data-run="old"' in (site / "runs/old/index.html").read_text(encoding="utf-8")


# -------------------------------------------------------------------------------------------------------- promises


def test_the_same_runs_give_the_same_bytes(tmp_path):
    runs = [sample_run(), broken_run_named("other")]

    some = speeds()
    one = build_site(runs, tmp_path / "one", some)
    two = build_site(runs[::-1], tmp_path / "two", Speeds(some.benches[::-1], some.imported))

    assert one.files == two.files
    assert (one.out / "site.json").read_bytes() == (two.out / "site.json").read_bytes()


def broken_run_named(name: str) -> JudgedRun:
    run = broken_run()
    return JudgedRun(run.manifest.model_copy(update={"run_id": name}), run.judgement)


def test_sizes_stay_within_their_budget(tmp_path):
    tasks = tuple(spec().tasks[0].model_copy(update={"task": f"bbh_cot_zeroshot_{i:02}"}) for i in range(12))
    report = build_site([sample_run(spec(tasks=tasks))], tmp_path / "site")

    first = [report.out / "index.html", *(report.out / "assets" / name for name in ("app.css", "app.js"))]
    assert sum(path.stat().st_size for path in first) <= 150_000
    assert report.size_bytes - (report.out / "assets/plotly.min.js").stat().st_size <= 2_000_000


def test_hostile_names_are_text_everywhere(tmp_path):
    model = ModelRef(id=EVIL, revision=EVIL)
    arms = tuple(arm.model_copy(update={"model": model}) for arm in spec().arms)
    tasks = tuple(task.model_copy(update={"task": f"{EVIL}{i}"}) for i, task in enumerate(spec().tasks))
    run = sample_run(spec(name=EVIL, model=model, arms=arms, tasks=tasks), run_id=f"../../{EVIL}", command=EVIL,
                     machine={"processor": EVIL, EVIL: EVIL}, software={EVIL: EVIL})  # fmt: skip

    site = build_site([run], tmp_path / "site", hostile_speeds()).out

    for name, page in html(site).items():
        assert not page.faults, name
        assert not page.handlers, name
        assert "x" not in page.loads, name
    assert EVIL in "".join(html(site)["index.html"].text)
    assert EVIL in "".join(html(site)["throughput.html"].text)
    assert EVIL in "".join(html(site)["energy.html"].text)
    assert all("<" not in path.read_text(encoding="utf-8") for path in (site / "data").rglob("*.js"))
    bench = hostile_speeds().benches[0].slug
    assert {path.parent for path in tmp_path.rglob("*.html")} == {
        site, site / "runs" / run.slug, site / "benches" / bench}  # fmt: skip


def hostile_speeds(text: str = EVIL) -> Speeds:
    """A bench and an imported result in which everything that is not ours is hostile."""
    bench, model = metered(), ModelRef(id=text, revision=text)
    arms = tuple(Arm(id=arm.id, model=model, recipe=arm.recipe.model_copy(update={"label": f"{text}{arm.id}"}))
                 for arm in bench.spec.arms)  # fmt: skip
    point = bench.workloads[0].model_copy(update={"preset": text})
    made = [row.model_copy(update={"workload": point, "detail": text} if row.workload == bench.workloads[0] else {})
            for row in bench.measurements]  # fmt: skip
    changed = bench.model_copy(update={
        "spec": bench.spec.model_copy(update={"arms": arms, "model": model, "suite": text, "engine": text}),
        "bench_id": f"../../{text}", "command": text, "machine": {text: text}, "software": {text: text},
        "environment": {text: text}, "measurements": tuple(made),
        "meters": tuple(meter.model_copy(update={"note": text}) for meter in bench.meters),
    })  # fmt: skip
    named = dict.fromkeys(("label", "model", "hardware", "precision", "file_name", "source_tool"), text)
    return Speeds([judged(changed)], [foreign(**named, notes=(text,))])


def test_a_failed_publish_leaves_the_old_site_and_nothing_else(tmp_path, monkeypatch):
    out = tmp_path / "site"
    build_site([sample_run()], out)
    before = (out / "site.json").read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pages, "_write_manifest", fail)

    with pytest.raises(CannotRunError, match="No space left on device"):
        build_site([sample_run(run_id="new")], out)
    assert (out / "site.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_site_is_replaced_whole(tmp_path):
    out = tmp_path / "site"
    build_site([sample_run(run_id="first")], out)

    build_site([sample_run(run_id="second")], out)

    assert not (out / "runs" / "first").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


@pytest.mark.parametrize("content", ["notes.txt", "site.json"])
def test_a_folder_that_is_no_site_is_left_alone(tmp_path, content):
    (tmp_path / content).write_text("{}", encoding="utf-8")

    with pytest.raises(UsageError, match="left alone"):
        build_site([sample_run()], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [content]


# ---------------------------------------------------------------------------------------------------------- states


def test_an_empty_store_gives_pages_that_say_so(tmp_path):
    for page in html(build_site([], tmp_path / "site").out).values():
        assert re.search("No (runs|benches) yet", "".join(page.text))


def test_a_run_without_decisions_says_so(tmp_path):
    run = sample_run()
    judgement = run.judgement.model_copy(update={"decisions": (), "arms": (), "verdict": "INVALID"})
    nothing = JudgedRun(run.manifest.model_copy(update={"status": "running"}), judgement)

    site = build_site([nothing], tmp_path / "site").out

    assert "No decision yet" in "".join(html(site)["index.html"].text)
    assert "This run is running" in "".join(html(site)["index.html"].text)


def test_missing_failed_unparsable_and_zero_are_four_different_things(tmp_path):
    page = (build_site([broken_run()], tmp_path / "site").out / "tasks.html").read_text(encoding="utf-8")

    assert 'class="absent failed"' in page
    assert "failed: OutOfMemoryError: 2.1 GiB" in page
    assert 'class="absent missing"' in page
    assert "not run yet" in page
    assert 'class="absent unparsable"' in page
    assert "nothing parsable in 800 answers" in page
    assert '<span class="num">0.0\N{NO-BREAK SPACE}%</span> <span class="num ci">[0.0, 0.4]</span>' in page


def test_a_partial_run_says_what_is_missing_and_how_to_go_on(tmp_path):
    text = "".join(html(build_site([broken_run()], tmp_path / "site").out)["index.html"].text)

    assert "This run is partial: 30 of 32 cells done" in text
    assert "evalsuite run --resume 20261124-054400-reference-a1b2" in text
    assert "1 cell failed; its items are missing" in text
    assert "not tested" not in text


def test_a_missing_noise_floor_is_said(tmp_path):
    run = sample_run(spec(arms=tuple(arm for arm in spec().arms if not arm.noise_floor)), noise=False)

    text = "".join(html(build_site([run], tmp_path / "site").out)["index.html"].text)

    assert "not in this suite" in text
    assert "NOISE_FLOOR_MISSING" in text


def test_ten_thousand_failed_cells_are_one_short_page(tmp_path):
    run = sample_run()
    one = next(iter(run.manifest.cells.values()))
    cells = {f"cell{i}": one.model_copy(update={"status": "failed", "error": "boom"}) for i in range(10_000)}

    report = build_site([JudgedRun(run.manifest.model_copy(update={"cells": cells}), run.judgement)], tmp_path / "site")

    assert "10,000 cells failed" in report.index.read_text(encoding="utf-8")
    assert (report.out / "run.html").stat().st_size < 200_000
    assert len((report.out / f"downloads/{run.slug}.cells.csv").read_text(encoding="utf-8").splitlines()) == 10_001


def test_findings_of_other_decisions_and_beyond_three_of_a_kind_are_not_repeated(tmp_path):
    run = sample_run()
    first = run.judgement.decisions[0]
    many = tuple(finding.model_copy(update={"code": "CELL_FAILED", "severity": "error", "message": f"cell {i}"})
                 for i, finding in enumerate(run.judgement.findings * 9))  # fmt: skip
    decisions = (first.model_copy(update={"findings": many}), *run.judgement.decisions[1:])
    run = JudgedRun(run.manifest, run.judgement.model_copy(update={"decisions": decisions, "findings": many}))

    page = build_site([run], tmp_path / "site").index.read_text(encoding="utf-8")

    assert page.count("CELL_FAILED") == 3
    assert "And 6 more of this kind" in page


def test_the_realised_precision_is_shown_beside_the_one_asked_for(site):
    text = " ".join(" ".join(html(site)["run.html"].text).split())

    assert "E4M3, UE8M0 scales (ceil), 1×128" in text
    assert "linear-fp32-accumulate-bf16" in text
    assert "81.6\N{NO-BREAK SPACE}%" in " ".join(html(site)["run.html"].text)
    assert "evalsuite run reference" in text
    assert "recipe: " in text


def test_a_table_row_stands_for_every_task_and_arm(site):
    page = (site / "tasks.html").read_text(encoding="utf-8").replace("<wbr>", "")

    for task in TASKS:
        assert page.count(f'<th scope="row">{task}</th>') == len(sample_run().judgement.decisions) + 2


def test_summaries_without_an_interval_are_shown_without_one(tmp_path):
    run = sample_run()
    arms = tuple(summary(s.arm, s.task, s.mode, s.n, s.n_correct, ci=None) for s in run.judgement.arms)

    build_site([JudgedRun(run.manifest, run.judgement.model_copy(update={"arms": arms}))], tmp_path / "site")


# ---------------------------------------------------------------------------------------------------------- benches


def words(path: Path) -> str:
    return " ".join(" ".join(Reader(path).text).replace("\N{NO-BREAK SPACE}", " ").split())


def row_of(page: str, name: str) -> str:
    """The first table row, as text, with that name."""
    row = next(row.split("</tr>")[0] for row in page.split("<tr")[1:] if f"{name}<" in row)
    return re.sub(r"<[^>]*>", " ", row.partition(">")[2])


def test_every_command_that_a_page_names_exists():
    named = {verb for path in resources.dashboards().glob("*.html")
             for verb in re.findall(r"evalsuite ([a-z]+)", re.sub(r"<[^>]*>", " ", path.read_text(encoding="utf-8")))}

    assert {"run", "bench"} <= named <= set(VERBS)


def test_an_empty_store_names_the_command_that_makes_a_bench(tmp_path):
    site = build_site([sample_run()], tmp_path / "site").out

    for page in ("throughput.html", "energy.html"):
        assert "No benches yet" in words(site / page)
        assert "evalsuite bench" in words(site / page)
        assert not any("plotly" in target for target in Reader(site / page).loads)


def test_the_newest_bench_is_shown_and_others_are_linked(site):
    page = (site / "throughput.html").read_text(encoding="utf-8")

    assert f'data-run="{judged(metered()).slug}"' in page
    assert 'href="benches/old/throughput.html"' in page
    assert 'data-run="old"' in (site / "benches/old/energy.html").read_text(encoding="utf-8")


def test_every_number_of_a_point_stands_in_the_page(site):
    bench = judged(metered(), answers=True)
    text = words(site / "throughput.html")

    for sentence in bench.sentences:
        assert sentence in text
    assert "9.0 MiB 28.0 MiB 3.0 KiB 30.0 MiB" in text
    assert text.count("1 voided") >= 3 * len(bench.bench.workloads)
    assert "26.7 % data sheet" in text


def test_an_emulated_arm_is_a_row_without_a_number(site):
    page = (site / "throughput.html").read_text(encoding="utf-8").replace("<wbr>", "")
    row = row_of(page[page.index('id="w0"'):], "FP8 E4M3, UE8M0 scales")

    assert "emulated – speed not meaningful" in row
    assert not re.search(r"\d", row.replace("FP8 E4M3, UE8M0 scales", "").replace("fp8-ue8m0", ""))
    for table in ("points", "ratios", "rounds", "energy"):
        csv = (site / f"downloads/benches/old.{table}.csv").read_text(encoding="utf-8").splitlines()
        numbers = {"tokens_per_s", "ratio", "j_per_token", "fraction_of_limit", "limit_ratio", "null_halfwidth"}
        head = csv[0].split(",")
        for line in (line.split(",") for line in csv if "fp8-ue8m0" in line.split(",")):
            assert all(not value for name, value in zip(head, line, strict=True) if name in numbers), table


def test_reasons_are_spelled_out_beside_the_row(tmp_path):
    cand = native("fp8-e4m3", reasons=("kernel_unproven",), detail="seen: gemm_bf16")
    bench = judged(document(native("bf16", reasons=("power_capped",)), native("bf16@null"), cand, emulated()))
    text = words(build_site([], tmp_path / "site", Speeds([bench])).out / "throughput.html")

    for code in ("kernel_unproven", "power_capped"):
        assert text.count(REASONS[code]) >= 2  # in its row, and to keep in mind
    assert "seen: gemm_bf16" in text


def test_a_bench_that_did_not_finish_says_so(tmp_path):
    bench = judged(document(native("bf16"), status="interrupted"))
    text = words(build_site([], tmp_path / "site", Speeds([bench])).out / "throughput.html")

    assert "This bench is interrupted" in text
    assert "not reached" in text
    assert "interrupted The bench was interrupted before this was measured." in text


def test_energy_names_scope_method_and_quality(site):
    text = words(site / "energy.html")

    assert "scope gpu_board , method nvml.total_energy_counter , quality L3" in text
    assert "71.5 W idle with weights loaded" in text
    assert "fp8-e4m3 uses 0.90 times the energy a token of bf16" in text
    assert "break-even" in text.lower()


def test_without_a_meter_there_are_reasons_and_no_joule(site):
    text = words(site / "benches/old/energy.html")

    assert "Energy was not measured here." in text
    assert REASONS["rapl_absent_vm"] in text
    assert "Run on the host, or use an external meter." in text
    assert "Tokens a correct answer" in text
    assert not re.search(r"\d\s*J\b|J/token|Joules a (token|correct) ", text)
    data = (site / "data/benches/old.js").read_text(encoding="utf-8")
    assert "joules" not in data


def test_the_verdict_page_shows_the_ratio_of_the_bench_that_its_answers_were_joined_with(tmp_path):
    run, bench = sample_run(), judged(metered(), answers=True)
    joined = JudgedBench(bench.bench, bench.judgement.model_copy(update={"run_id": run.manifest.run_id}))

    site = build_site([run], tmp_path / "site", Speeds([joined])).out

    page = (site / "index.html").read_text(encoding="utf-8")
    for value in ("1.20", "1.07"):  # direct answers were priced at the replay, thinking ones nowhere: the first point
        assert f"Speed ×{value} tokens/s 95 % interval [{value}, {value}] , resolved" in words(site / "index.html")
    assert page.count('class="card tile none"') == 4  # the emulated arm in two modes
    assert f'href="benches/{bench.slug}/energy.html"' in page


def test_without_answers_the_page_names_the_run_to_make(tmp_path):
    text = words(build_site([], tmp_path / "site", Speeds([judged(metered())])).out / "energy.html")

    assert "evalsuite run reference" in text


def test_modelled_energy_stands_apart_and_in_no_ratio(tmp_path):
    bench = judged(estimated())
    site = build_site([], tmp_path / "site", Speeds([bench])).out
    text = words(site / "energy.html")

    assert ESTIMATE in text
    assert "Modelled, not measured" in text
    assert text.count("(estimated)") == 6
    for table in ("ratios", "energy", "points"):
        line = (site / f"downloads/benches/{bench.slug}.{table}.csv").read_text(encoding="utf-8")
        assert "123456" not in line
        assert "model.tdp_linear" not in line
    assert all(r.value is None for r in bench.judgement.ratios if r.quantity == "j_per_token")


def test_results_of_other_programs_stand_apart_and_say_so(site, tmp_path):
    for page in (site / "throughput.html", build_site([], tmp_path / "site", Speeds([], [foreign()])).out
                 / "throughput.html"):  # fmt: skip
        text = words(page)
        assert "they are not compared with ours" in text
        assert "llama-bench b4567" in text
        assert "123 decode tok/s" in text
        assert "measured (gpu_board, L3-): 0.267 J an output token" in text
        assert "warm-up is not excluded" in text
    assert "123.4" in (site / "downloads/imported.csv").read_text(encoding="utf-8")
    assert "llama-bench" not in (site / "data/benches/old.js").read_text(encoding="utf-8")


def test_every_window_is_in_the_csv_of_rounds(site):
    bench = judged(metered())
    lines = (site / f"downloads/benches/{bench.slug}.rounds.csv").read_text(encoding="utf-8").splitlines()

    assert len(lines) - 1 == sum(len(row.windows) for row in bench.bench.measurements)
    assert sum(",True," in line for line in lines) == 9
