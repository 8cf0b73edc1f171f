"""The site as files: what is written, what it links to, and that nothing of ours or of others is interpreted."""

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_publish_sample import TASKS, counts, decision, sample_run, spec, summary

from evalsuite.errors import CannotRunError, UsageError
from evalsuite.publish import JudgedRun, build_site, pages
from evalsuite.records import ModelRef, SuiteDecision

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
    return build_site([sample_run()], tmp_path_factory.mktemp("publish") / "site").out


# --------------------------------------------------------------------------------------------------------- structure


def test_every_page_is_written_once_at_the_top_and_once_a_run(site):
    found = set(html(site))
    run = sample_run().slug

    assert {page.file for page in pages.PAGES} <= found
    assert {f"runs/{run}/{page.file}" for page in pages.PAGES if page.scope == "run"} <= found


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

    one, two = build_site(runs, tmp_path / "one"), build_site(runs[::-1], tmp_path / "two")

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

    site = build_site([run], tmp_path / "site").out

    for name, page in html(site).items():
        assert not page.faults, name
        assert not page.handlers, name
        assert "x" not in page.loads, name
    assert EVIL in "".join(html(site)["index.html"].text)
    assert all("<" not in path.read_text(encoding="utf-8") for path in (site / "data").glob("*.js"))
    assert {path.parent for path in tmp_path.rglob("*.html")} == {site, site / "runs" / run.slug}


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
        assert "No runs yet" in "".join(page.text)


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
