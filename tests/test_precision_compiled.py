"""The compiled kernel: built once, whole or not at all; checked before use; nothing depends on its being there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evalsuite.precision import compiled
from evalsuite.precision.fake import FakeQuant
from evalsuite.precision.recipes import RECIPES

QUANT = RECIPES["fp8-e4m3"].activations
CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(compiled.loaded() is None, reason="no C++ compiler here")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A cache folder of its own, and nothing loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled.loaded.cache_clear()
    yield tmp_path / "evalsuite"
    compiled.loaded.cache_clear()


@needs_compiler
def test_it_is_built_once_and_leaves_one_file(fresh: Path):
    assert compiled.loaded() is not None
    (built,) = fresh.iterdir()
    when = built.stat().st_mtime_ns
    compiled.loaded.cache_clear()

    assert compiled.loaded() is not None
    assert [p.stat().st_mtime_ns for p in fresh.iterdir()] == [when]


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_without_a_working_compiler_there_is_none_and_activations_stay_eager(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
):
    monkeypatch.setenv("CXX", compiler)
    x = torch.randn(4, 256).bfloat16()

    assert compiled.loaded() is None
    assert FakeQuant(QUANT, CPU)(x).shape == x.shape
    assert not list(fresh.glob("*.so"))


@needs_compiler
def test_a_compiler_with_arguments_is_called_with_them(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "c++ -DANYTHING=1")

    assert compiled.loaded() is not None


def test_a_user_without_a_home_stays_eager(monkeypatch: pytest.MonkeyPatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    compiled.loaded.cache_clear()
    assert compiled.loaded() is None
    compiled.loaded.cache_clear()


def test_it_can_be_turned_off(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVALSUITE_COMPILE", "off")

    assert compiled.loaded() is None
    assert not fresh.exists()


def test_a_damaged_library_is_as_good_as_none(fresh: Path):
    fresh.mkdir()
    if compiled.loaded() is None:
        pytest.skip("no C++ compiler here")
    next(fresh.glob("*.so")).write_bytes(b"no library")
    compiled.loaded.cache_clear()

    # A file that was loaded once may stay mapped; another process sees the damage.
    code = "from evalsuite.precision import compiled; print(compiled.loaded())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert shown.stdout.strip() == "None"


@needs_compiler
def test_a_length_for_which_it_is_wrong_stays_eager(monkeypatch: pytest.MonkeyPatch):
    right = compiled.Fast.__call__

    def wrong(self, x, dtype, rounded):
        values, amax = right(self, x, dtype, rounded)
        if x.shape[-1] == 576:
            values[..., -64:] = 0  # what a compiler was seen to do
        return values, amax

    monkeypatch.setattr(compiled.Fast, "__call__", wrong)
    fake = FakeQuant(QUANT, CPU)
    x = torch.randn(8, 576).bfloat16()

    assert torch.equal(fake(x), fake.watch(x)[0])
    assert fake._compiled is not None
    assert not fake._compiled.agrees(576, fake._eager)
    assert fake._compiled.agrees(512, fake._eager)


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_no_bit(threads: int):
    x, before = torch.randn(700, 576).bfloat16(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fake = FakeQuant(QUANT, CPU)
        assert torch.equal(fake(x), fake.watch(x)[0])
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_counts_are_those_of_the_eager_form():
    fake = FakeQuant(QUANT, CPU)
    x = torch.randn(16, 300).bfloat16()
    values, seen = fake.operand(x, torch.bfloat16, "blocks", rounded=True)
    _, eager = fake.watch(x)

    assert values.dtype == torch.bfloat16
    assert torch.equal(seen.amax, eager.amax)
