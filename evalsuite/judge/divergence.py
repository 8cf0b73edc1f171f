"""How far the candidate's next-token distributions are from the baseline's, in llama.cpp's vocabulary.

In: rows of `divergence.parquet`, one a token of the baseline's own answers. Out: a `Divergence` a task and one for all.
Tokens of one answer hang together, so intervals take the answer as the unit. Divergence warns and never certifies: near
the baseline it says how much changes and next to nothing about whether answers get worse (statistics, section 8).
Thresholds are heuristics, relative to the noise floor where there is one.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from evalsuite.judge.means import cluster_t
from evalsuite.judge.words import percent
from evalsuite.records import Divergence, Finding, PositionBin

COLUMNS = ("arm", "mode", "task", "item_hash", "token", "kl", "same_top", "logprob_base", "logprob")
BINS = (0, 16, 64, 256, 1024, 4096, 16_384)
"""Where position bins begin, in tokens of the answer."""
WARN_KL, WARN_TOP, WARN_RATIO, ALERT_KL = 0.01, 0.97, 100.0, 0.05
CALM_RATIO = 10.0
"""Up to so many times the noise's own divergence nothing is to be said."""


def divergences(rows: pd.DataFrame, arms: tuple[str, str | None], mode: str) -> tuple[Divergence, ...]:
    """All tasks together, then each task. `arms`: candidate, noise floor. Empty if the candidate has no rows."""
    candidate, noise = arms
    own = rows[(rows["arm"] == candidate) & (rows["mode"] == mode)]
    if own.empty:
        return ()
    other = rows[(rows["arm"] == noise) & (rows["mode"] == mode)]
    floor = _means(other)
    return tuple(_one(task, part, floor.get(task)) for task, part in _parts(own))


def _parts(rows: pd.DataFrame) -> Iterator[tuple[str | None, pd.DataFrame]]:
    yield None, rows
    for task, part in rows.groupby("task", sort=True):
        yield str(task), part


def _means(rows: pd.DataFrame) -> Mapping[str | None, float]:
    return {task: float(part["kl"].mean()) for task, part in _parts(rows) if len(part)}


def _one(task: str | None, rows: pd.DataFrame, noise: float | None) -> Divergence:
    kl = rows["kl"].to_numpy(np.float64)
    sequences = rows.groupby(["task", "item_hash"], sort=False)["kl"].agg(["sum", "size"])
    test = cluster_t(sequences["sum"].to_numpy(), sequences["size"].to_numpy(np.float64), 0.0, 0.05)
    base, own = rows["logprob_base"].to_numpy(np.float64), rows["logprob"].to_numpy(np.float64)
    change = np.exp(own) - np.exp(base)
    mean, same_top = float(kl.mean()), float(rows["same_top"].mean())
    ratio = mean / noise if noise else None
    return Divergence(
        task=task, n_sequences=len(sequences), n_tokens=len(rows), mean_kl=mean,
        ci=(max(0.0, test.low), test.high) if test.se > 0 else None,
        median_kl=float(np.median(kl)), p99_kl=float(np.quantile(kl, 0.99)), p999_kl=float(np.quantile(kl, 0.999)),
        max_kl=float(kl.max()), same_top=same_top, mean_dp=float(change.mean()),
        rms_dp=float(np.sqrt(np.mean(change**2))), ppl_ratio=float(np.exp(np.mean(base - own))),
        noise_kl=noise, noise_ratio=ratio, level=_level(mean, same_top, ratio), bins=tuple(_bins(rows)),
    )  # fmt: skip


def _level(mean: float, same_top: float, ratio: float | None) -> str:
    if mean > ALERT_KL:
        return "alert"
    if mean > WARN_KL or same_top < WARN_TOP or (ratio is not None and ratio > WARN_RATIO and mean > WARN_KL / 10):
        return "warning"
    return "info"


def _bins(rows: pd.DataFrame) -> Iterator[PositionBin]:
    token = rows["token"].to_numpy()
    for first, end in zip(BINS, (*BINS[1:], math.inf), strict=True):
        here = (token >= first) & (token < end)
        if here.any():
            part = rows.loc[here]
            yield PositionBin(
                first=first, n_tokens=len(part), mean_kl=float(part["kl"].mean()),
                same_top=float(part["same_top"].mean()),
            )  # fmt: skip


def divergence_findings(found: tuple[Divergence, ...], candidate: str) -> list[Finding]:
    """One finding where the divergence over all tasks is large; it changes no verdict."""
    if not found or found[0].level == "info":
        return []
    one = found[0]
    beside = "" if one.noise_ratio is None else f", {one.noise_ratio:,.0f} times that of two baseline runs"
    message = (
        f"{candidate} reads the baseline's answers with a mean KL divergence of {one.mean_kl:.3g} nats{beside}, and "
        f"the same likeliest token on {percent(one.same_top)} of {one.n_tokens:,} tokens. No verdict: run more items."
    )
    return [Finding(code="DIVERGED", severity="error" if one.level == "alert" else "warning", message=message)]
