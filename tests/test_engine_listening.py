"""The standard error, read along: own words, a child's, and those of one that outlives the context."""

import os
import subprocess
import sys

import pytest

from evalsuite.engines.listening import Listening


def test_what_a_child_says_is_kept_and_passed_on(capfd: pytest.CaptureFixture[str]):
    code = "raise ValueError('no kernel for this')"
    with Listening() as heard:
        subprocess.run([sys.executable, "-c", code], check=False)
        os.write(2, b"(EngineCore pid=7) ERROR 11-24 RuntimeError: Engine core failed\n")

    assert heard.errors() == ["ValueError: no kernel for this", "RuntimeError: Engine core failed"]
    assert "no kernel for this" in capfd.readouterr().err


def test_a_message_that_ends_in_a_colon_has_its_next_line():
    with Listening() as heard:
        for line in ("ValueError: Failed to find a kernel. Reasons:", "SomeKernel: requires AMX"):
            os.write(2, f"(EngineCore pid=7) ERROR 11-24 17:20:01 [core.py:12] {line}\n".encode())

    assert heard.errors() == ["ValueError: Failed to find a kernel. Reasons: SomeKernel: requires AMX"]


def test_one_that_outlives_the_context_can_still_speak(capfd: pytest.CaptureFixture[str]):
    """It waits for a line, speaks after the context has ended, and is not cut off."""
    code = "import sys; sys.stdin.readline(); print('late', file=sys.stderr)"
    with Listening() as heard:
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    child.communicate(b"now\n")

    assert child.returncode == 0
    assert heard.errors() == []
    assert "late" in capfd.readouterr().err


def test_the_standard_error_is_as_before_afterwards(capfd: pytest.CaptureFixture[str]):
    with Listening() as heard:
        pass
    os.write(2, b"SomeError: behind it\n")

    assert heard.errors() == []
    assert "behind it" in capfd.readouterr().err
