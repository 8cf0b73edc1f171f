"""The site: judged runs and benches in, a folder of static pages out, written whole or not at all.

    index.html, tasks.html, run.html     the newest run (a link to them follows the newest)
    runs/<run>/index.html, ...           the same pages of every run (a link to them stays)
    throughput.html, energy.html         the newest bench; results of other programs at the foot of the first
    benches/<bench>/throughput.html, ... the same pages of every bench
    leaderboard.html                     all runs
    data/<run>.js, data/benches/<bench>.js   charts, loaded by a script tag: `fetch` is blocked under file://
    downloads/<run>.*, downloads/benches/<bench>.*   CSV and JSON of what the pages show
    assets/                              style sheet, script, one plotly.min.js for all pages
    site.json                            SHA-256 of every file

A page is one line in `PAGES` and one template of the same name in `dashboards/`. Pages are complete without JavaScript:
templates render every number; the script only selects, sorts, filters and draws. Nothing is fetched from elsewhere, and
nothing depends on the time of building, so the same documents give the same bytes.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evalsuite import resources
from evalsuite.errors import CannotRunError, UsageError
from evalsuite.publish import (
    bench_tables,
    benches,
    energy,
    figures,
    imported,
    leaderboard,
    provenance,
    tables,
    text,
    throughput,
    views,
)
from evalsuite.publish.benches import JudgedBench, Speeds
from evalsuite.publish.folder import is_site, replacing
from evalsuite.publish.runs import JudgedRun, flatten, machine_name
from evalsuite.records import FINDINGS, VERDICTS, BenchJudgement, ForeignFile, Judgement

Context = dict[str, Any]


Scope = Literal["run", "site", "bench"]


@dataclass(frozen=True)
class Shown:
    """What one page shows: a run and a bench, each the newest where the page is not its own, and all there is."""

    run: JudgedRun | None
    bench: JudgedBench | None
    runs: Sequence[JudgedRun]
    """Newest first."""
    benches: Sequence[JudgedBench]
    imported: Sequence[ForeignFile]

    def has(self, scope: Scope) -> bool:
        """Whether there is anything for a page of that scope to show."""
        return self.bench is not None if scope == "bench" else self.run is not None


@dataclass(frozen=True)
class Page:
    """One page of the site."""

    file: str
    """Name of the page and of its template."""
    title: str
    scope: Scope
    """`run`: one a run. `bench`: one a bench. `site`: one for all."""
    context: Callable[[Shown], Context]
    """What the template gets beside the frame."""
    charts: bool = False
    """Whether it loads plotly and the data file of its run or bench."""


def _of_view(shown: Shown) -> Context:
    if shown.run is None:
        return {}
    made = views.views_of(shown.run)
    verdicts = [view.decision.verdict for view in made]
    tally = ", ".join(f"{verdicts.count(word)} {word}" for word in reversed(VERDICTS) if word in verdicts)
    run_id = shown.run.manifest.run_id
    benched = next((one for one in shown.benches if one.judgement.run_id == run_id), None)
    return {
        "views": made, "all_scale": figures.scale(view.pooled for view in made), "tally": tally, "benched": benched,
    }  # fmt: skip


def _of_run(shown: Shown) -> Context:
    run = shown.run
    if run is None:
        return {}
    return {
        "precisions": provenance.precisions(run), "cells": provenance.cells(run),
        "machine": flatten(run.manifest.machine), "software": flatten(run.manifest.software),
        "spec_yaml": provenance.spec_yaml(run),
    }  # fmt: skip


def _of_site(shown: Shown) -> Context:
    return {"panels": leaderboard.panels(shown.runs), "all_runs": shown.runs}


def _of_throughput(shown: Shown) -> Context:
    rows = imported.rows(shown.imported)
    own = throughput.context(shown.bench) if shown.bench else {}
    return {"imported": rows[: imported.SHOWN], "n_imported": len(rows), "not_compared": imported.NOT_COMPARED} | own


def _of_energy(shown: Shown) -> Context:
    return energy.context(shown.bench) if shown.bench else {}


PAGES: tuple[Page, ...] = (
    Page("index.html", "Verdict", "run", _of_view),
    Page("leaderboard.html", "Leaderboard", "site", _of_site),
    Page("tasks.html", "Tasks", "run", _of_view, charts=True),
    Page("throughput.html", "Throughput", "bench", _of_throughput, charts=True),
    Page("energy.html", "Energy", "bench", _of_energy, charts=True),
    Page("run.html", "Run", "run", _of_run),
)
"""Every page, in the order of the tabs."""


@dataclass(frozen=True)
class SiteReport:
    """What was written."""

    out: Path
    files: dict[str, str]
    """Path in the site -> SHA-256."""
    size_bytes: int

    @property
    def index(self) -> Path:
        """The page to open."""
        return self.out / "index.html"


def build_site(runs: Sequence[JudgedRun], out: Path, speeds: Speeds | None = None) -> SiteReport:
    """Write the site of `runs` and `speeds` (any order; none gives a site that says so) to the folder `out`.

    A site there is replaced. UsageError if `out` holds something else; CannotRunError if it cannot be written. Either
    leaves `out` as it was.
    """
    speeds = speeds or Speeds()
    newest_first = sorted(runs, key=lambda run: (run.manifest.created, run.manifest.run_id), reverse=True)
    measured = sorted(speeds.benches, key=lambda one: (one.bench.created, one.bench.bench_id), reverse=True)
    files_read = sorted(speeds.imported, key=lambda file: (file.imported, file.file_sha256))
    if out.exists() and not is_site(out):
        raise UsageError(f"{out}: exists and is not a site made by evalsuite; it is left alone. Name another --out.")
    newest = (newest_first[0] if newest_first else None, measured[0] if measured else None)
    try:
        with replacing(out) as folder:
            _write_assets(folder)
            _Site(folder, Shown(*newest, newest_first, measured, files_read)).write()
            files = _write_manifest(folder, newest_first, measured)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        raise CannotRunError(f"{out}: the site cannot be written ({error.strerror or error}).") from None
    return SiteReport(out, files, size)


class _Site:
    """Renders pages into a folder."""

    def __init__(self, folder: Path, newest: Shown) -> None:
        self.folder = folder
        self.newest = newest
        self.env = _environment()

    def write(self) -> None:
        """Write every page, data file and download."""
        for run in self.newest.runs:
            self._write_run(run)
            self._render_all("run", replace(self.newest, run=run), f"runs/{run.slug}/")
        for bench in self.newest.benches:
            self._write_bench(bench)
            self._render_all("bench", replace(self.newest, bench=bench), f"benches/{bench.slug}/")
        if self.newest.imported:
            self._put("downloads/imported.csv", bench_tables.imported(self.newest.imported))
        for page in PAGES:
            self._render(page, self.newest, "")

    def _render_all(self, scope: Scope, shown: Shown, at: str) -> None:
        for page in PAGES:
            if page.scope == scope:
                self._render(page, shown, at)

    def _render(self, page: Page, shown: Shown, at: str) -> None:
        there = shown.has(page.scope)
        template = self.env.get_template(page.file if there or page.scope == "bench" else "empty.html")
        frame = {
            "page": page, "pages": PAGES, "run": shown.run, "runs": shown.runs, "bench": shown.bench,
            "benches": shown.benches, "root": "../" * at.count("/"), "at": at, "there": there,
        }  # fmt: skip
        self._put(at + page.file, template.render(frame | page.context(shown)))

    def _write_run(self, run: JudgedRun) -> None:
        forests = {view.id: figures.forest(view.decision, view.look) for view in views.views_of(run)}
        self._put(f"data/{run.slug}.js", _script("forest", forests))
        for table in (tables.decisions, tables.arms, tables.cells):
            self._put(f"downloads/{run.slug}.{table.__name__}.csv", table(run))
        self._put_judgement(f"downloads/{run.slug}", run.judgement)

    def _write_bench(self, bench: JudgedBench) -> None:
        self._put(f"data/benches/{bench.slug}.js", _script("bench", throughput.charts(bench) | energy.charts(bench)))
        for table in bench_tables.TABLES:
            self._put(f"downloads/benches/{bench.slug}.{table.__name__}.csv", table(bench))
        self._put_judgement(f"downloads/benches/{bench.slug}", bench.judgement)

    def _put_judgement(self, name: str, judgement: Judgement | BenchJudgement) -> None:
        self._put(f"{name}.judgement.json", _json(json.loads(judgement.model_dump_json()), indent=1) + "\n")

    def _put(self, name: str, content: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())


def _environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(resources.dashboards()), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    filters = (text.count, text.percent, text.margin, text.margin_up, text.change, text.bounds,
               text.percent_bounds, text.p_value, text.moment, text.sentence, text.limit, text.breakable,
               text.amount, text.amount_bounds, text.factor, text.factor_bounds, text.size)  # fmt: skip
    env.filters.update({function.__name__: function for function in filters})
    env.globals.update(
        plural=text.plural, machine_name=machine_name, finding_meanings=FINDINGS,
        forest_finding=figures.forest_finding, tested=figures.tested, allowed=figures.allowed,
        headline=benches.headline, tile=benches.tile, spelled=benches.spelled, described=benches.described,
        no_speed=benches.NO_SPEED,
    )  # fmt: skip
    return env


def _script(key: str, value: object) -> str:
    """A data file. `<` is escaped, so that the text is safe in a page as well."""
    return f"evalsuite.put({_json(key)}, {_json(value)});\n".replace("<", "\\u003c")


def _json(value: object, indent: int | None = None) -> str:
    separators = (",", ":") if indent is None else None
    return json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False, indent=indent, separators=separators)


def _write_assets(folder: Path) -> None:
    assets = folder / "assets"
    assets.mkdir()
    for name in ("app.css", "app.js"):
        shutil.copyfile(resources.dashboards() / name, assets / name)
    package = importlib.util.find_spec("plotly")
    if package is None or package.origin is None:
        raise CannotRunError("plotly is not installed; the charts need its script. Install it: pip install plotly")
    shutil.copyfile(Path(package.origin).parent / "package_data" / "plotly.min.js", assets / "plotly.min.js")


def _write_manifest(folder: Path, runs: Sequence[JudgedRun], measured: Sequence[JudgedBench]) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {str(path.relative_to(folder).as_posix()): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    content = {
        "generator": "evalsuite", "schema_version": 1, "files": files,
        "runs": {run.manifest.run_id: run.manifest.spec_sha256 for run in runs},
        "benches": {one.bench.bench_id: one.bench.digest() for one in measured},
        "tools": {"plotly": importlib.metadata.version("plotly")},
    }  # fmt: skip
    (folder / "site.json").write_text(_json(content, indent=1) + "\n", encoding="utf-8")
    return files
