"""The style sheet: contrast, colour blindness, and no colour or address that is not ours."""

import itertools
import re

import pytest

from evalsuite import resources

CSS = (resources.dashboards() / "app.css").read_text(encoding="utf-8")
SCRIPT = (resources.dashboards() / "app.js").read_text(encoding="utf-8")
PAIRS = {name: pair for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", CSS)}
PRECISIONS = ("base", "fp8", "ue8m0")

MACHADO = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
"""Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB."""


def linear(colour: str) -> list[float]:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


def contrast(one: str, other: str) -> float:
    light = sorted(sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear(x), strict=True)) for x in (one, other))
    return (light[1] + 0.05) / (light[0] + 0.05)


def seen_by(colour: str, eyes: str) -> list[float]:
    rgb = linear(colour)
    return [min(1, max(0, sum(m * c for m, c in zip(row, rgb, strict=True)))) for row in MACHADO[eyes]]


def lab(rgb: list[float]) -> tuple[float, float, float]:
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [sum(m * c for m, c in zip(row, rgb, strict=True)) for row in to_xyz]
    f = [t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116
         for t in (v / w for v, w in zip(xyz, (0.9505, 1, 1.089), strict=True))]  # fmt: skip
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["ink", "muted", "link", "safe", "unsafe", "inconclusive", "invalid"])
def test_text_can_be_read_on_every_ground(name, theme):
    for ground in ("card", "page", "raised", "notice"):
        assert contrast(PAIRS[name][theme], PAIRS[ground][theme]) >= 4.5, ground


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_precisions_stand_out_from_the_card(theme):
    assert all(contrast(PAIRS[name][theme], PAIRS["card"][theme]) >= 3 for name in PRECISIONS)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("eyes", MACHADO)
def test_precisions_can_be_told_apart_by_everyone(eyes, theme):
    seen = [lab(seen_by(PAIRS[name][theme], eyes)) for name in PRECISIONS]

    for one, other in itertools.combinations(seen, 2):
        assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 >= 30


def test_every_colour_that_is_used_is_defined():
    defined = set(re.findall(r"--([\w-]+):", CSS))
    used = set(re.findall(r"var\(--([\w-]+)", CSS))

    assert used <= defined


def test_style_sheet_and_script_are_small_and_load_nothing():
    assert len(CSS.encode()) + len(SCRIPT.encode()) < 60_000
    for text in (CSS, SCRIPT):
        assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest|innerHTML|document\.write|\beval\(", text)
