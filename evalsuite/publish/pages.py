"""The site: judged runs in, a folder of static pages out, written whole or not at all.

    index.html, tasks.html, run.html     the newest run (a link to them follows the newest)
    runs/<run>/index.html, ...           the same pages of every run (a link to them stays)
    leaderboard.html                     all runs
    data/<run>.js                        charts, loaded by a script tag: `fetch` is blocked under file://
    downloads/<run>.*                    CSV and JSON of what the pages show
    assets/                              style sheet, script, one plotly.min.js for all pages
    site.json                        SHA-256 of every file

A page is one line in `PAGES` and one template of the same name in `dashboards/`. Pages are complete without JavaScript:
templates render every number; the script only selects, sorts, filters and draws. Nothing is fetched from elsewhere, and
nothing depends on the time of building, so the same runs give the same bytes.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evalsuite import resources
from evalsuite.errors import CannotRunError, UsageError
from evalsuite.publish import figures, leaderboard, provenance, tables, text, views
from evalsuite.publish.runs import JudgedRun, flatten, machine_name
from evalsuite.records import FINDINGS, VERDICTS

Context = dict[str, Any]


@dataclass(frozen=True)
class Page:
    """One page of the site."""

    file: str
    """Name of the page and of its template."""
    title: str
    scope: Literal["run", "site"]
    """`run`: one a run. `site`: one for all."""
    context: Callable[[Sequence[JudgedRun]], Context]
    """What the template gets beside the frame; called with one run (scope `run`) or with all, newest first."""
    charts: bool = False
    """Whether it loads plotly and the run's data file."""


def _of_view(runs: Sequence[JudgedRun]) -> Context:
    shown = views.views_of(runs[0])
    verdicts = [view.decision.verdict for view in shown]
    tally = ", ".join(f"{verdicts.count(word)} {word}" for word in reversed(VERDICTS) if word in verdicts)
    return {"views": shown, "all_scale": figures.scale(view.pooled for view in shown), "tally": tally}


def _of_run(runs: Sequence[JudgedRun]) -> Context:
    manifest = runs[0].manifest
    return {
        "precisions": provenance.precisions(runs[0]), "cells": provenance.cells(runs[0]),
        "machine": flatten(manifest.machine), "software": flatten(manifest.software),
        "spec_yaml": provenance.spec_yaml(runs[0]),
    }  # fmt: skip


def _of_site(runs: Sequence[JudgedRun]) -> Context:
    return {"panels": leaderboard.panels(runs), "all_runs": runs}


PAGES: tuple[Page, ...] = (
    Page("index.html", "Verdict", "run", _of_view),
    Page("leaderboard.html", "Leaderboard", "site", _of_site),
    Page("tasks.html", "Tasks", "run", _of_view, charts=True),
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


def build_site(runs: Sequence[JudgedRun], out: Path) -> SiteReport:
    """Write the site of `runs` (any order; none gives a site that says so) to the folder `out`, replacing a site there.

    UsageError if `out` holds something else; CannotRunError if it cannot be written. Either leaves `out` as it was.
    """
    newest_first = sorted(runs, key=lambda run: (run.manifest.created, run.manifest.run_id), reverse=True)
    if out.exists() and not _is_site(out):
        raise UsageError(f"{out}: exists and is not a site made by evalsuite; it is left alone. Name another --out.")
    try:
        with _replacing(out) as folder:
            _write_assets(folder)
            _Site(folder, newest_first).write()
            files = _write_manifest(folder, newest_first)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        raise CannotRunError(f"{out}: the site cannot be written ({error.strerror or error}).") from None
    return SiteReport(out, files, size)


class _Site:
    """Renders pages into a folder."""

    def __init__(self, folder: Path, runs: Sequence[JudgedRun]) -> None:
        self.folder = folder
        self.runs = runs
        self.env = _environment()

    def write(self) -> None:
        """Write every page, data file and download."""
        for run in self.runs:
            self._write_data(run)
            for page in PAGES:
                if page.scope == "run":
                    self._render(page, run, f"runs/{run.slug}/")
        newest = self.runs[0] if self.runs else None
        for page in PAGES:
            self._render(page, newest, "")

    def _render(self, page: Page, run: JudgedRun | None, at: str) -> None:
        shown = self.runs if page.scope == "site" else [run] if run else []
        template = self.env.get_template(page.file if shown else "empty.html")
        frame = {"page": page, "pages": PAGES, "run": run, "runs": self.runs, "root": "../" * at.count("/"), "at": at}
        self._put(at + page.file, template.render(frame | (page.context(shown) if shown else {})))

    def _write_data(self, run: JudgedRun) -> None:
        forests = {view.id: figures.forest(view.decision, view.look) for view in views.views_of(run)}
        self._put(f"data/{run.slug}.js", _script("forest", forests))
        for table in (tables.decisions, tables.arms, tables.cells):
            self._put(f"downloads/{run.slug}.{table.__name__}.csv", table(run))
        judgement = json.loads(run.judgement.model_dump_json())
        self._put(f"downloads/{run.slug}.judgement.json", _json(judgement, indent=1) + "\n")

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
               text.percent_bounds, text.p_value, text.moment, text.sentence, text.limit, text.breakable)  # fmt: skip
    env.filters.update({function.__name__: function for function in filters})
    env.globals.update(
        plural=text.plural, machine_name=machine_name, finding_meanings=FINDINGS,
        forest_finding=figures.forest_finding, tested=figures.tested, allowed=figures.allowed,
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


def _write_manifest(folder: Path, runs: Sequence[JudgedRun]) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {str(path.relative_to(folder).as_posix()): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    content = {
        "generator": "evalsuite", "schema_version": 1, "files": files,
        "runs": {run.manifest.run_id: run.manifest.spec_sha256 for run in runs},
        "tools": {"plotly": importlib.metadata.version("plotly")},
    }  # fmt: skip
    (folder / "site.json").write_text(_json(content, indent=1) + "\n", encoding="utf-8")
    return files


def _is_site(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        return bool(json.loads((folder / "site.json").read_bytes())["generator"] == "evalsuite")
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place at the end, or vanishes if the body fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".partial", dir=out.parent))
    try:
        new, old = scratch / "new", scratch / "old"
        new.mkdir()
        yield new
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
