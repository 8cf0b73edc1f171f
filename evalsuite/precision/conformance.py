"""Does a device give the codes and scales that a recipe names? Golden values in, a table of checks out.

"Supports UE8M0" says little: chips and libraries round scales by five rules, and a fifth of all blocks shows it. So
the device quantises blocks of known maximum, and its scale codes tell which rule it follows (`rounding_of`). Further
checks: the golden sets of the specification, what happens beyond the largest number, with NaN and infinity, among the
subnormals, in blocks of zeros, and whether its scaled multiplications are right (`devices.probe`).

Elements are judged by the scales that the device chose: one that rounds scales down fails the check of scales and not
every other. What a device cannot be asked (no such dtype, no such block) is `n/a`, never a failure and never a success.
A check that is only informative is `info`.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from evalsuite.errors import CannotRunError
from evalsuite.precision.devices import NOT_VERIFIED, Capabilities, Device
from evalsuite.precision.elements import ELEMENTS
from evalsuite.precision.quantiser import Blocks, boundaries, differing
from evalsuite.precision.recipes import RECIPES
from evalsuite.precision.scales import RULES, encode_ue8m0, scale_of
from evalsuite.records import Noun, Quant

GOLDEN = {
    "e4m3fn": "422eccfaa21e72a6", "e5m2": "229a94c5f728edf2", "e8m0fnu": "2fb2732a95604377",
    "cast": "2f8096b3b00699a8", "amax": "afbb760078a88f28",
}  # fmt: skip
"""First 16 hex digits of SHA-256 of little-endian arrays: each format's 256 numbers as float32; the E4M3 codes of all
65,536 BF16 values, clamped first; the UE8M0 codes (`ceil`, amax floor 1e-4) of all 32,641 finite BF16 amax."""
AMAX = (256.0, 300.0, 448.0, 450.0, 500.0)
"""Block maxima on which the five rules differ; all are BF16 numbers."""
NEAREST = "nearest"
"""What a cast to `float8_e8m0fnu` does to amax / 448: no rule of any format, and a frequent mistake."""


class Check(Noun):
    """One check."""

    name: str
    status: Literal["pass", "fail", "n/a", "info"]
    found: str
    expected: str


class Conformance(Noun):
    """What one device was found to do."""

    capabilities: Capabilities
    note: str | None
    """`not verified on hardware` where this adapter never ran on its device before."""
    rounding: dict[str, str]
    """Recipe that was asked for -> scale rule that the device follows."""
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.status != "fail" for check in self.checks)


def detector() -> dict[str, tuple[int, ...]]:
    """Rule -> UE8M0 codes that it gives blocks of maximum `AMAX` (E4M3 elements)."""
    amax = torch.tensor(AMAX)
    rows = {rule: encode_ue8m0(scale_of(amax, ELEMENTS["e4m3"], rule, 1e-4)) for rule in RULES[1:]}
    rows[NEAREST] = (amax / 448).to(torch.float8_e8m0fnu).view(torch.uint8)
    return {rule: tuple(codes.tolist()) for rule, codes in rows.items()}


def rounding_of(codes: tuple[int, ...]) -> str:
    """The rule that gives blocks of maximum `AMAX` these codes, or `unknown`."""
    return next((rule for rule, expected in detector().items() if expected == codes), "unknown")


def examine(device: Device) -> Conformance:
    """Run every check on a device that is there."""
    capabilities = device.probe()
    rounding: dict[str, str] = {}
    checks = [check for run in CHECKS for check in run(device)]
    for recipe in ("fp8-ue8m0", "mxfp8-rceil"):
        checks += _rounding(device, recipe, rounding)
    checks += [_product(device.name, probe.scheme, probe.works, probe.sqnr_db, probe.reason)
               for probe in capabilities.schemes]  # fmt: skip
    note = None if capabilities.verified else NOT_VERIFIED
    return Conformance(capabilities=capabilities, note=note, rounding=rounding, checks=tuple(checks))


def _quant(recipe: str) -> Quant:
    quant = RECIPES[recipe].activations
    assert quant is not None
    return quant


def _blocks(device: Device, values: Tensor, quant: Quant) -> Blocks | None:
    """Rows of at most one block each, zero-filled, as the device quantises them; None where it cannot be asked."""
    x = torch.zeros(len(values), quant.block[1])
    x[:, : values.shape[1]] = values
    try:
        made = device.quantize_act(x.bfloat16().to(device.torch_device()), quant)
    except CannotRunError:
        return None
    return Blocks(made.codes.cpu(), made.scales.cpu())


def _ask(device: Device, values: Tensor, *recipes: str) -> tuple[Quant, Blocks] | None:
    """`_blocks` in the first of these recipes that the device knows."""
    for recipe in recipes:
        made = _blocks(device, values, _quant(recipe))
        if made is not None:
            return _quant(recipe), made
    return None


def _numbers(made: Blocks) -> Tensor:
    """What codes and scales stand for."""
    element = "e4m3fnuz" if made.codes.dtype == torch.float8_e4m3fnuz else "e4m3"
    return ELEMENTS[element].table[made.codes.view(torch.uint8).int()] * made.scales


def _wrong(made: Blocks, values: Tensor) -> Tensor:
    """Where a code is not that of clamp(value / scale), by the device's own scales."""
    element = ELEMENTS["e4m3"]
    q = (values.bfloat16().float() / made.scales).clamp(-element.max, element.max)
    return made.codes.view(torch.uint8)[:, : values.shape[1]] != element.encode(element.round(q))


def _hash(array: Tensor) -> str:
    return hashlib.sha256(array.contiguous().numpy().tobytes()).hexdigest()[:16]


def _golden(name: str, key: str, make: Callable[[], Tensor | None]) -> Check:
    """A check of a golden set; what the device has no dtype or operator for is n/a."""
    try:
        array = make()
    except (RuntimeError, TypeError) as error:
        return Check(name=name, status="n/a", found=str(error).splitlines()[0][:80], expected=GOLDEN[key])
    if array is None:
        return Check(name=name, status="n/a", found="no such quantiser", expected=GOLDEN[key])
    found = _hash(array)
    return Check(name=name, status="pass" if found == GOLDEN[key] else "fail", found=found, expected=GOLDEN[key])


def _golden_sets(device: Device) -> list[Check]:
    where = device.torch_device()
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    patterns = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)

    def decoded(dtype: torch.dtype) -> Tensor:
        numbers = codes.to(where).view(dtype).float().cpu()
        return numbers.where(~numbers.isnan(), torch.nan)

    def cast() -> Tensor:
        clamped = patterns.to(where).float().clamp(-448, 448)
        made = clamped.to(torch.float8_e4m3fn).view(torch.uint8).cpu()
        return made.where(~patterns.isnan(), 0x7F)

    def amax() -> Tensor | None:
        finite = patterns[(patterns >= 0) & patterns.isfinite()]  # zero comes twice: -0 >= 0
        made = _blocks(device, finite.float().unsqueeze(1), _quant("fp8-ue8m0"))
        return None if made is None else encode_ue8m0(made.scales[:, 0].contiguous())

    return [
        *[_golden(f"decode {name}", name, partial(decoded, getattr(torch, f"float8_{name}")))
          for name in ("e4m3fn", "e5m2", "e8m0fnu")],
        _golden("cast to e4m3fn, clamped first", "cast", cast),
        _golden("UE8M0 scales of all BF16 amax", "amax", amax),
    ]  # fmt: skip


def _canonical(device: Device) -> list[Check]:
    """Codes and scales on every boundary, bit for bit, of both default recipes."""
    checks = []
    for recipe in ("fp8-e4m3", "fp8-ue8m0"):
        quant = _quant(recipe)
        x = boundaries(quant)
        name, expected = f"{recipe}: codes and scales on boundaries", "0 codes, 0 scales differ"
        try:
            made = device.quantize_act(x.to(device.torch_device()), quant)
        except CannotRunError as error:
            checks.append(Check(name=name, status="n/a", found=str(error), expected=expected))
            continue
        codes, scales = differing(made, x, quant)
        status: Literal["pass", "fail"] = "fail" if codes or scales else "pass"
        checks.append(Check(name=name, status=status, found=f"{codes} codes, {scales} scales differ",
                            expected=expected))  # fmt: skip
    return checks


def _rounding(device: Device, recipe: str, rounding: dict[str, str]) -> list[Check]:
    quant = _quant(recipe)
    made = _blocks(device, torch.tensor(AMAX).unsqueeze(1), quant)
    name, expected = f"{recipe}: scale rounding", f"{quant.rounding} {list(detector()[quant.rounding])}"
    if made is None:
        return [Check(name=name, status="n/a", found="no such quantiser", expected=expected)]
    codes = tuple(encode_ue8m0(made.scales[:, 0].contiguous()).tolist())
    rounding[recipe] = rounding_of(codes)
    return [Check(name=name, status="pass" if rounding[recipe] == quant.rounding else "fail",
                  found=f"{rounding[recipe]} {list(codes)}", expected=expected)]  # fmt: skip


def _elements(device: Device) -> list[Check]:
    """Saturation, subnormals, zeros, NaN and infinity, by the scales that the device chose."""
    tops = torch.tensor([448.0, 450.0, 464.0, 466.0, 480.0, 500.0, 510.0])
    small = torch.cat([torch.tensor([448.0]), torch.arange(1, 32) * 2.0**-10]).unsqueeze(0)
    plan = (
        ("beyond the largest number", tops.unsqueeze(1) * torch.tensor([1.0, -1.0]), "the largest number"),
        ("subnormals and their ties", torch.cat([small, -small]), "nearest, ties to even"),
        ("zero blocks", torch.zeros(2, 1), "zeros, a finite scale"),
    )
    checks = []
    for name, values, expected in plan:
        asked = _ask(device, values, "mxfp8-floor", "fp8-ue8m0", "mxfp8-rceil")
        if asked is None:
            checks.append(Check(name=name, status="n/a", found="no such quantiser", expected=expected))
            continue
        made = asked[1]
        found = _first_wrong(made, values) or expected
        checks.append(Check(name=name, status="pass" if found == expected else "fail", found=found, expected=expected))
    return [*checks, _nonfinite(device)]


def _first_wrong(made: Blocks, values: Tensor) -> str | None:
    """What is wrong with blocks of finite values, or None: a scale that is none, then codes."""
    unusable = ~made.scales.isfinite() | (made.scales <= 0)
    if unusable.any():
        return f"a scale of {made.scales[unusable][0].item():g}"
    wrong = _wrong(made, values)
    if not wrong.any():
        return None
    row, column = wrong.nonzero()[0].tolist()
    code = int(made.codes.view(torch.uint8)[row, column])
    return (f"{int(wrong.sum())} wrong; {values[row, column].item():g} became code 0x{code:02x}, "
            f"{_numbers(made)[row, column].item():g}")  # fmt: skip


def _nonfinite(device: Device) -> Check:
    """A block that holds NaN or infinity must show it, and the next block must not."""
    values = torch.ones(4, 8)
    values[0, 3], values[1, 3], values[2, 3] = torch.nan, torch.inf, -torch.inf
    name, expected = "NaN and infinity", "the block is not finite, others are"
    asked = _ask(device, values, "fp8-ue8m0", "mxfp8-rceil", "mxfp8-floor")
    if asked is None:
        return Check(name=name, status="n/a", found="no such quantiser", expected=expected)
    numbers = _numbers(asked[1])
    hidden = [str(values[row, 3].item()) for row in range(3) if numbers[row, 3].isfinite()]
    spread = not bool(numbers[3].isfinite().all())
    found = "; ".join([f"{value} became finite" for value in hidden] + ["another block is not finite"] * spread)
    return Check(name=name, status="fail" if found else "pass", found=found or expected, expected=expected)


def _raw_cast(device: Device) -> list[Check]:
    """What an unclamped cast does is no recipe's business, and the reason why recipes clamp."""
    values = torch.tensor([464.0, 480.0, 1e6, torch.inf], device=device.torch_device())
    name = "unclamped cast of 464, 480, 1e6, inf"
    try:
        made = values.to(torch.float8_e4m3fn).float().tolist()
    except (RuntimeError, TypeError) as error:
        return [Check(name=name, status="n/a", found=str(error).splitlines()[0][:80], expected="-")]
    return [Check(name=name, status="info", found=", ".join(f"{value:g}" for value in made), expected="-")]


def _product(device: str, scheme: str, works: bool, sqnr: float | None, reason: str | None) -> Check:
    """A kernel that is not there is n/a; one that answers wrongly fails."""
    name = f"scaled multiplication, {scheme}"
    status: Literal["pass", "fail", "n/a"] = "pass" if works else "n/a" if sqnr is None else "fail"
    found = f"{sqnr:.1f} dB" if sqnr is not None else f"{device}: {reason}"
    return Check(name=name, status=status, found=found, expected="50 dB or more from the FP32 product")


CHECKS: tuple[Callable[[Device], list[Check]], ...] = (_golden_sets, _canonical, _elements, _raw_cast)
"""All checks but those of scale rounding and of products, in the order of the table."""
