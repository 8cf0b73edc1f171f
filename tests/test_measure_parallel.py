"""Several devices: rows are shared, tokens are the same, the collectives' time is counted, a dead worker is named."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.errors import CannotRunError
from evalsuite.measure.parallel import ParallelRig, Setting, split
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Arm, ModelRef, Workload


@given(batch=st.integers(1, 500), devices=st.integers(1, 16))
def test_every_row_is_some_devices_and_shares_differ_by_one_at_most(batch: int, devices: int):
    shares = [split(batch, devices, rank) for rank in range(devices)]

    assert sum(shares) == batch
    assert max(shares) - min(shares) <= 1


def test_two_workers_do_the_work_of_one_in_step_and_a_dead_one_is_an_error(tiny_model: Path):
    model = ModelRef(id=str(tiny_model))
    rig = ParallelRig(Setting(model, {}, (), (1, 2), 1, ""))
    arm = Arm(id="bf16", model=model, recipe=RECIPES["bf16"])
    try:
        assert rig.open(arm).speed_valid
        assert len(rig.pids) == 2
        for devices in (1, 2):
            point = Workload(preset="t", runner="static", phase="decode", batch=3, input_tokens=9, output_tokens=4,
                             depth=9, devices=devices)  # fmt: skip
            work = rig.load(arm, point).run(0.05)

            assert work.output_tokens == 3 * work.iterations
            assert (work.communication > 0) == (devices == 2)
            assert work.communication < 1
        with pytest.raises(CannotRunError, match="calibration"):
            rig.open(Arm(id="s", model=model, recipe=RECIPES["fp8-e4m3-tensor-static"]))
        os.kill(rig.pids[1], signal.SIGKILL)
        with pytest.raises(CannotRunError, match="worker process ended"):
            rig.open(arm)
    finally:
        rig.close()
