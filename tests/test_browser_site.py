"""The site in a real browser: every page from `file://`, with the network cut. Skipped, saying so, without one."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_publish_bench_sample import document, estimated, judged, metered, renamed, rows, scaled, two_meters
from test_publish_sample import TASKS, sample_run, spec
from test_publish_site import EVIL, broken_run_named, foreign, hostile_speeds

from evalsuite.publish import JudgedRun, Speeds, build_site, pages
from evalsuite.records import ModelRef

pytestmark = pytest.mark.browser
NAMES = ("chromium", "chromium-browser", "google-chrome")
FILES = [page.file for page in pages.PAGES]
RIGHT_TO_LEFT = "\N{RIGHT-TO-LEFT OVERRIDE}evil"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser tests")
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no Chromium on this machine ({', '.join(NAMES)}): no browser tests")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Three runs: the newest finished, one with a failed cell, one of another model."""
    folder = tmp_path_factory.mktemp("browser")
    model = ModelRef(id="org/other", revision="abcdef0123")
    arms = tuple(arm.model_copy(update={"model": model}) for arm in spec().arms)
    runs = [
        sample_run(),
        dated(broken_run_named("broken"), "2026-11-23T00:00:00Z"),
        sample_run(spec(model=model, arms=arms), run_id="other", created="2026-11-22T00:00:00Z"),
    ]
    older = [("nometer", document(*rows()), True), ("two", two_meters(), True), ("scaled", scaled(), False),
             ("estimated", estimated(), False)]  # fmt: skip
    benches = [judged(metered(), answers=True)]
    benches += [renamed(judged(bench, answers=joined), bench_id=name, created=f"2026-11-{20 - i}T00:00:00Z")
                for i, (name, bench, joined) in enumerate(older)]  # fmt: skip
    return build_site(runs, folder / "site", Speeds(benches, [foreign()])).out


def dated(run: JudgedRun, created: str) -> JudgedRun:
    return JudgedRun(run.manifest.model_copy(update={"created": created}), run.judgement)


@pytest.fixture
def visit(browser) -> Iterator[Any]:
    """Opens a page without network and fails on any error, console message or request beyond the disk."""
    contexts, complaints = [], []

    def open_page(path: Path, fragment: str = "", **options: Any) -> Any:
        context = browser.new_context(**({"viewport": {"width": 1200, "height": 900}} | options))
        contexts.append(context)
        context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{path.name}: {message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"{path.name}: {error}"))
        page.on("request", lambda request: request.url.startswith(("file:", "data:", "blob:"))
                or complaints.append(f"{path.name} asked for {request.url}"))  # fmt: skip
        page.on("requestfailed", lambda request: complaints.append(f"{path.name} lacks {request.url}"))
        page.goto(path.as_uri() + fragment)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


def shown(page: Any) -> str:
    """Candidate and mode of the one decision on screen."""
    views = page.locator(".view:visible")
    assert views.count() == 1
    return f"{views.get_attribute('data-c')} {views.get_attribute('data-m')}"


def fragment(page: Any) -> str:
    return page.evaluate("location.hash")


# ------------------------------------------------------------------------------------------------------- every page


@pytest.mark.parametrize("file", [*FILES, "runs/broken/index.html", "runs/broken/tasks.html", "runs/broken/run.html",
                                  *(f"benches/{name}/{page}.html" for name in ("nometer", "two", "scaled", "estimated")
                                    for page in ("throughput", "energy"))])
def test_pages_open_from_a_file_in_both_themes_and_never_scroll_sideways(visit, site, file):
    page = visit(site / file)
    for theme, ground in (("light", "rgb(245, 246, 248)"), ("dark", "rgb(11, 17, 29)")):
        page.emulate_media(color_scheme=theme)

        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
        assert sideways(page) == []


def sideways(page: Any) -> list[int]:
    """Widths of the screen, of the usual ones, at which the page is wider than the screen."""
    wider = []
    for width in (360, 768, 1200):
        page.set_viewport_size({"width": width, "height": 800})
        if page.evaluate("document.documentElement.scrollWidth") > width:
            wider.append(width)
    return wider


@pytest.mark.parametrize("width", [1200, 360])
def test_each_chart_has_its_points(visit, site, width):
    page = visit(site / "tasks.html", viewport={"width": width, "height": 800})
    for candidate in ("fp8-e4m3", "fp8-ue8m0"):
        for mode in ("direct", "thinking"):
            page.select_option("[data-key=c]", candidate)
            page.select_option("[data-key=m]", mode)
            page.wait_for_function(f"location.hash.includes('{mode}') || '{mode}' === 'direct'")
            page.wait_for_selector(".view.on .chart .scatterlayer .points path")

            chart = page.locator(".view.on .chart")
            assert chart.locator(".points path.point").count() == len(TASKS)
            assert chart.locator(".xerror").count() == len(TASKS)
            assert chart.locator(".js-fill").count() == 1


@pytest.mark.parametrize("width", [1200, 360])
def test_each_chart_of_a_bench_has_its_points(visit, site, width):
    """Emulated UE8M0 has none; BF16 twice and FP8 have one each, a voided window one more."""
    page = visit(site / "throughput.html", viewport={"width": width, "height": 800})
    assert points(page, "ratios") == 4 + 4  # three points and the best batches, each with its tick of the limits
    for place, key in (("w0", "cpu-std.decode.b4.d512"), ("w1", "cpu-std.decode.b32.d512"), ("w2", "replay.whole.b8")):
        page.select_option("[data-key=w]", label=key)
        page.wait_for_selector(f"#chart-speed-{place} .points path")

        assert page.locator(".view:visible").count() == 1
        assert points(page, f"speed-{place}") == 3 + 3
        assert page.locator(f"#chart-speed-{place} .xerror").count() == 3
        assert points(page, f"rounds-{place}") == 3 * (6 + 1)
        assert "emulated – speed not meaningful" in page.locator(f"#chart-speed-{place}").inner_text()
    assert points(visit(site / "benches/scaled/throughput.html"), "scaling-s0") == 4 + 4 + 3


@pytest.mark.parametrize("width", [1200, 360])
def test_each_chart_of_energy_has_its_points(visit, site, width):
    page = visit(site / "energy.html", viewport={"width": width, "height": 800})

    assert points(page, "joules-e0") == 9
    assert points(page, "joule-ratios-e0") == 4
    assert points(page, "cost-direct-j") == 2
    assert points(page, "cost-direct-tokens") == 3
    assert points(page, "inflation-direct") == 2 + 1  # and the break-even of the arm that saves energy
    assert points(page, "pareto-direct") == 2
    assert page.locator("#chart-pareto-direct .yerror").count() == 2
    assert page.locator("#chart-fall-direct-1 .bars .point").count() == 4
    assert page.locator("#chart-fall-direct-2 .bars .point").count() == 3
    two = visit(site / "benches/two/energy.html", viewport={"width": width, "height": 800})
    assert points(two, "joules-e0") == points(two, "joules-e1") == 9
    guess = visit(site / "benches/estimated/energy.html", viewport={"width": width, "height": 800})
    assert guess.locator("#chart-estimates .bars .point").count() == 6
    assert guess.locator("pattern").count() >= 1


def points(page: Any, name: str) -> int:
    page.wait_for_selector(f"#chart-{name} .point", state="attached", timeout=10_000)
    return page.locator(f"#chart-{name} .points path.point").count()


def test_no_chart_is_empty(visit, site):
    for file in ("throughput", "energy"):
        for bench in ("nometer", "two", "scaled", "estimated"):
            page = visit(site / f"benches/{bench}/{file}.html")
            for chart in page.locator(".chart:visible").all():
                assert chart.locator(".point").count() > 0, (bench, file, chart.get_attribute("id"))


def test_a_chart_follows_the_width_of_the_window(visit, site):
    page = visit(site / "tasks.html")
    for width in (360, 1200):
        page.set_viewport_size({"width": width, "height": 800})

        page.wait_for_function("""() => { const chart = document.querySelector('.view.on .chart');
            return Number(chart.querySelector('svg').getAttribute('width')) === chart.clientWidth; }""")
    assert page.locator(".view.on .chart .ytick").count() == len(TASKS) + 1


def test_a_chart_with_gaps_has_the_points_that_exist(visit, site):
    page = visit(site / "runs/broken/tasks.html", "#c=fp8-ue8m0&m=thinking")

    assert page.locator(".view.on .chart .points path.point").count() == 2
    assert "no value" in page.locator(".view.on .chart").inner_text()
    assert page.locator(".view.on .chart .js-fill").count() == 0


def test_the_chart_takes_the_colours_of_the_theme(visit, site):
    page = visit(site / "tasks.html", color_scheme="light")
    square = page.locator(".view.on .chart .points path.point").first

    assert "rgb(0, 114, 178)" in square.get_attribute("style")
    page.select_option("[data-theme-select]", "dark")
    assert "rgb(86, 180, 233)" in page.locator(".view.on .chart .points path.point").first.get_attribute("style")


def test_without_a_script_every_decision_is_listed(visit, site):
    page = visit(site / "index.html", java_script_enabled=False)

    assert page.locator(".view:visible").count() == 4
    assert page.locator(".js-only:visible").count() == 0
    assert visit(site / "throughput.html", java_script_enabled=False).locator(".view:visible").count() == 3
    assert visit(site / "tasks.html", java_script_enabled=False).locator("table:visible").count() == 6


# ------------------------------------------------------------------------------------------------------------ links


def test_what_is_selected_round_trips_through_the_address(visit, site):
    page = visit(site / "index.html")
    assert shown(page) == "fp8-e4m3 direct"
    assert fragment(page) == ""

    page.select_option("[data-key=c]", "fp8-ue8m0")
    page.wait_for_function("location.hash === '#c=fp8-ue8m0'")
    page.select_option("[data-key=m]", "thinking")
    page.wait_for_function("location.hash === '#c=fp8-ue8m0&m=thinking'")

    assert shown(page) == "fp8-ue8m0 thinking"
    assert shown(visit(site / "index.html", fragment(page))) == "fp8-ue8m0 thinking"
    page.go_back()
    page.wait_for_function("location.hash === '#c=fp8-ue8m0'")
    assert shown(page) == "fp8-ue8m0 direct"


def test_the_selection_travels_to_the_other_pages(visit, site):
    page = visit(site / "index.html", "#c=fp8-ue8m0&m=thinking")

    page.click(".view.on .button >> text=See the tasks")
    page.wait_for_url("**/tasks.html#*")

    assert shown(page) == "fp8-ue8m0 thinking"


def test_a_row_of_all_candidates_selects_its_decision(visit, site):
    page = visit(site / "index.html")

    page.click("[data-pick][data-c=fp8-ue8m0][data-m=thinking]")

    assert shown(page) == "fp8-ue8m0 thinking"
    assert fragment(page) == "#c=fp8-ue8m0&m=thinking"


def test_another_run_is_one_selection_away_and_the_link_to_it_stays(visit, site):
    page = visit(site / "index.html", "#m=thinking")

    page.select_option("[data-run-select]", "other")
    page.wait_for_url("**/runs/other/index.html#m=thinking")

    assert shown(page) == "fp8-e4m3 thinking"
    assert "org/other@abcdef01" in page.locator(".strip").inner_text()
    page = visit(site / "index.html", "#r=other&m=thinking")
    page.wait_for_url("**/runs/other/index.html#m=thinking")


def test_another_bench_is_one_selection_away_and_the_link_to_it_stays(visit, site):
    page = visit(site / "throughput.html", "#w=w1")
    assert page.locator(".view:visible").get_attribute("id") == "w1"

    page.select_option("[data-run-select]", "nometer")
    page.wait_for_url("**/benches/nometer/throughput.html#w=w1")
    page.click(".tabs >> text=Energy")
    page.wait_for_url("**/benches/nometer/energy.html")
    page.click(".tabs >> text=Tasks")
    page.wait_for_url("**/tasks.html")

    assert "Energy was not measured here." in visit(site / "energy.html", "#r=nometer").locator("main").inner_text()


@pytest.mark.parametrize("bad", ["#c=fp9", "#r=gone", "#m=%E0%A4%A", "#=&&&=x", "#c", "#c=__proto__&__proto__=1"])
def test_a_link_that_points_nowhere_shows_the_nearest_view(visit, site, bad):
    page = visit(site / "index.html", bad)

    assert shown(page) == "fp8-e4m3 direct"
    if bad in ("#c=fp9", "#r=gone"):
        assert "not in this report" in page.locator("#notice").inner_text()


def test_unknown_keys_of_a_link_are_kept(visit, site):
    page = visit(site / "index.html", "#zoom=3")

    page.select_option("[data-key=m]", "thinking")

    page.wait_for_function("location.hash === '#m=thinking&zoom=3'")


def test_the_link_can_be_copied(visit, site):
    page = visit(site / "index.html")

    page.click("[data-copy-link]")

    page.wait_for_function("document.getElementById('live').textContent.length > 0")


def test_filter_sort_and_mode_of_the_leaderboard_round_trip(visit, site):
    page = visit(site / "leaderboard.html")
    page.fill("[data-filter]", "org ue8m0")
    page.click(".mode.on [data-sort=acc]")
    page.select_option("[data-key=m]", "thinking")
    page.wait_for_function("location.hash === '#m=thinking&q=org%20ue8m0&s=acc.desc'")

    for one in (page, visit(site / "leaderboard.html", fragment(page))):
        rows = one.locator("[data-complete]:visible")
        assert rows.count() == 1
        assert "org/other" in rows.inner_text()
        assert one.locator("#matches").inner_text() == "1 of 6 rows"
        assert one.locator(".mode:visible [data-sort=acc]").locator("..").get_attribute("aria-sort") == "descending"


def test_sorting_keeps_absent_values_last_and_a_third_click_restores_the_ranks(visit, site):
    page = visit(site / "leaderboard.html", "#m=direct")
    order = "[...document.querySelectorAll('.mode.on [data-complete]')].map(row => row.cells[5].dataset.v)"
    ranked = page.evaluate(order)
    button = page.locator(".mode.on [data-sort=delta]")

    seen = []
    for _ in range(3):
        button.click()
        seen.append(page.evaluate(order))

    present = [[float(v) for v in values if v != ""] for values in seen[:2]]
    assert present[0] == sorted(present[0], reverse=True)
    assert present[1] == sorted(present[1])
    assert all(values[-1] == "" and values.count("") == ranked.count("") for values in seen[:2])
    assert seen[2] == ranked


def test_incomplete_rows_can_be_hidden(visit, tmp_path):
    page = visit(build_site([broken_run_named("broken")], tmp_path / "site").out / "leaderboard.html")
    assert page.locator("[data-complete=false]:visible").count() == 1

    page.uncheck("[data-key=partial]")

    page.wait_for_function("location.hash === '#partial=0'")
    assert page.locator("[data-complete=false]:visible").count() == 0


# --------------------------------------------------------------------------------------------------------- reachable


def test_the_keyboard_reaches_everything(visit, site):
    page = visit(site / "index.html", "#m=thinking")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.outerHTML.slice(0, 80)"))

    assert "skip" in reached[0]
    for part in ("data-copy-link", "<summary", "data-theme-select", 'data-key="c"', 'data-key="m"', "data-run-select",
                 "tasks.html", "data-pick"):  # fmt: skip
        assert any(part in html for html in reached), part


def test_skipping_to_the_content_keeps_the_selection(visit, site):
    page = visit(site / "index.html", "#m=thinking")

    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    assert page.evaluate("document.activeElement.id") == "content"
    assert fragment(page) == "#m=thinking"
    assert shown(page) == "fp8-e4m3 thinking"


def test_a_slash_focuses_the_filter(visit, site):
    page = visit(site / "leaderboard.html")

    page.keyboard.press("/")

    assert page.evaluate("document.activeElement.matches('[data-filter]')")


def test_every_control_has_a_name(visit, site):
    unnamed = """[...document.querySelectorAll('select, input, button, a, summary')]
        .filter(e => e.offsetParent !== null && !(e.textContent.trim() || e.ariaLabel || (e.labels && e.labels.length)))
        .map(e => e.outerHTML)"""
    for file in FILES:
        page = visit(site / file)
        assert page.evaluate(unnamed) == []
        page.set_viewport_size({"width": 360, "height": 800})
        assert page.evaluate(unnamed) == []


def test_the_pages_menu_of_small_screens_leads_to_the_pages(visit, site):
    page = visit(site / "index.html", "#m=thinking", viewport={"width": 360, "height": 800})

    page.select_option(".tabs-select", label="Tasks")

    page.wait_for_url("**/tasks.html#m=thinking")


# ---------------------------------------------------------------------------------------------------- hostile, print


def test_hostile_text_is_shown_as_text(visit, tmp_path):
    model = ModelRef(id=EVIL, revision=RIGHT_TO_LEFT)
    arms = tuple(arm.model_copy(update={"model": model}) for arm in spec().arms)
    names = [EVIL, "<b>bold</b>", RIGHT_TO_LEFT, "long " * 200]
    tasks = tuple(t.model_copy(update={"task": name}) for t, name in zip(spec().tasks, names, strict=True))
    run = sample_run(spec(name=EVIL, model=model, arms=arms, tasks=tasks), run_id=EVIL, command=EVIL)
    site = build_site([run], tmp_path / "site", hostile_speeds()).out

    for file in FILES:
        page = visit(site / file)
        if file == "tasks.html":
            chart = page.locator(".view.on .chart")
            assert any("<b>bold</b>" in label for label in chart.locator(".ytick").all_text_contents())
            assert chart.locator("a, b").count() == 0

        assert sideways(page) == []
        assert page.evaluate("window.pwned") is None
        assert page.locator("img").count() == 0
        assert "<img src=x onerror=" in page.locator("main").inner_text()


@pytest.mark.parametrize("n_tasks", [4, 12])
def test_the_verdict_prints_on_one_a4_page(visit, tmp_path, n_tasks):
    names = [f"bbh_cot_zeroshot_task_{place:02}" for place in range(n_tasks)]
    tasks = tuple(spec().tasks[0].model_copy(update={"task": name}) for name in names)
    page = visit(build_site([sample_run(spec(tasks=tasks))], tmp_path / "site").index, "#m=thinking")

    pdf = page.pdf(format="A4", prefer_css_page_size=True)

    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 1


def test_print_is_light_and_shows_one_decision(visit, site):
    page = visit(site / "tasks.html", "#m=thinking", color_scheme="dark")
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")

    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".view:visible").count() == 1
    assert page.locator(".tabs:visible, .tools:visible").count() == 0
    assert "rgb(0, 114, 178)" in page.locator(".view.on .chart .points path.point").first.get_attribute("style")


def test_the_theme_is_remembered(visit, site):
    page = visit(site / "index.html", color_scheme="light")
    page.select_option("[data-theme-select]", "dark")

    page.reload()

    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(11, 17, 29)"
