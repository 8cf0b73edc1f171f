"""Judging: paired answers in, verdicts with an error rate that holds out. Works from the store alone, without torch.

    summary.py    one run: manifest + samples -> `Judgement` (start here)
    pairing.py    samples -> the same item in two arms, as counts
    verdict.py    counts + plan -> one `Decision`;  outlook.py  what an undecided one would need
    evidence.py   which test a plan asks for, and its p-values and interval
    release.py    pooled decision + tasks + noise floor -> `SuiteDecision`
    findings.py   reasons to distrust a result
    words.py      numbers and sentences for people
    stats.py      every statistic, as pure functions: exact.py, sequential.py, means.py, power.py

Nothing here reads a file, a clock or a random number: the same samples under the same plan give the same judgement.
"""

from evalsuite.judge import stats
from evalsuite.judge.release import Noise, decide_suite
from evalsuite.judge.summary import judge_run
from evalsuite.judge.verdict import decide
from evalsuite.records import PairCounts, Plan

__all__ = ["Noise", "PairCounts", "Plan", "decide", "decide_suite", "judge_run", "stats"]
