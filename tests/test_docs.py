"""Documentation that is checked: what the README and the format page say exists, and the other way round."""

import re
import subprocess
from pathlib import Path

from evalsuite.cli import app
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import FINDINGS, SAMPLE_COLUMNS, Manifest
from evalsuite.spec import shipped_suites

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FORMAT = (ROOT / "results" / "README.md").read_text(encoding="utf-8")


def test_the_readme_names_every_verb_default_recipe_suite_and_finding():
    for command in app.registered_commands:
        assert f"evalsuite {command.name or command.callback.__name__}" in README
    for name in [*RECIPES, *shipped_suites(), *FINDINGS]:
        assert f"`{name}`" in README, name


def test_the_format_page_names_every_column_and_key():
    for name in [*SAMPLE_COLUMNS, *Manifest.model_fields]:
        assert f"`{name}`" in FORMAT, name


def test_the_tree_in_the_readme_is_the_tree():
    block = re.search(r"```tree\n(.*?)```", README, re.DOTALL)
    assert block is not None
    shown = set(re.findall(r"([\w./-]+\.py)\b", block[1]))
    real = {p.name for p in (ROOT / "evalsuite").rglob("*.py") if p.name not in ("__init__.py", "__main__.py")}

    assert shown == real


def test_every_file_that_the_readme_links_to_exists():
    for target in re.findall(r"\]\((?!http|#)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_every_make_target_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([\w-]+)`", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_no_file_names_the_machine_it_was_written_on():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    for name in filter(None, tracked.split("\0")):
        path = ROOT / name
        if path.is_file() and path.suffix in {".py", ".md", ".yaml", ".toml", ".html", ".js", ".css", ".sh", ".json"}:
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not re.search(r"(?<![\w.])/(?:home|root|work|Users)/\w", text), name
