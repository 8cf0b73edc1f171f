"""Documentation that is checked: what the README and the format page say exists, and the other way round."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from evalsuite.cli import app
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import (
    DIVERGENCE_COLUMNS,
    FINDINGS,
    SAMPLE_COLUMNS,
    Activity,
    Arm,
    Calibration,
    CalibrationTexts,
    CellRecord,
    DecisionSpec,
    DivergenceSpec,
    Finding,
    ForeignEnergy,
    ForeignEstimate,
    ForeignFile,
    ForeignSpeed,
    ForeignThroughput,
    ForeignWorkload,
    Manifest,
    ModelRef,
    Plan,
    ProvisionedPower,
    PublishSpec,
    Quant,
    Realised,
    Recipe,
    RunSpec,
    Sampling,
    Sequence,
    TaskSpec,
)
from evalsuite.spec import shipped_suites

ROOT = Path(__file__).parent.parent
STORED = (
    Manifest, RunSpec, ModelRef, Arm, Recipe, Quant, Calibration, CalibrationTexts, TaskSpec, DecisionSpec, Sampling,
    DivergenceSpec, PublishSpec, Plan, Sequence, CellRecord, Realised, Activity, Finding, ForeignFile, ForeignSpeed,
    ForeignWorkload, ForeignThroughput, ForeignEnergy, ForeignEstimate, ProvisionedPower,
)  # fmt: skip
"""The nouns of which a manifest and an import are made."""


def recipes() -> str:
    rows = [f"| `{recipe.id}` | {recipe.label} |" for recipe in RECIPES.values()]
    return "\n".join(["| recipe | what runs |", "|---|---|", *rows])


def findings() -> str:
    return "\n".join(["| finding | meaning |", "|---|---|", *(f"| `{k}` | {v} |" for k, v in FINDINGS.items())])


def tree() -> str:
    """Every module with the first sentence of its note."""
    lines = ["evalsuite/"]
    package = ROOT / "evalsuite"
    files = sorted(package.rglob("*.py"), key=lambda p: (p.parent != package, p.relative_to(package).as_posix()))
    for path in files:
        name = path.relative_to(package).as_posix()
        note = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = re.split(r"(?<=[.;])\s", note.replace("\n", " "))[0].rstrip(".;")
        first = first if len(first) <= 90 else first.split(":")[0]
        if path.name in ("__init__.py", "__main__.py"):
            if path.parent != package and path.name == "__init__.py":
                lines.append(f"  {path.parent.relative_to(package).as_posix() + '/':<28} {first}")
            continue
        lines.append(f"  {'  ' * name.count('/')}{path.name:<{28 - 2 * name.count('/')}} {first}")
    return "\n".join(["```", *lines, "```"])


def rewritten(text: str, block: str) -> str:
    made = {"recipes": recipes, "findings": findings, "tree": tree}[block]()
    pattern = rf"(<!-- generated: {block} -->\n).*?(<!-- end -->)"
    assert re.search(pattern, text, re.DOTALL), f"README has no block '{block}'"
    return re.sub(pattern, lambda m: f"{m[1]}{made}\n{m[2]}", text, count=1, flags=re.DOTALL)


README = (ROOT / "README.md").read_text(encoding="utf-8")
FORMAT = (ROOT / "results" / "README.md").read_text(encoding="utf-8")


def test_the_readme_names_every_verb_default_recipe_suite_and_finding():
    for command in app.registered_commands:
        assert f"evalsuite {command.name or command.callback.__name__}" in README
    for name in [*RECIPES, *shipped_suites(), *FINDINGS]:
        assert f"`{name}`" in README, name


def test_the_format_page_names_every_column_and_key():
    keys = [key for noun in STORED for key in noun.model_fields]
    for name in [*SAMPLE_COLUMNS, *DIVERGENCE_COLUMNS, *keys]:
        assert f"`{name}`" in FORMAT, name


@pytest.mark.parametrize("block", ["recipes", "findings", "tree"])
def test_generated_blocks_of_the_readme_are_fresh(block: str):
    """Stale? Run `python tests/test_docs.py`."""
    assert README == rewritten(README, block)


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


if __name__ == "__main__":
    for name in ("recipes", "findings", "tree"):
        README = rewritten(README, name)
    (ROOT / "README.md").write_text(README, encoding="utf-8")
