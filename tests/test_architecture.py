"""The import map: two halves that never import each other, and heavy packages only where they belong."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "evalsuite"
MEASURE = {"precision", "engines", "measure", "executors", "harness", "runner"}
JUDGE = {"judge", "publish"}
BOTH = {"workflow", "cli", "__init__", "__main__"}
HEAVY = {
    "lm_eval": {"harness"},
    "torch": {"precision", "engines", "runner", "machine", "reference", "measure"},
    "transformers": {"engines", "reference"},
    "datasets": {"harness"},
    "vllm": {"engines", "measure"},
    "httpx": {"engines", "measure"},
    "plotly": {"publish"},
    "scipy": {"judge"},
    "rich": {"report", "report_bench", "progress"},
    "typer": {"cli"},
    "jinja2": {"publish"},
}
"""Where each heavy package may be imported (names of rooms)."""


def rooms() -> dict[str, set[tuple[str, bool]]]:
    """Room -> imported modules, each with whether it is imported at module level. Function bodies are walked too."""
    found: dict[str, set[tuple[str, bool]]] = {}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            top = node in tree.body
            if isinstance(node, ast.Import):
                found.setdefault(room, set()).update((alias.name, top) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative imports hide from this map"
                names = {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
                found.setdefault(room, set()).update((name, top) for name in names)
    return found


def inner(modules: set[tuple[str, bool]]) -> set[str]:
    return {name.split(".")[1] for name, _ in modules if name.startswith("evalsuite.")}


def test_measuring_and_judging_never_import_each_other():
    for room, modules in rooms().items():
        if room in MEASURE:
            assert not inner(modules) & JUDGE, room
        if room in JUDGE:
            assert not inner(modules) & MEASURE, room


def test_only_workflow_and_cli_import_both_halves():
    for room, modules in rooms().items():
        if room not in BOTH:
            assert not (inner(modules) & MEASURE and inner(modules) & JUDGE), room


def test_exporters_are_pure_and_see_only_nouns_and_the_store():
    assert inner(rooms()["exporting"]) <= {"exporting", "records", "store", "errors"}


def test_heavy_packages_are_imported_only_where_they_belong():
    for room, modules in rooms().items():
        for package, allowed in HEAVY.items():
            used = any(name == package or name.startswith(package + ".") for name, _ in modules)

            assert not used or room in allowed, f"{room} imports {package}"


def test_only_the_cuda_module_names_torch_cuda():
    named = {path for path in PACKAGE.rglob("*.py") if "torch.cuda" in path.read_text(encoding="utf-8")}

    assert named == {PACKAGE / "precision" / "devices" / "cuda.py"}
