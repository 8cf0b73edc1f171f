"""How often is a verdict wrong? Exact enumeration for the fixed design, simulation for the sequential one.

    python benchmarks/error_rates.py [--runs 20000] [--out results/reference/error_rates.json]

The decision regions are the project's own: `p <= alpha` with `stats.settled_p`, and wealth of 1 / alpha with
`log_e_stakes`; a sample of tables on both sides of every boundary goes through `decide` itself. The p-value depends on
a table only through the score statistic, so one critical value a (n, margin, side) is the whole region, and the chance
of a verdict is a sum over the trinomial: no Monte-Carlo error. Beside it stands the usual rule (interval of the paired
difference, `SE = 0` where nothing differs), and the table of the specification (statistics, section 3.4).
"""

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

from evalsuite.judge import PairCounts, Plan, decide, stats
from evalsuite.judge.sequential import log_e_stakes

ALPHA = 0.05
ITEMS = (100, 250, 1000, 5000)
PSIS = (0.01, 0.02, 0.03, 0.05, 0.10, 0.15)
EVERY = 50
"""Items between two looks of the sequential design."""
SPEC_34 = {  # (n, psi) -> {drop in points: (SAFE %, UNSAFE %)}, margin 1 point
    (100, 0.02): {0: (9.9, 0.1), 0.5: (5.1, 0.4), 1: (2.0, 1.1), 2: (0, 5.1)},
    (100, 0.05): {0: (9.2, 1.2), 0.5: (6.2, 2.1), 1: (4.1, 3.5), 2: (1.6, 8.6), 3: (0.5, 18), 5: (0, 56)},
    (100, 0.15): {0: (7.5, 2.4), 0.5: (5.9, 3.2), 1: (4.6, 4.2), 2: (2.6, 7.0), 3: (1.4, 11), 5: (0.3, 24)},
    (250, 0.02): {0: (20.6, 0.1), 0.5: (8.9, 0.8), 1: (3.0, 3.0), 2: (0, 24)},
    (250, 0.05): {0: (16.5, 0.6), 0.5: (9.3, 1.6), 1: (4.8, 3.6), 2: (0.9, 14), 3: (0.1, 38), 5: (0, 97)},
    (250, 0.15): {0: (10.3, 1.2), 0.5: (7.1, 1.9), 1: (4.7, 3.1), 2: (1.9, 7.3), 3: (0.7, 15), 5: (0, 42)},
    (1000, 0.02): {0: (68.4, 0), 0.5: (27.2, 0.2), 1: (4.6, 4.4), 2: (0, 85)},
    (1000, 0.05): {0: (39.8, 0.1), 0.5: (16.9, 0.8), 1: (4.9, 4.4), 2: (0.1, 40), 3: (0, 90), 5: (0, 100)},
    (1000, 0.10): {0: (25.8, 0.3), 0.5: (12.5, 1.4), 1: (5.0, 4.4), 2: (0.4, 24), 3: (0, 62), 5: (0, 99)},
    (1000, 0.15): {0: (20.3, 0.6), 0.5: (10.8, 1.7), 1: (5.0, 4.4), 2: (0.7, 19), 3: (0.1, 47), 5: (0, 95)},
    (5000, 0.02): {0: (99.9, 0), 0.5: (78.4, 0), 1: (4.9, 4.5), 2: (0, 100)},
    (5000, 0.05): {0: (93.3, 0), 0.5: (47.0, 0.1), 1: (5.0, 4.4), 2: (0, 94), 3: (0, 100), 5: (0, 100)},
    (5000, 0.10): {0: (72.1, 0), 0.5: (29.8, 0.2), 1: (5.0, 4.4), 2: (0, 71), 3: (0, 99.8), 5: (0, 100)},
    (5000, 0.15): {0: (57.1, 0), 0.5: (23.2, 0.4), 1: (5.0, 4.4), 2: (0, 55), 3: (0, 97.5), 5: (0, 100)},
}  # fmt: skip
SPEC_WIDER = {  # margin -> n -> SAFE % at drop 0 for psi = 2, 5, 10, 15 %
    0.02: {100: (26, 20, 15, 12), 250: (58, 36, 25, 20), 1000: (99, 87, 63, 49), 5000: (100, 100, 99.8, 97.7)},
    0.03: {100: (47, 30, 21, 18), 250: (86, 61, 42, 32), 1000: (100, 99, 90, 78)},
}


class Region:
    """The tables of `n` items that get one verdict: for each count of the one kind, the least of the other."""

    def __init__(self, n: int, m: float, side: str) -> None:
        self.n, self.m, self.side = n, m, side
        self.d0 = -m if side == "safe" else m
        self.critical = self._critical()
        self.least = self._least(self.critical)

    def p(self, b: int, c: int) -> float:
        """p-value of a table; for UNSAFE `b` counts improvements and `c` regressions."""
        b, c = (b, c) if self.side == "safe" else (c, b)
        return stats.settled_p(b, c, self.n, self.m, self.side, alpha=ALPHA)

    def _critical(self) -> float:
        """Smallest statistic that gets the verdict, found with the real p-value by bisection over all tables."""
        counts = np.arange(self.n + 1)
        b, c = np.meshgrid(counts, counts, indexing="ij", sparse=False) if self.n <= 1000 else self._band()
        inside = b + c <= self.n
        b, c = b[inside], c[inside]
        z = stats.tango_z(b.astype(float), c.astype(float), self.n, self.d0)
        near = (z > 1.0) & (z < 4.5)  # the normal critical value is 1.64
        b, c, z = b[near], c[near], z[near]
        order = np.argsort(z)
        low, high = 0, len(order) - 1
        while low < high:
            middle = (low + high) // 2
            if self.p(int(b[order[middle]]), int(c[order[middle]])) <= ALPHA:
                high = middle
            else:
                low = middle + 1
        return float(z[order[low]])

    def _band(self) -> tuple[Any, Any]:
        """Tables with few differing items: enough distinct statistics for large `n`."""
        counts = np.arange(min(self.n, 1500) + 1)
        return np.meshgrid(counts, counts, indexing="ij")

    def _least(self, critical: float) -> Any:
        rows = np.arange(self.n + 1)
        low, high = np.zeros(self.n + 1, int), self.n - rows + 1
        while np.any(low < high):
            middle = (low + high) // 2
            z = stats.tango_z(rows.astype(float), middle.astype(float), self.n, self.d0)
            extreme = (z >= critical - 1e-9) | (middle >= high)
            low, high = np.where(extreme, low, middle + 1), np.where(extreme, np.minimum(middle, high), high)
        return high

    def chance(self, psi: float, loss: float) -> float:
        """Probability of the verdict when the true loss is `loss` and a share `psi` of items differs."""
        p10, p01 = (psi + loss) / 2, (psi - loss) / 2
        one, other = (p10, p01) if self.side == "safe" else (p01, p10)
        return least_chance(self.n, self.least, one, other)

    def check(self, rng: np.random.Generator) -> int:
        """Tables at the boundary through `decide` itself; returns how many."""
        wanted = "SAFE" if self.side == "safe" else "UNSAFE"
        rows = np.flatnonzero((self.least <= self.n - np.arange(self.n + 1)) & (self.least > 0))
        rows = rows[rows < max(10, int(0.1 * self.n))]
        done = 0
        for row in rng.choice(rows, min(4, len(rows)), replace=False):
            for k, inside in ((self.least[row], True), (self.least[row] - 1, False)):
                b, c = (int(row), int(k)) if self.side == "safe" else (int(k), int(row))
                both = int(0.7 * (self.n - b - c))
                counts = PairCounts(n=self.n, n11=both, n10=b, n01=c, n00=self.n - b - c - both)
                verdict = decide(counts, Plan(margin=self.m)).verdict
                assert (verdict == wanted) == inside, (self.n, self.m, b, c, verdict)
                done += 1
        return done


def least_chance(n: int, least: Any, one: float, other: float) -> float:
    """P(other count >= least[count of the one kind]) under the trinomial."""
    rows = np.arange(n + 1)
    share = min(1.0, max(0.0, other) / (1 - one))
    return float(np.sum(binom.pmf(rows, n, one) * binom.sf(least - 1, n - rows, share)))


def naive(n: int, m: float, psi: float, loss: float) -> float:
    """Chance that the usual rule passes: lower end of the 90 % Wald interval of the difference above -m."""
    rows = np.arange(n + 1)
    low, high = np.zeros(n + 1, int), n - rows + 1

    def passes(c: Any) -> Any:
        change = (c - rows) / n
        se = np.sqrt(np.maximum((c + rows) / n - change**2, 0) / n)
        return change - 1.6448536269514722 * se > -m

    while np.any(low < high):
        middle = (low + high) // 2
        good = passes(middle) | (middle >= high)
        low, high = np.where(good, low, middle + 1), np.where(good, np.minimum(middle, high), high)
    return least_chance(n, high, (psi + loss) / 2, (psi - loss) / 2)


def sequential(psi: float, m: float, runs: int, rng: np.random.Generator) -> dict[int, tuple[float, float]]:
    """n -> share of runs that ever said SAFE, UNSAFE by then, looking every `EVERY` items, at a true loss of `m`."""
    U, W = stats.design_mixture(m, Plan().psi_plan)
    p10, p01 = (psi + m) / 2, (psi - m) / 2
    b, c = np.zeros(runs, int), np.zeros(runs, int)
    safe, unsafe, level = np.zeros(runs, bool), np.zeros(runs, bool), math.log(1 / ALPHA)
    found = {}
    for n in range(EVERY, max(ITEMS) + 1, EVERY):
        drawn = rng.multinomial(EVERY, [p10, max(0.0, p01), 1 - p10 - max(0.0, p01)], size=runs)
        b, c = b + drawn[:, 0], c + drawn[:, 1]
        tables, which = np.unique(b * (n + 1) + c, return_inverse=True)
        tb, tc = (tables // (n + 1))[:, None], (tables % (n + 1))[:, None]
        safe |= (_wealth(log_e_stakes(n, tb, tc, -m, U), W) >= level)[which]
        unsafe |= (_wealth(log_e_stakes(n, tc, tb, m, U), W) >= level)[which]
        if n in ITEMS:
            found[n] = (float(safe.mean()), float(unsafe.mean()))
    return found


def _wealth(log_e: Any, W: Any) -> Any:
    top = log_e.max(axis=1)
    return top + np.log(np.exp(log_e - top[:, None]) @ W)


def check_sequential(rng: np.random.Generator) -> int:
    """Random tables: the wealth summed here is the wealth on which `decide` rests."""
    U, W = stats.design_mixture(0.01, Plan().psi_plan)
    for _ in range(20):
        n = int(rng.integers(50, 5000))
        b, c = (int(x) for x in rng.multinomial(n, [0.03, 0.02, 0.95])[:2])
        counts = PairCounts(n=n, n11=n - b - c, n10=b, n01=c, n00=0)
        decision = decide(counts, Plan(margin=0.01, design="sequential"))
        ours = float(_wealth(log_e_stakes(n, np.array([[b]]), np.array([[c]]), -0.01, U), W)[0])
        assert abs(ours - (decision.ln_e_safe or 0.0)) < 1e-9
        assert (decision.verdict == "SAFE") == (ours >= math.log(1 / ALPHA))
    return 20


def measure(runs: int) -> dict[str, Any]:
    """Everything that the tables show, in per cent."""
    rng = np.random.default_rng(20_261_124)
    m = 0.01
    regions = {(n, m, side): Region(n, m, side) for n in ITEMS for side in ("safe", "unsafe")}
    regions |= {(n, wide, "safe"): Region(n, wide, "safe") for wide, rows in SPEC_WIDER.items() for n in rows}
    checked = sum(region.check(rng) for region in regions.values()) + check_sequential(rng)
    bets = {psi: sequential(psi, m, runs, rng) for psi in PSIS}
    grid = np.linspace(m, 0.35, 120)
    errors = [{
        "n": n, "psi": psi,
        "false_safe": _percent(regions[n, m, "safe"].chance(psi, m)),
        "false_unsafe": _percent(regions[n, m, "unsafe"].chance(psi, m)),
        "sequential_false_safe": _percent(bets[psi][n][0]), "sequential_false_unsafe": _percent(bets[psi][n][1]),
        "naive_false_safe": _percent(naive(n, m, psi, m)),
    } for n in ITEMS for psi in PSIS]  # fmt: skip
    worst = [{
        "n": n, "margin": wide, "side": side,
        "worst": _percent(max(regions[n, wide, side].chance(psi, wide) for psi in grid if psi >= wide)),
    } for n, wide, side in regions]  # fmt: skip
    power = [{
        "n": n, "psi": psi, "margin": m, "drop": drop, "spec_safe": spec[0], "spec_unsafe": spec[1],
        **{side: _percent(regions[n, m, side].chance(psi, drop / 100)) for side in ("safe", "unsafe")},
    } for (n, psi), row in SPEC_34.items() for drop, spec in row.items()]  # fmt: skip
    power += [{
        "n": n, "psi": psi, "margin": wide, "drop": 0, "safe": _percent(regions[n, wide, "safe"].chance(psi, 0.0)),
        "unsafe": None, "spec_safe": spec, "spec_unsafe": None,
    } for wide, rows in SPEC_WIDER.items() for n, row in rows.items()
      for psi, spec in zip((0.02, 0.05, 0.10, 0.15), row, strict=True)]  # fmt: skip
    gaps = [abs(row[side] - row[f"spec_{side}"]) for row in power for side in ("safe", "unsafe")
            if row[f"spec_{side}"] is not None]  # fmt: skip
    return {"alpha": ALPHA, "errors_at_the_margin": errors, "worst_over_psi_to_35_percent": worst, "power": power,
            "largest_distance_to_the_specification_points": round(max(gaps), 2), "sequential_runs": runs,
            "sequential_standard_error_points": round(100 * math.sqrt(0.05 * 0.95 / runs), 2),
            "tables_checked_with_decide": checked}  # fmt: skip


def _percent(share: float) -> float:
    return round(100 * share, 3)


def markdown(found: dict[str, Any]) -> str:
    """The two tables for people."""
    lines = [
        "False verdicts (%) when the true loss is the margin, 1 point, at 5 %:", "",
        "| items | differing | SAFE, fixed | UNSAFE, fixed | SAFE, sequential | UNSAFE, sequential | usual rule |",
        "|---:|---:|---:|---:|---:|---:|---:|",
        *(f"| {r['n']:,} | {100 * r['psi']:g} % | {r['false_safe']:.1f} | {r['false_unsafe']:.1f} | "
          f"{r['sequential_false_safe']:.1f} | {r['sequential_false_unsafe']:.1f} | {r['naive_false_safe']:.1f} |"
          for r in found["errors_at_the_margin"]),
        "", "Chance of a verdict (%), ours / specification:", "",
        "| margin | items | differing | true drop | SAFE | UNSAFE |", "|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for r in found["power"]:
        unsafe = "" if r["unsafe"] is None else f"{r['unsafe']:.1f} / {r['spec_unsafe']:g}"
        lines.append(f"| {100 * r['margin']:g} | {r['n']:,} | {100 * r['psi']:g} % | {r['drop']:g} | "
                     f"{r['safe']:.1f} / {r['spec_safe']:g} | {unsafe} |")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20_000, help="simulated runs a share of differing items")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    found = measure(options.runs)
    command = " ".join(["python", "benchmarks/error_rates.py", *sys.argv[1:]])
    seconds = round(time.perf_counter() - start, 1)
    found = {"command": command, "python": platform.python_version(), "duration_s": seconds, **found}
    print(markdown(found))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    over = [r for r in found["worst_over_psi_to_35_percent"] if r["worst"] > 100 * ALPHA]
    noise = 3 * found["sequential_standard_error_points"]
    late = [r for r in found["errors_at_the_margin"]
            if max(r["sequential_false_safe"], r["sequential_false_unsafe"]) > 100 * ALPHA + noise]  # fmt: skip
    distance = found["largest_distance_to_the_specification_points"]
    print(f"\n{seconds} s; {found['tables_checked_with_decide']} tables checked with `decide`; largest distance to the "
          f"specification {distance} points; sequential standard error {found['sequential_standard_error_points']} "
          f"points; error rates above 5 %: {len(over) + len(late)}")  # fmt: skip
    sys.exit(10 if over or late or distance > 1.0 else 0)


if __name__ == "__main__":
    main()
