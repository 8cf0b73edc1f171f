"""evalsuite: may we ship this model in this number format?

`run(spec)` measures, `load_run(path)` opens what was measured; see `evalsuite.workflow`. The command line is
`evalsuite.cli`. Names are imported when they are used, so that looking at results needs no torch.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_run", "run"]


def __getattr__(name: str) -> Any:
    if name in ("run", "load_run"):
        from evalsuite import workflow

        return getattr(workflow, name)
    raise AttributeError(f"module 'evalsuite' has no attribute '{name}'")
