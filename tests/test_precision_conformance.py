"""Conformance: the CPU passes, and devices with a known defect fail the check that names it, and no other."""

import json

import pytest
import torch
from typer.testing import CliRunner

from evalsuite.cli import app
from evalsuite.errors import CannotRunError
from evalsuite.precision import devices
from evalsuite.precision.conformance import AMAX, detector, examine, rounding_of
from evalsuite.precision.devices.reference import ReferenceDevice, reference_kernel
from evalsuite.precision.quantiser import Blocks
from evalsuite.precision.scales import RULES


class Rounding(ReferenceDevice):
    """Rounds scales by its own rule, whatever is asked for."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def quantize_act(self, x, quant, rows=1, columns=1):
        if quant.scale != "ue8m0":
            raise CannotRunError("UE8M0 only")
        return super().quantize_act(x, quant.model_copy(update={"rounding": self.rule}), rows, columns)


class Changed(ReferenceDevice):
    """Does something to the right codes and scales: `change(codes, scales, x)`."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def quantize_act(self, x, quant, rows=1, columns=1):
        made = super().quantize_act(x, quant, rows, columns)
        codes, scales = self.change(made.codes.view(torch.uint8), made.scales, x)
        return Blocks(codes.view(torch.float8_e4m3fn), scales)


def failed(device):
    return [check.name for check in examine(device).checks if check.status == "fail"]


def test_the_detector_table_is_that_of_the_specification():
    assert AMAX == (256, 300, 448, 450, 500)
    assert detector() == {
        "ceil": (127, 127, 127, 128, 128),
        "floor": (127, 127, 127, 127, 127),
        "even": (127, 127, 127, 127, 128),
        "ceil-element": (127, 128, 128, 128, 128),
        "floor-x2": (128, 128, 128, 128, 128),
        "nearest": (126, 126, 127, 127, 127),
    }
    assert len(set(detector().values())) == len(detector())
    assert rounding_of((1, 2, 3, 4, 5)) == "unknown"


def test_the_cpu_conforms():
    found = examine(devices.device("cpu"))

    assert found.passed
    assert found.note is None
    assert found.rounding == {"fp8-ue8m0": "ceil", "mxfp8-rceil": "ceil"}
    assert {c.name for c in found.checks if c.status == "n/a"} == {
        "scaled multiplication, block", "scaled multiplication, mx"}  # fmt: skip
    assert sum(c.status == "pass" for c in found.checks) == 15


@pytest.mark.parametrize("rule", [rule for rule in RULES[1:] if rule != "ceil"])
def test_a_device_that_rounds_scales_by_another_rule_is_recognised(rule):
    found = examine(Rounding(rule))

    assert found.rounding == {"fp8-ue8m0": rule, "mxfp8-rceil": rule}
    assert {c.name for c in found.checks if c.status == "fail"} == {
        "UE8M0 scales of all BF16 amax", "fp8-ue8m0: codes and scales on boundaries", "fp8-ue8m0: scale rounding",
        "mxfp8-rceil: scale rounding"}  # fmt: skip
    assert not found.passed


def beyond(codes, scales, x):
    """Elements beyond the largest number become NaN, as casts of torch up to 2.11 do."""
    width = x.shape[1] // scales.shape[1] if scales.shape[1] else 1
    q = x.float() / scales.repeat_interleave(width, 1)
    return torch.where(q.abs() > 464, 0x7F, codes), scales


def small(codes, scales, x):
    """Subnormals become zero."""
    return torch.where((codes & 0x78) == 0, codes & 0x80, codes), scales


def hidden(codes, scales, x):
    """A block that is not finite looks like any other."""
    return torch.where(codes == 0x7F, 0x7E, codes), scales.nan_to_num(1.0)


def zero(codes, scales, x):
    """A block of zeros gets scale 0."""
    bad = (x.float().view(len(x), scales.shape[1], -1) == 0).all(-1)
    return codes, torch.where(bad, 0.0, scales)


@pytest.mark.parametrize(("change", "check", "found"), [
    (beyond, "beyond the largest number", "466 became code 0x7f, nan"),
    (small, "subnormals and their ties", "wrong; 0.00195312 became code 0x00, 0"),
    (hidden, "NaN and infinity", "nan became finite; inf became finite"),
    (zero, "zero blocks", "a scale of 0"),
])  # fmt: skip
def test_a_device_with_one_defect_fails_the_check_that_names_it(change, check, found):
    checks = {c.name: c for c in examine(Changed(change)).checks}

    assert checks[check].status == "fail"
    assert found in checks[check].found
    elements = {"beyond the largest number", "subnormals and their ties", "NaN and infinity", "zero blocks"}
    assert {name for name in elements if checks[name].status == "fail"} == {check}


def test_a_wrong_product_fails_and_a_missing_one_does_not():
    def kernel(a, b, scheme, bias):
        if scheme.name == "mx":
            raise NotImplementedError("not on this chip")
        return reference_kernel(a, b, scheme, bias) * (1.1 if scheme.name == "row" else 1)

    assert failed(ReferenceDevice(kernel)) == ["scaled multiplication, row"]


def test_a_device_without_a_quantiser_is_neither_right_nor_wrong():
    class Silent(ReferenceDevice):
        def quantize_act(self, x, quant, rows=1, columns=1):
            raise CannotRunError("none")

    found = examine(Silent())

    assert {c.status for c in found.checks if "rounding" in c.name or c.name.startswith("fp8-")} == {"n/a"}
    assert found.rounding == {}
    assert found.note == "not verified on hardware"


def conformance(monkeypatch, device, *options):
    monkeypatch.setitem(devices.DEVICES, "mine", lambda: device)
    devices.device.cache_clear()
    try:
        return CliRunner().invoke(app, ["conformance", *options])
    finally:
        devices.device.cache_clear()


def test_the_verb_prints_the_table_and_exits_10_where_a_check_fails(monkeypatch):
    right = CliRunner().invoke(app, ["conformance"])
    wrong = conformance(monkeypatch, Rounding("floor"), "--device", "mine")

    assert (right.exit_code, wrong.exit_code) == (0, 10)
    assert "no check failed" in right.stdout
    assert "not verified on hardware" in wrong.stdout
    assert "failed: UE8M0 scales of all BF16 amax; " in wrong.stdout


def test_the_verb_gives_one_document(monkeypatch):
    done = conformance(monkeypatch, Rounding("even"), "--device", "mine", "--json")
    document = json.loads(done.stdout)

    assert (done.exit_code, document["schema_version"], document["passed"]) == (10, 1, False)
    assert document["conformance"]["rounding"]["fp8-ue8m0"] == "even"


def test_the_verb_says_that_a_device_is_not_there():
    if devices.device("npu").missing() is None:
        pytest.skip("npu is there")
    done = CliRunner().invoke(app, ["conformance", "--device", "npu"])

    assert isinstance(done.exception, CannotRunError)
    assert done.exception.exit_code == 3
