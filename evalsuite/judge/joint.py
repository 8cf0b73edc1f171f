"""Cost of a correct answer: the answers of a run, joined with the cost of a token from a bench.

    joules a correct answer = joules a token x tokens an answer / accuracy

Wrong and cut answers are paid for. A format may save joules a token and spend them on longer answers, so the three
factors are always shown apart (`decomposition`). Tokens come from the accuracy run, which may be emulated; seconds
and joules from the bench of a native arm, never from the clock of an accuracy run.

Intervals: items are drawn with replacement (the same for all arms), and rounds independently of them; 10,000 draws,
percentiles of the logarithm. With fewer than 30 correct answers a cost of each says nothing and none is given. Source:
measurement, section 6.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from evalsuite.judge import answers, costs
from evalsuite.judge.answers import CORRECT, RIGHT_ARM, RIGHT_BASE, TOKENS, TRUNCATED, WASTED, Answers, gather
from evalsuite.judge.costs import Cost
from evalsuite.judge.effects import SEED
from evalsuite.judge.exact import FloatArray
from evalsuite.records import Bench, Interval, Joint

DRAWS = 10_000
MIN_CORRECT = 30
LENGTHS = (0.9, 1.1)
"""Token inflation outside of this is said (MLPerf's band)."""
SATURATED = 0.02


@dataclass(frozen=True)
class Asked:
    """What is to be joined: who answered, and what is known of their tokens' cost."""

    arms: tuple[str, ...]
    """The baseline first; without the noise arm."""
    noise_arm: str | None = None
    bench: Bench | None = None
    emulated: frozenset[str] = frozenset()
    """Arms whose answers came from emulation: their tokens are true, a native kernel's cost is not theirs."""
    draws: int = DRAWS
    seed: int = SEED


def join(samples: pd.DataFrame, mode: str, asked: Asked) -> tuple[Joint, ...]:
    """All arms in one mode, pooled first and then by task. Empty where no task of the mode is answered with text.

    `samples`: columns as `answers.gather` says. Without a bench, or for emulated arms, only figures in tokens.
    """
    found = gather(samples, asked.arms, mode)
    if found is None:
        return ()
    book = _Book(found, mode, asked)
    noise = _noise(samples, mode, asked)
    tasks = [None, *range(len(found.tasks))] if len(found.tasks) > 1 else list(range(len(found.tasks)))
    return tuple(_joint(book, arm, task, noise) for task in tasks for arm in found.arms)


class _Book:
    """Totals and draws of everything, made once."""

    def __init__(self, found: Answers, mode: str, asked: Asked) -> None:
        self.found, self.mode, self.asked, self.bench = found, mode, asked, asked.bench
        self.totals, self.draws = found.totals(), found.resampled(asked.draws, asked.seed)
        self.workload = costs.matching(asked.bench, mode) if asked.bench else None
        self.seconds = self.joules = Cost({}, {}, {})
        if asked.bench and self.workload:
            self.seconds, self.joules = (of(asked.bench, self.workload) for of in (costs.seconds, costs.joules))
        self.rounds = [
            cost.resampled(asked.draws, asked.seed + 1 + i) for i, cost in enumerate((self.seconds, self.joules))
        ]

    def sums(self, task: int | None) -> tuple[FloatArray, FloatArray]:
        """(arms, fields) and (draws, arms, fields) of a task, or of all."""
        if task is None:
            return self.totals.sum(axis=0), self.draws.sum(axis=0)
        return self.totals[task], self.draws[task]

    def composite(self, arm: str) -> bool:
        """Whether the arm answered by emulation and was benched natively."""
        return arm in self.asked.emulated and arm in self.seconds.logs


def _joint(book: _Book, arm: str, task: int | None, noise: dict[str | None, float]) -> Joint:
    one, base = (_Tally(*book.sums(task), at) for at in (book.found.arms.index(arm), 0))
    name = None if task is None else book.found.tasks[task]
    joint = Joint(
        arm=arm, task=name, mode=book.mode, n=round(one.n), n_correct=round(one.correct),
        accuracy=one.correct / one.n, tokens_per_answer=one.tokens / one.n, waste=one.share(WASTED, TOKENS),
        truncated=one.share(TRUNCATED, answers.N), tokens_per_correct=one.interval(one.per_correct),
        token_inflation=None, token_inflation_noise=noise.get(name),
    )  # fmt: skip
    reasons = [] if one.per_correct else ["few_correct"]
    if joint.truncated > SATURATED:
        reasons.append("length_saturated")
    if arm != book.found.arms[0]:
        inflation = one.interval(_minus(one.per_answer, base.per_answer))
        joint = joint.model_copy(
            update={"token_inflation": inflation, "token_inflation_both_right": one.interval(one.both_right)}
        )
        if inflation and not LENGTHS[0] <= inflation.value <= LENGTHS[1]:
            reasons.append("tpi_out_of_band")
    joint, more = _costed(book, joint, one)
    joint = joint.model_copy(update={"reasons": tuple(dict.fromkeys([*reasons, *more]))})
    return joint if arm == book.found.arms[0] else _against(book, joint, one, base)


class _Log:
    """A logarithm with its draws; no draws where nothing can be said about its spread."""

    def __init__(self, value: float, draws: FloatArray | None) -> None:
        self.value, self.draws = value, draws

    def plus(self, other: "_Log | None", sign: float = 1.0) -> "_Log | None":
        """Sum; None with an unknown."""
        if other is None:
            return None
        draws = None if self.draws is None or other.draws is None else self.draws + sign * other.draws
        return _Log(self.value + sign * other.value, draws)


def _minus(one: _Log | None, two: _Log | None) -> _Log | None:
    return None if one is None else one.plus(two, -1.0)


class _Tally:
    """One arm's sums over a task (or all), as logarithms with their draws."""

    def __init__(self, total: FloatArray, draws: FloatArray, at: int) -> None:
        self._total, self._draws = total[at], draws[:, at]
        self.n, self.tokens, self.correct = (float(self._total[i]) for i in (answers.N, TOKENS, CORRECT))

    def _ratio(self, above: int, below: int) -> _Log | None:
        if not (self._total[above] > 0 and self._total[below] > 0):
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            draws = np.log(self._draws[:, above]) - np.log(self._draws[:, below])
        value = math.log(float(self._total[above])) - math.log(float(self._total[below]))
        return _Log(value, draws if np.isfinite(draws).all() else None)

    def share(self, above: int, below: int) -> float:
        """A share; 0 of nothing."""
        return float(self._total[above] / self._total[below]) if self._total[below] else 0.0

    @property
    def per_answer(self) -> _Log | None:
        """Tokens an answer."""
        return self._ratio(TOKENS, answers.N)

    @property
    def per_correct(self) -> _Log | None:
        """Tokens a correct answer; None with too few."""
        return self._ratio(TOKENS, CORRECT) if self.correct >= MIN_CORRECT else None

    @property
    def accuracy(self) -> _Log | None:
        """None with too few correct answers."""
        return self._ratio(CORRECT, answers.N) if self.correct >= MIN_CORRECT else None

    @property
    def both_right(self) -> _Log | None:
        """Inflation over the answers that both got right."""
        return self._ratio(RIGHT_ARM, RIGHT_BASE) if self.correct >= MIN_CORRECT else None

    @staticmethod
    def interval(log: _Log | None, times: float = 1.0) -> Interval | None:
        """A logarithm as a factor with its percentile interval."""
        if log is None:
            return None
        ends = None if log.draws is None else np.quantile(log.draws, (0.025, 0.975))
        ci = None if ends is None else (times * math.exp(float(ends[0])), times * math.exp(float(ends[1])))
        return Interval(value=times * math.exp(log.value), ci95=ci)


def _price(cost: Cost, draws: dict[str, FloatArray], arm: str) -> _Log | None:
    value = cost.value(arm)
    return None if value is None else _Log(value, draws.get(arm))


def _costed(book: _Book, joint: Joint, one: _Tally) -> tuple[Joint, list[str]]:
    """With seconds, joules and money an answer, and why there are none."""
    arm, bench, workload = joint.arm, book.bench, book.workload
    if bench is None:
        return joint, []
    if workload is None:
        return joint, ["not_measured"]
    if book.composite(arm):
        return joint, ["composite"]
    reasons = [code for cost in (book.seconds, book.joules) for code in cost.reasons.get(arm, ("not_measured",))]
    second, joule = (_price(c, d, arm) for c, d in zip((book.seconds, book.joules), book.rounds, strict=True))
    if second is None and joule is None:
        return joint, reasons
    update: dict[str, object] = {"workload": workload.key}
    if workload.phase == "decode":
        reasons.append("decode_only")
    if second is not None:
        per_correct = second.plus(one.per_correct)
        update["s_per_correct"] = one.interval(per_correct)
        if bench.spec.price_per_hour:
            price = bench.spec.price_per_hour / 3600 * workload.devices
            update["cost_per_correct"] = one.interval(per_correct, price)
    if joule is not None and book.joules.metered is not None:
        metered = book.joules.metered
        update |= {"meter": book.joules.meter, "scope": metered.scope, "quality": metered.quality}
        update["j_per_answer"] = one.interval(joule.plus(one.per_answer))
        update["j_per_correct"] = one.interval(joule.plus(one.per_correct))
    return joint.model_copy(update=update), reasons


def _against(book: _Book, joint: Joint, one: _Tally, base: _Tally) -> Joint:
    """With the ratios to the baseline, taken apart into factors."""
    tokens, accuracy = _minus(one.per_answer, base.per_answer), _minus(one.accuracy, base.accuracy)
    whole = _minus(one.per_correct, base.per_correct)
    if tokens is None or accuracy is None or whole is None:
        return joint
    parts = {"tokens": tokens.value, "accuracy": accuracy.value, "tokens_per_correct": tokens.value - accuracy.value}
    logs, more, break_even = {"tokens_per_correct": whole}, list(joint.reasons), None
    for unit, cost, drawn in zip("sj", (book.seconds, book.joules), book.rounds, strict=True):
        priced = [_price(cost, drawn, name) for name in (joint.arm, book.found.arms[0])]
        change, bars = _minus(*priced), cost.unpaired.get(joint.arm, ())
        composite = book.composite(joint.arm) or book.composite(book.found.arms[0])
        if change is None or composite:
            continue
        more += bars
        total = change.plus(whole)
        if bars or total is None:
            continue
        logs[f"{unit}_per_correct"] = total
        parts[f"{unit}_per_token"] = change.value
        parts[f"{unit}_per_correct"] = change.value + tokens.value - accuracy.value
        if unit == "j":
            break_even = math.exp(accuracy.value - change.value)
    relative = {name: made for name, log in logs.items() if (made := one.interval(log)) is not None}
    return joint.model_copy(update={
        "decomposition": parts, "relative": relative, "break_even_inflation": break_even,
        "reasons": tuple(dict.fromkeys(more)),
    })  # fmt: skip


def _noise(samples: pd.DataFrame, mode: str, asked: Asked) -> dict[str | None, float]:
    """Task (None: all) -> |log| of the tokens an answer between two runs of the baseline."""
    found = gather(samples, (asked.arms[0], asked.noise_arm), mode) if asked.noise_arm else None
    if found is None or len(found.arms) < 2:
        return {}
    totals = found.totals()
    named: dict[str | None, FloatArray] = {None: totals.sum(axis=0)}
    named.update({task: totals[i] for i, task in enumerate(found.tasks)})
    return {task: abs(math.log(t[1, TOKENS] / t[0, TOKENS])) for task, t in named.items() if t[:, TOKENS].min() > 0}
