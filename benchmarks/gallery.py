"""The pictures of the README: screenshots of a published site, by Debian's Chromium.

    python benchmarks/gallery.py results/site results/reference
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

VIEW = "#c=fp8-ue8m0&m=thinking"
PAGES = {"verdict": "index.html", "tasks": "tasks.html"}


def main(site: Path, out: Path) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("no Chromium here; install Debian's package `chromium`")
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, page in PAGES.items():
            tab = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light")
            tab.goto((site / page).resolve().as_uri() + VIEW)
            tab.wait_for_load_state("load")
            tab.wait_for_timeout(800)
            tab.screenshot(path=out / f"{name}.png", full_page=False)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
