"""The release decision of one candidate in one mode, from its pooled decision, its tasks and the noise floor.

SAFE if and only if

    the pool of all tasks is SAFE at the pooled margin,
    and no task is UNSAFE at its own margin (Holm's correction over the tasks: one false alarm in 20 releases, not one
    a task), whatever its role,
    and every task declared `certify` is SAFE at its own margin (no correction: all must pass).

A `monitor` task may veto, never certify. Baseline against baseline that differs significantly (`@aa`, two-sided exact
McNemar p below 0.001, on correctness or on parsability) means that the harness is broken: INVALID, whatever else was
found. A missing noise floor is a finding, not a verdict.
"""

from collections.abc import Sequence
from typing import NamedTuple

from evalsuite.judge.exact import holm, mcnemar_exact
from evalsuite.judge.words import again, p_value, points, release_sentence
from evalsuite.records import FINDINGS, Decision, Finding, PairCounts, SuiteDecision, Verdict

NOISE_P = 0.001
"""Two-sided exact McNemar p below which the noise floor is broken."""


class Noise(NamedTuple):
    """Baseline against baseline."""

    correct: PairCounts
    """Paired table of right and wrong."""
    parsed: PairCounts
    """Paired table of parsed and unparsable."""
    mismatches: int = 0
    """Items for which the two runs of the baseline saw different prompts."""

    @property
    def p(self) -> float:
        """Smaller of the two-sided exact McNemar p-values of correctness and of parsability."""
        return min(mcnemar_exact(table.n10, table.n01, "two-sided") for table in (self.correct, self.parsed))

    @property
    def complaint(self) -> str | None:
        """Why the noise floor is broken; None if it holds."""
        if self.mismatches:
            return f"the noise floor is broken: {self.mismatches:,} prompts differ between two runs of the baseline"
        for what, table in (("right", self.correct), ("parsable", self.parsed)):
            p = mcnemar_exact(table.n10, table.n01, "two-sided")
            if p < NOISE_P:
                return (
                    f"the noise floor is broken: between two runs of the baseline {table.n10:,} items stopped being "
                    f"{what} and {table.n01:,} became it (exact McNemar {p_value(p)}); the harness is at fault"
                )
        return None


def decide_suite(
    pooled: Decision,
    tasks: Sequence[Decision] = (),
    noise: Noise | None = None,
    findings: Sequence[Finding] = (),
    attempt: int = 1,
) -> SuiteDecision:
    """Apply the release rule. `tasks`: one decision a task, under its own plan; `noise`: None if there is no floor.

    The tasks in the result carry the verdict that counts: an UNSAFE that Holm's correction does not uphold is
    INCONCLUSIVE there, and says so.
    """
    adjusted = holm([task.p_unsafe for task in tasks])
    tasks = [_corrected(task, p, len(tasks)) for task, p in zip(tasks, adjusted, strict=True)]
    complaint = noise.complaint if noise is not None else None
    verdict, reasons = _release(pooled, tasks, complaint)
    return SuiteDecision(
        verdict=verdict,
        reasons=tuple(reasons),
        pooled=pooled,
        tasks=tuple(tasks),
        findings=(*findings, *_findings(pooled, tasks, noise, complaint)),
        noise=noise.correct if noise is not None else None,
        noise_p=noise.p if noise is not None else None,
        attempt=attempt,
        sentence=release_sentence(verdict, reasons, pooled) + again(attempt),
    )


def _corrected(task: Decision, adjusted: float, tasks: int) -> Decision:
    """The task's decision after Holm's correction."""
    if task.verdict != "UNSAFE":
        return task
    corrected = f"Holm-adjusted over {tasks} tasks {p_value(adjusted)}"
    if adjusted <= task.plan.alpha_unsafe:
        return task.model_copy(update={"reasons": (*task.reasons, corrected)}) if tasks > 1 else task
    reason = f"UNSAFE by itself, but {corrected}: with so many tasks one such result is expected by chance"
    return task.model_copy(update={"verdict": "INCONCLUSIVE", "reasons": (reason, *task.reasons)})


def _release(pooled: Decision, tasks: Sequence[Decision], complaint: str | None) -> tuple[Verdict, list[str]]:
    """Verdict and reasons, the deciding one first."""
    broken = [f"task {task.subject.task}: {task.reasons[0]}" for task in tasks if task.verdict == "INVALID"]
    if pooled.verdict == "INVALID" or complaint or broken:
        own = list(pooled.reasons) if pooled.verdict == "INVALID" else []
        return "INVALID", [*([complaint] if complaint else []), *own, *broken]
    vetoes = [_veto(task) for task in tasks if task.verdict == "UNSAFE"]
    if pooled.verdict == "UNSAFE":
        return "UNSAFE", [*pooled.reasons, *vetoes]
    if vetoes:
        return "UNSAFE", vetoes
    uncertified = [
        f"task {task.subject.task} must be SAFE by itself at {points(task.plan.margin)} points "
        f"and is {task.verdict}: {task.reasons[0]}"
        for task in tasks
        if task.plan.role == "certify" and task.verdict != "SAFE"
    ]
    if pooled.verdict != "SAFE":
        return "INCONCLUSIVE", [*pooled.reasons, *uncertified]
    if uncertified:
        return "INCONCLUSIVE", ["all tasks together are SAFE", *uncertified]
    return "SAFE", [*pooled.reasons, *_certificate(tasks)]


def _veto(task: Decision) -> str:
    """Why a task vetoes."""
    low, high = (points(end, sign=True) for end in task.ci)
    change = points(task.delta or 0.0, sign=True)
    return f"task {task.subject.task} changes by {change} points [{low}, {high}]: {', '.join(task.reasons)}"


def _certificate(tasks: Sequence[Decision]) -> list[str]:
    """What SAFE covers task by task, if there are several."""
    if len(tasks) < 2:
        return []
    safe = [str(task.subject.task) for task in tasks if task.verdict == "SAFE"]
    rest = [str(task.subject.task) for task in tasks if task.verdict != "SAFE"]
    own = f"safe at their own margins too: {', '.join(safe)}" if safe else "no task is certified by itself"
    other = f"; not certified by themselves: {', '.join(rest)}" if safe and rest else ""
    return [f"no task is UNSAFE; {own}{other}"]


def _findings(
    pooled: Decision, tasks: Sequence[Decision], noise: Noise | None, complaint: str | None
) -> list[Finding]:
    """Findings that follow from the decisions themselves."""
    found = []
    if noise is None:
        message = (
            "No noise floor was measured, so flips cannot be told from run-to-run noise. "
            "Set `noise_floor: true` in the suite, or resume the run."
        )
        found.append(Finding(code="NOISE_FLOOR_MISSING", severity="warning", message=message))
    if complaint:
        message = f"{complaint}. Compare prompts, stop tokens and batching of the two baseline runs."
        found.append(Finding(code="NOISE_FLOOR_BROKEN", severity="error", message=message))
    silent = ["all tasks together"] if "NO_SIGNAL" in pooled.flags else []
    silent += [str(task.subject.task) for task in tasks if "NO_SIGNAL" in task.flags]
    if silent:
        concerned = ", ".join(silent)
        message = f"{FINDINGS['BASELINE_AT_CHANCE']} Concerns: {concerned}. Choose easier items or a better model."
        found.append(Finding(code="BASELINE_AT_CHANCE", severity="warning", message=message))
    return found
