"""Made-up runs for the tests of the pages: nouns built by hand, so that no model, store or judge is needed."""

import hashlib
import math

from evalsuite.publish import JudgedRun
from evalsuite.records import (
    Arm,
    ArmSummary,
    Cell,
    CellRecord,
    Decision,
    DecisionSpec,
    Finding,
    Judgement,
    Manifest,
    ModelRef,
    PairCounts,
    Plan,
    Quant,
    Realised,
    Recipe,
    RunSpec,
    Sampling,
    Subject,
    SuiteDecision,
    TaskSpec,
    Verdict,
    worst,
)

_W = Quant(element="e4m3", scale="fp32", rounding="none", block=(128, 128))
_A = Quant(element="e4m3", scale="fp32", rounding="none", block=(1, 128))
_POWER = {"scale": "ue8m0", "rounding": "ceil"}
BF16 = Recipe(id="bf16", label="BF16")
FP8 = Recipe(id="fp8-e4m3", label="FP8 E4M3, FP32 scales", weights=_W, activations=_A)
UE8M0 = Recipe(id="fp8-ue8m0", label="FP8 E4M3, UE8M0 scales", weights=_W.model_copy(update=_POWER),
               activations=_A.model_copy(update=_POWER))  # fmt: skip

TASKS = {"ref_chain_sum": 800, "ref_ordering_mc": 600, "ref_boolean": 400, "ref_counting": 200}
LOST_GAINED = {
    ("fp8-e4m3", "direct"): ((14, 12), (3, 4), (5, 4), (2, 3)),
    ("fp8-e4m3", "thinking"): ((62, 50), (24, 22), (22, 14), (12, 12)),
    ("fp8-ue8m0", "direct"): ((16, 11), (5, 3), (8, 3), (3, 1)),
    ("fp8-ue8m0", "thinking"): ((52, 18), (14, 5), (33, 2), (11, 4)),
}
"""Answers lost and gained, by candidate and mode, task by task."""


def spec(**changes) -> RunSpec:
    model = ModelRef(id="reference")
    arms = [Arm(id=r.id, model=model, recipe=r) for r in (BF16, FP8, UE8M0)]
    arms.append(Arm(id="bf16@aa", model=model, recipe=BF16, noise_floor=True))
    tasks = [TaskSpec(task=name, metric="exact_match", filter="answer", modes=("direct", "thinking"),
                      role="certify" if name == "ref_chain_sum" else "monitor", margin=0.05)
             for name in TASKS]  # fmt: skip
    fields = {
        "name": "reference", "model": model, "arms": tuple(arms), "baseline": "bf16", "tasks": tuple(tasks),
        "decision": DecisionSpec(margin=0.02), "sampling": {"direct": Sampling(), "thinking": Sampling()},
    }  # fmt: skip
    return RunSpec(**(fields | changes))


def counts(n: int, lost: int, gained: int, accuracy: float = 0.7) -> PairCounts:
    right = round(accuracy * n) - lost
    return PairCounts(n=n, n11=right, n10=lost, n01=gained, n00=n - right - lost - gained)


def decision(subject: Subject, table: PairCounts, margin: float, role: str = "monitor") -> Decision:
    """A decision by the normal approximation: good enough to draw."""
    plan = Plan(margin=margin, role=role, n_planned=table.n)
    if not table.n:
        return Decision(subject=subject, plan=plan, counts=table, verdict="INVALID", reasons=("NO_DATA",), n=0,
                        accuracy_base=None, accuracy_cand=None, delta=None, psi=None, ci=(-1.0, 1.0), ci_kind="none",
                        p_safe=1.0, p_unsafe=1.0)  # fmt: skip
    n, delta = table.n, (table.n01 - table.n10) / table.n
    error = math.sqrt((table.n01 + table.n10 + 1) / (n + 2) - delta**2) / math.sqrt(n)
    p_safe = 0.5 * math.erfc((delta + margin) / error / math.sqrt(2))
    verdict: Verdict = "SAFE" if p_safe <= 0.05 else "UNSAFE" if 1 - p_safe <= 0.05 else "INCONCLUSIVE"
    return Decision(
        subject=subject, plan=plan, counts=table, verdict=verdict, reasons=(f"made up: p {p_safe:.3f}",), n=n,
        accuracy_base=(table.n11 + table.n10) / n, accuracy_cand=(table.n11 + table.n01) / n, delta=delta,
        psi=(table.n01 + table.n10) / n, ci=(delta - 1.645 * error, delta + 1.645 * error), ci_kind="score",
        p_safe=p_safe, p_unsafe=1 - p_safe, n_more_at_zero=5312.0 if verdict == "INCONCLUSIVE" else None,
        mde_margin=0.0243,
    )  # fmt: skip


def suite_decision(run: RunSpec, candidate: str, mode: str, noise: bool = True) -> SuiteDecision:
    subject = {"model": run.model.id, "baseline": run.baseline, "candidate": candidate, "mode": mode}
    numbers = LOST_GAINED.get((candidate, mode), LOST_GAINED["fp8-e4m3", "direct"])
    tasks, lost, gained, total = [], 0, 0, 0
    for place, task in enumerate(run.tasks):
        n, (minus, plus) = TASKS.get(task.task, 300), numbers[place % len(numbers)]
        tasks.append(decision(Subject(**subject, task=task.task), counts(n, minus, plus), task.margin, task.role))
        lost, gained, total = lost + minus, gained + plus, total + n
    pooled = decision(Subject(**subject), counts(total, lost, gained), run.decision.margin, "certify")
    verdict = worst([pooled.verdict, *(t.verdict for t in tasks if t.verdict == "UNSAFE")])
    return SuiteDecision(
        verdict=verdict, reasons=pooled.reasons, pooled=pooled, tasks=tuple(tasks),
        findings=() if noise else (Finding(code="NOISE_FLOOR_MISSING", severity="warning",
                                           message="No noise floor. Set `noise_floor: true` in the suite."),),
        noise=counts(total, 7, 9) if noise else None, noise_p=0.8036 if noise else None,
        sentence=sentence(run, candidate, pooled, verdict),
    )  # fmt: skip


def sentence(run: RunSpec, candidate: str, pooled: Decision, verdict: Verdict) -> str:
    label, points = run.arm(candidate).recipe.label, f"{100 * (pooled.delta or 0):+.1f}"
    ends = {"SAFE": "a change that really loses 2.0 points would get SAFE in at most 5 of 100 runs",
            "UNSAFE": "a change that really loses 2.0 points would get UNSAFE in at most 5 of 100 runs",
            "INCONCLUSIVE": "about 2,929 more items (sequential design) would show SAFE if nothing changed",
            "INVALID": "no item was answered by both arms"}  # fmt: skip
    return (f"{verdict}: on new items like these {pooled.n:,} ({pooled.subject.mode} mode), {label} changes accuracy "
            f"by {points} points [{100 * pooled.ci[0]:+.1f}, {100 * pooled.ci[1]:+.1f}] (90 %) against BF16; "
            f"{ends[verdict]}.")  # fmt: skip


def summary(arm: str, task: str | None, mode: str, n: int, right: int, **changes) -> ArmSummary:
    share, half = right / n, 1.645 * math.sqrt(max(right, 1) * max(n - right, 1) / n**3)
    fields = {"arm": arm, "task": task, "mode": mode, "n": n, "n_correct": right, "n_unparsable": n // 100,
              "n_truncated": n // 200, "accuracy": share, "ci": (max(0, share - half), min(1, share + half)),
              "mean_output_tokens": 148.0 if mode == "thinking" else 31.0}  # fmt: skip
    return ArmSummary(**(fields | changes))


def summaries(run: RunSpec, decisions: list[SuiteDecision]) -> list[ArmSummary]:
    found = []
    for d in decisions:
        for gate in (d.pooled, *d.tasks):
            sides = {gate.subject.candidate: gate.counts.n11 + gate.counts.n01}
            sides[gate.subject.baseline] = gate.counts.n11 + gate.counts.n10
            sides["bf16@aa"] = gate.counts.n11 + gate.counts.n10 + 1
            found += [summary(arm, gate.subject.task, gate.subject.mode, gate.n, right) for arm, right in sides.items()]
    unique = {(s.arm, s.task, s.mode): s for s in found}
    return [s for s in unique.values() if s.arm in {arm.id for arm in run.arms}]


def realised(arm: Arm) -> Realised:
    quantised = arm.recipe.weights is not None
    return Realised(
        recipe=arm.recipe.id, execution="emulated" if quantised else "native", threads=2, device="cpu",
        kernel="linear-fp32-accumulate-bf16" if quantised else "linear-bf16", gemm_mode="fast" if quantised else "none",
        logits_dtype="float32", modules=("layers.0.q_proj", "layers.0.up_proj") if quantised else (),
        params_quantised=0.816 if quantised else 0.0, macs_quantised=0.934 if quantised else 0.0,
        counts={"clipped": 0, "zero_flushed": 1204} if quantised else {},
    )  # fmt: skip


def cells(run: RunSpec) -> dict[str, CellRecord]:
    found = {}
    for arm in run.arms:
        for task in run.tasks:
            for mode in task.modes:
                cell, n = Cell(arm=arm.id, task=task.task, mode=mode), TASKS.get(task.task, 300)
                found[cell.key] = CellRecord(cell=cell, status="done", resume_key="0" * 16, n_planned=n, n_done=n,
                                             realised=realised(arm), samples_sha256="0" * 64)  # fmt: skip
    return found


def hashes(task: str) -> tuple[str, ...]:
    return tuple(hashlib.sha256(f"{task}{place}".encode()).hexdigest()[:16] for place in range(TASKS.get(task, 300)))


def sample_run(run: RunSpec | None = None, noise: bool = True, **changes) -> JudgedRun:
    """A finished run of the reference suite; `changes` replace fields of its manifest."""
    run = run or spec()
    pairs = [(arm.id, mode) for arm in run.candidates for mode in ("direct", "thinking")]
    decisions = [suite_decision(run, arm, mode, noise) for arm, mode in pairs]
    items = {f"{task.task}.{mode}": hashes(task.task) for task in run.tasks for mode in task.modes}
    fields = {
        "run_id": "20261124-054400-reference-a1b2", "created": "2026-11-24T05:44:00Z", "status": "done", "spec": run,
        "spec_sha256": run.digest() * 4, "plans": {}, "items": items, "cells": cells(run),
        "machine": {"processor": "Example CPU 9000", "cores": 2, "memory_bytes": 8 << 30, "accelerator": None,
                    "accelerators": 0, "system": "Linux"},
        "software": {"evalsuite": "0.1.0", "lm-eval": "0.4.13", "python": "3.11.2", "torch": "2.13.0"},
        "command": "evalsuite run reference",
    }  # fmt: skip
    manifest = Manifest(**(fields | changes))
    judgement = Judgement(
        run_id=manifest.run_id, verdict=worst([d.verdict for d in decisions]), decisions=tuple(decisions),
        arms=tuple(summaries(run, decisions)),
        findings=(Finding(code="EMULATED", severity="info", message="Both FP8 arms were emulated on a CPU."),),
    )  # fmt: skip
    return JudgedRun(manifest, judgement)


def test_the_sample_shows_every_verdict_that_a_page_must_show() -> None:
    verdicts = {gate.verdict for d in sample_run().judgement.decisions for gate in (d.pooled, *d.tasks)}

    assert {"SAFE", "UNSAFE", "INCONCLUSIVE"} <= verdicts
