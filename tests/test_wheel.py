"""The wheel carries all it needs: built, installed into a clean environment, run in an empty folder."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_holds_tasks_templates_and_the_reference_model(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())

    assert "evalsuite/_data/tasks/catalogue.yaml" in names
    assert "evalsuite/_data/tasks/suites/smoke.yaml" in names
    assert "evalsuite/_data/tasks/items/boolean.jsonl" in names
    assert "evalsuite/_data/dashboards/app.css" in names
    assert "evalsuite/reference/model/model.safetensors" in names
    assert "evalsuite/precision/kernel.cpp" in names
    assert not [name for name in names if name.startswith(("tests/", "results/"))]


def test_the_smoke_suite_runs_from_the_wheel_in_an_empty_folder(wheel: Path, tmp_path: Path):
    env = tmp_path / "env"
    venv.create(env, with_pip=False)
    site = next((env / "lib").glob("python*/site-packages"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True)
    # The dependencies that are installed here stand behind: a plain path entry, so an editable evalsuite is not seen.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    python = env / "bin" / "python"
    where = subprocess.run([python, "-c", "import evalsuite; print(evalsuite.__file__)"], cwd=empty, env=clean,
                           capture_output=True, text=True, check=True).stdout  # fmt: skip
    done = subprocess.run([python, "-m", "evalsuite", "run", "smoke"], cwd=empty, env=clean, capture_output=True,
                          text=True, check=False)  # fmt: skip

    assert str(env) in where
    assert done.returncode == 0, done.stderr
    assert (empty / "results" / "site" / "index.html").is_file()
