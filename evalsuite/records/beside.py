"""What is concluded beside the verdict: noise, divergence, endpoints. None of it changes a verdict."""

from typing import Literal

from evalsuite.records.base import Noun


class Flips(Noun):
    """Items on which two runs differ, between two runs of the baseline (`aa`) and from baseline to candidate (`ab`)."""

    aa: float
    """Share of items."""
    ab: float
    excess: float
    """`ab` - `aa`."""
    ci: tuple[float, float]
    """90 % interval of the excess (paired t)."""
    p: float
    """One-sided exact sign test of "the candidate flips no more than the baseline does by itself"."""


class Excess(Noun):
    """How much of the candidate's flipping is noise: the triple test."""

    n: int
    """Items that both runs of the baseline and the candidate answered."""
    correct: Flips
    answers: Flips | None
    """The same for the answer given; None where the samples do not hold it."""
    sentence: str
    """For people."""


class PositionBin(Noun):
    """Divergence of the tokens from `first` up to the next bin's first, counted from the beginning of the answer."""

    first: int
    n_tokens: int
    mean_kl: float
    same_top: float


class Divergence(Noun):
    """How far the candidate's next-token distributions are from the baseline's along the baseline's answers (nats)."""

    task: str | None
    """None for all tasks of the mode together."""
    n_sequences: int
    n_tokens: int
    mean_kl: float
    ci: tuple[float, float] | None
    """90 % interval of the mean, with answers as the unit; None where it cannot be had."""
    median_kl: float
    p99_kl: float
    p999_kl: float
    max_kl: float
    same_top: float
    """Share of tokens with the same likeliest token."""
    mean_dp: float
    """Mean change of the probability of the token that the baseline wrote."""
    rms_dp: float
    ppl_ratio: float
    """Perplexity of the baseline's answers under the candidate over that under the baseline."""
    noise_kl: float | None
    """Mean KL divergence of the noise-floor arm on the same tokens."""
    noise_ratio: float | None
    level: Literal["info", "warning", "alert"]
    """Heuristic; never part of a verdict."""
    bins: tuple[PositionBin, ...]


class Endpoint(Noun):
    """Something besides accuracy that may get worse. It warns; it changes no verdict."""

    name: Literal["unparsable", "truncated", "length ratio", "soft accuracy", "gold log-likelihood"]
    n: int
    base: float
    """Mean in the baseline: a share, tokens, or nats."""
    cand: float
    change: float
    """Candidate minus baseline; for the length ratio candidate over baseline (geometric mean)."""
    ci: tuple[float, float]
    """90 % interval of the change."""
    limit: tuple[float, float] | None
    """Range that the change may lie in."""
    p: float | None
    """Of "the change lies outside the range"."""
    state: Literal["held", "broken", "open", "shown"]
    """`held` and `broken` are shown at 5 %, `open` is neither, `shown` has no limit."""
    spread: float | None = None
    """Standard deviation over items, where it is of interest."""
