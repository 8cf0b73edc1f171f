"""Judging: paired answers in, verdicts with an error rate that holds out. Works from the store alone, without torch.

    summary.py    one run: manifest + samples -> `Judgement` (start here)
    pairing.py    samples -> the same item in two arms, as counts
    verdict.py    counts + plan -> one `Decision`;  outlook.py  what an undecided one would need
    evidence.py   which test a plan asks for, and its p-values and interval
    release.py    pooled decision + tasks + noise floor -> `SuiteDecision`
    findings.py   reasons to distrust a result
    words.py      numbers and sentences for people
    stats.py      every statistic, as pure functions: exact.py, sequential.py, means.py, power.py

    bench.py      one bench, and the answers of a run: `bench.json` + samples -> `BenchJudgement` (start here for speed)
    rounds.py     paired windows -> `Ratio`;  configs.py  best batches, numbers of devices
    joint.py      tokens, seconds, joules and money a correct answer: answers.py (samples), costs.py (a token's cost)
    effects.py    logarithms of ratios and their intervals

Nothing here reads a file or a clock, and what is resampled is resampled with a fixed seed: the same documents give the
same judgement.
"""

from evalsuite.judge import stats
from evalsuite.judge.bench import Answered, judge_bench
from evalsuite.judge.release import Noise, decide_suite
from evalsuite.judge.summary import judge_run
from evalsuite.judge.verdict import decide
from evalsuite.records import PairCounts, Plan

__all__ = [
    "Answered",
    "Noise",
    "PairCounts",
    "Plan",
    "decide",
    "decide_suite",
    "judge_bench",
    "judge_run",
    "stats",
]
