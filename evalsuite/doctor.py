"""What this machine can do: every part that a run or a bench needs, looked at, with what to do where one is missing.

A `Check` is `good`, a `note` (something does less or slower) or a `problem` (a run like that of `make run` is
impossible). Nothing is assumed: devices are asked, the kernel is compiled, the results folder is written to.
"""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from evalsuite import machine, resources, tasks
from evalsuite.errors import EvalsuiteError
from evalsuite.records import Noun

DISK = (200 << 20, 2 << 30)
MEMORY = (1 << 30, 4 << 30)
"""Free bytes below which a run of the reference suite is impossible, and below which it may get tight."""
State = Literal["good", "note", "problem"]


class Check(Noun):
    """One part."""

    name: str
    state: State
    says: str
    """What was found."""
    do: str | None = None
    """What to do about it; None where there is nothing to do."""


def possible(checks: list[Check]) -> bool:
    """Whether a run is possible."""
    return all(check.state != "problem" for check in checks)


def look(results: Path) -> list[Check]:
    """All checks, in the order in which a run needs their parts. *results* is where it would write."""
    found: list[Check] = []
    for name, check in CHECKS.items():
        try:
            found += check(results)
        except (ImportError, EvalsuiteError, OSError, RuntimeError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            found.append(Check(name=name, state="problem", says=first, do=INSTALL))
    return found


INSTALL = "pip install 'evalsuite[run]'"


def _python(_: Path) -> list[Check]:
    return [Check(name="python", state="good", says=f"{platform.python_version()} on {platform.platform()}")]


def _packages(_: Path) -> list[Check]:
    """Every package that running needs, its version against what is required; the other extras are noted."""
    from packaging.requirements import Requirement

    try:
        stated = [Requirement(line) for line in requires("evalsuite") or ()]
    except PackageNotFoundError:
        return [Check(name="packages", state="note", says="evalsuite is not installed; its requirements are not known",
                      do=INSTALL)]  # fmt: skip
    wrong: list[Check] = []
    right = 0
    for one in stated:
        extra = next((name for name in ("run", "energy", "") if one.marker is None or _needs(one, name)), None)
        if extra is None:
            continue
        needed = f"{one.name}{one.specifier}"
        have = _version(one.name)
        if have is not None and one.specifier.contains(have, prereleases=True):
            right += 1
            continue
        says = f"{needed} is required, {'none' if have is None else have} is installed"
        state: State = "note" if extra == "energy" else "problem"
        wrong.append(Check(name="packages", state=state, says=says, do=f"pip install '{needed}'"))
    return [Check(name="packages", state="good", says=f"{right} as required"), *wrong]


def _needs(requirement: Any, extra: str) -> bool:
    return bool(requirement.marker.evaluate({"extra": extra}))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices(_: Path) -> list[Check]:
    from evalsuite.precision import devices

    checks = []
    for name in devices.here():
        device = devices.device(name)
        proven = "" if device.verified else f"; its FP8 kernels: {devices.NOT_VERIFIED}"
        says = f"{name}: {machine.processor() if name == 'cpu' else device.probe().label}{proven}"
        checks.append(Check(name="devices", state="good", says=says))
    cores = os.cpu_count()
    return [*checks, Check(name="devices", state="good", says=f"{cores} processors, torch {version('torch')}")]


def _kernel(_: Path) -> list[Check]:
    from evalsuite.precision import compiled, devices, emulate

    if compiled.loaded() is not None:
        fast = Check(name="kernel", state="good", says="the compiled quantiser works")
    else:
        name = (os.environ.get("CXX") or "c++").split()[0]
        there = shutil.which(name) is not None
        fast = Check(
            name="kernel", state="note",
            says=f"no compiled quantiser: {'it does not build' if there else f'no C++ compiler {name!r}'}; emulated "
                 "arms give the same numbers, slower",
            do="unset EVALSUITE_COMPILE; look at what the compiler says" if there else "apt install g++, or set CXX",
        )  # fmt: skip
    best = devices.device(devices.best()).torch_device()
    native = emulate.best_kernel(best) == "linear-bf16"
    says = "BF16 products run natively" if native else "no BF16 arithmetic: products are computed in FP32 and rounded"
    bf16 = Check(name="bf16", state="good" if native else "note", says=f"{best.type}: {says}")
    return [fast, bf16]


def _meters(_: Path) -> list[Check]:
    from evalsuite.measure import meters

    rows = meters.rows()
    answers = [row for row in rows if row["state"] == "answers"]
    checks = [Check(name="meters", state="good", says=f"{row['meter']}: {row['scope']} by {row['method']}, "
                    f"{row['quality']} at best, {row['devices']}") for row in answers]  # fmt: skip
    if answers:
        return checks
    # What is simply not of this machine is listed by `evalsuite list meters`; here is what could be mended.
    near = [row for row in rows if row["reason"] not in ("no_meter",)]
    says = "none: a bench gives speed and memory, no energy"
    said = "; ".join(dict.fromkeys(f"{row['reason']}: {row['detail']}" for row in near))
    return [Check(name="meters", state="note", says=says, do=said or "see `evalsuite list meters`")]


def _tasks(_: Path) -> list[Check]:
    known = tasks.catalogue()
    model = resources.reference_model()
    checks = [Check(name="tasks", state="good", says=f"{len(known)} in {resources.tasks()}")]
    if not (model / "config.json").is_file():
        checks.append(Check(name="tasks", state="problem", says=f"the reference model is missing in {model}",
                            do="install evalsuite anew"))  # fmt: skip
    return checks


def _space(results: Path) -> list[Check]:
    folder = _nearest(results)
    free = shutil.disk_usage(folder).free
    checks = [_amount("disk", free, DISK, f"free in {folder.resolve()}", "free some, or another folder: --results")]
    memory = machine.available_bytes()
    if memory is None:
        return [*checks, Check(name="memory", state="note", says="the free memory is not known here")]
    return [*checks, _amount("memory", memory, MEMORY, "free", "end other programs")]


def _amount(name: str, free: int, limits: tuple[int, int], where: str, do: str) -> Check:
    state: State = "problem" if free < limits[0] else "note" if free < limits[1] else "good"
    return Check(name=name, state=state, says=f"{free / 2**30:.1f} GiB {where}", do=None if state == "good" else do)


def _results(results: Path) -> list[Check]:
    folder = _nearest(results)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-"):
            pass
    except OSError as error:
        return [Check(name="results", state="problem", says=f"{folder}: {error.strerror}",
                      do="change its rights, or name another folder: --results")]  # fmt: skip
    new = "" if folder == results else f"; {results} would be made"
    return [Check(name="results", state="good", says=f"{folder.resolve()} can be written to{new}")]


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


CHECKS: dict[str, Callable[[Path], list[Check]]] = {
    "python": _python, "packages": _packages, "devices": _devices, "kernel": _kernel, "meters": _meters,
    "tasks": _tasks, "disk": _space, "results": _results,
}  # fmt: skip
