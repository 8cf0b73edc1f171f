"""Where the shipped data lies: `tasks/` and `dashboards/` at the top of a checkout, a packaged copy in a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def _folder(name: str) -> Path:
    packaged = _PACKAGE / "_data" / name
    return packaged if packaged.is_dir() else _PACKAGE.parent / name


def tasks() -> Path:
    """Folder with the task files (`*.yaml`), their frozen items, `catalogue.yaml` and `suites/`."""
    return _folder("tasks")


def dashboards() -> Path:
    """Folder with the page templates, the style sheet and the script."""
    return _folder("dashboards")


def reference_model() -> Path:
    """Folder of the embedded reference model (weights, tokenizer)."""
    return _PACKAGE / "reference" / "model"
