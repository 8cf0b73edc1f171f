"""Everything concluded from one run: manifest and samples in, `Judgement` out.

For every mode of the run the samples are laid out once (`layout`); every candidate is paired with the baseline,
decided pooled and task by task under the plans that were written before the first item (`verdict`), and the release
rule is applied (`release`). A task that lacks a mode (multiple choice has direct mode only) is not in that mode's pool.

Items that a cell did not reach because the run was stopped are "not measured", and a fixed plan waits for them; items
that a cell lost are missing. The status of the cell tells the two apart.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from evalsuite.judge.divergence import divergence_findings, divergences
from evalsuite.judge.endpoints import endpoints
from evalsuite.judge.exact import wilson
from evalsuite.judge.findings import pair_findings, run_findings
from evalsuite.judge.layout import COLUMNS, Grid, lay_out
from evalsuite.judge.noise import excess_flips
from evalsuite.judge.pairing import Pairing, Scores, pair
from evalsuite.judge.release import Noise, decide_suite
from evalsuite.judge.verdict import decide, invalid
from evalsuite.records import (
    ArmSummary,
    Decision,
    Judgement,
    Manifest,
    Mode,
    PairCounts,
    Plan,
    Subject,
    SuiteDecision,
    worst,
)

MODES: tuple[Mode, ...] = ("direct", "thinking")


def judge_run(
    manifest: Manifest,
    samples: pd.DataFrame,
    attempts: Mapping[str, int] | None = None,
    divergence: pd.DataFrame | None = None,
) -> Judgement:
    """Judge one run.

    `samples`: rows of `samples.parquet` of all cells, in any order; only `layout.COLUMNS` are read. `attempts`:
    candidate -> which run of the same question this is (1 where it is not named). `divergence`: rows of all cells, with
    their `arm` and `mode`, where it was measured. The same manifest and samples always
    give the same judgement. ValueError for an impossible plan; bad data is not an error but an INVALID decision.
    """
    samples = samples[[column for column in COLUMNS if column in samples]]
    decisions: list[SuiteDecision] = []
    arms: list[ArmSummary] = []
    overall = run_findings(manifest)
    for mode in MODES:
        views = _Views(manifest, samples, mode)
        if not views.planned:
            continue
        numbered = [(arm.id, (attempts or {}).get(arm.id, 1)) for arm in manifest.spec.candidates]
        made = [_judge_candidate(manifest, views, arm, attempt) for arm, attempt in numbered]
        decisions += [_with_divergence(manifest, decision, divergence) for decision in made]
        arms += [row for arm in manifest.spec.arms for row in _summaries(manifest, views.of(arm.id), arm.id)]
    found = [finding for decision in decisions for finding in decision.findings]
    return Judgement(
        run_id=manifest.run_id,
        verdict=worst([decision.verdict for decision in decisions]),
        decisions=tuple(decisions),
        arms=tuple(arms),
        findings=tuple(dict.fromkeys([*overall, *found])),
    )


class _Views:
    """The samples of one mode, laid out for any set of arms.

    A fixed plan has one layout. In a sequential run arms end after different windows, so arms are compared on the
    items of the windows that all of them have finished: a window that is under way holds its short items first.
    """

    def __init__(self, manifest: Manifest, samples: pd.DataFrame, mode: Mode) -> None:
        self.mode = mode
        self.drawn = manifest.sequences.get(mode)
        self.samples = samples.loc[samples["mode"] == mode]
        self.planned = _planned(manifest, self.samples, mode)
        self._open = {} if self.drawn else _open_cells(manifest, mode, self.planned)
        self._made: dict[tuple[int, ...], Grid] = {}

    def of(self, *arms: str) -> Grid:
        """The items that all these arms were to answer by now."""
        order = self.drawn.reached(*arms) if self.drawn else ()
        if order not in self._made:
            planned = self.planned
            if self.drawn:
                planned = {task: items[: order.count(i)] for i, (task, items) in enumerate(planned.items())}
            self._made[order] = lay_out(planned, self.samples, self.mode, self._open, order if self.drawn else None)
        return self._made[order]


def _planned(manifest: Manifest, samples: pd.DataFrame, mode: Mode) -> dict[str, tuple[str, ...]]:
    """Task -> planned item hashes of a mode. Where the manifest names none, the items that have samples."""
    planned: dict[str, tuple[str, ...]] = {}
    for task in manifest.spec.tasks:
        hashes = manifest.items.get(f"{task.task}.{mode}")
        if hashes is None:
            own = samples.loc[samples["task"] == task.task]
            hashes = tuple(own.sort_values(["position", "item_hash"])["item_hash"].unique())
        if hashes or (mode in manifest.sequences and mode in task.modes):
            planned[task.task] = hashes
    return planned


def _open_cells(manifest: Manifest, mode: Mode, planned: dict[str, tuple[str, ...]]) -> dict[tuple[str, str], int]:
    """(arm, task) -> planned repeats, for cells that a stopped run did not bring to an end."""
    if manifest.status == "done":
        return {}
    ended: dict[tuple[str, str], list[bool]] = {}
    for record in manifest.cells.values():
        if record.cell.mode == mode:
            key = (record.cell.arm, record.cell.task)
            ended.setdefault(key, []).append(record.status in ("done", "failed"))
    pairs = [(arm.id, task) for arm in manifest.spec.arms for task in planned]
    return {key: len(ended.get(key, [False])) for key in pairs if not all(ended.get(key, [False]))}


def _judge_candidate(manifest: Manifest, views: _Views, candidate: str, attempt: int) -> SuiteDecision:
    """The release decision of one candidate in one mode."""
    baseline, noise_arm = manifest.spec.baseline, manifest.spec.noise_arm
    grid = views.of(baseline, candidate)
    pairing = pair(grid, baseline, candidate)
    subject = Subject(model=manifest.spec.model.id, baseline=baseline, candidate=candidate, mode=grid.mode)
    refused = dict.fromkeys(pairing.mismatches, _refusal(pairing, subject)) | _declared(manifest, subject)
    refusal = next(iter(refused.values()), None)
    pooled = _decide(manifest, grid.mode, subject, (pairing.pooled, pairing.scores), refusal)
    tasks = [
        _decide(
            manifest, grid.mode, subject.model_copy(update={"task": task}), (counts, pairing.task_scores[task]),
            refused.get(task),
        )
        for task, counts in pairing.tasks.items()
    ]  # fmt: skip
    noise = _noise(pair(views.of(baseline, noise_arm.id), baseline, noise_arm.id)) if noise_arm is not None else None
    findings = pair_findings(manifest, grid, (baseline, candidate), pairing)
    decision = decide_suite(pooled, tasks, noise, findings, attempt)
    beside: dict[str, object] = {"endpoints": endpoints(grid, baseline, candidate)}
    if noise_arm is not None:
        all_three = views.of(baseline, noise_arm.id, candidate)
        beside["excess"] = excess_flips(all_three, baseline, noise_arm.id, candidate)
    return decision.model_copy(update=beside)


def _with_divergence(manifest: Manifest, decision: SuiteDecision, rows: pd.DataFrame | None) -> SuiteDecision:
    """Add what the divergence passes found."""
    if rows is None:
        return decision
    subject, noise = decision.pooled.subject, manifest.spec.noise_arm
    found = divergences(rows, (subject.candidate, noise.id if noise else None), subject.mode)
    findings = (*decision.findings, *divergence_findings(found, subject.candidate))
    return decision.model_copy(update={"divergence": found, "findings": findings})


def _refusal(pairing: Pairing, subject: Subject) -> str | None:
    """Why the arms are not comparable at all; None if they are."""
    if pairing.first_mismatch is None:
        return None
    task, item = pairing.first_mismatch
    differing = sum(pairing.mismatches.values())
    return (
        f"{differing:,} items were asked with different prompts in {subject.baseline} and {subject.candidate} (the "
        f"first: item {item} of {task}); the chat template, tokenizer or task version changed, so re-run both arms"
    )


def _declared(manifest: Manifest, subject: Subject) -> dict[str, str | None]:
    """Task -> why whoever wrote the run found its two arms not comparable."""
    arms = (subject.baseline, subject.candidate)
    return {
        record.cell.task: finding.message
        for record in manifest.cells.values() if record.cell.mode == subject.mode and record.cell.arm in arms
        for finding in record.findings if finding.code == "NOT_COMPARABLE"
    }  # fmt: skip


def _decide(
    manifest: Manifest, mode: Mode, subject: Subject, data: tuple[PairCounts, Scores], refusal: str | None
) -> Decision:
    """One decision under the plan that the manifest holds for it."""
    plan = _plan(manifest, mode, subject.task)
    counts, scores = data
    if refusal is not None:
        return invalid(counts, plan, subject, refusal)
    decision = decide(counts, plan, subject, scores)
    failed = [
        f"cell {key} failed ({record.error or 'no message'})"
        for key, record in manifest.cells.items()
        if record.status == "failed" and record.cell.mode == mode and subject.task in (None, record.cell.task)
        and record.cell.arm in (subject.baseline, subject.candidate)
    ]  # fmt: skip
    if decision.verdict == "INVALID" and failed:
        return decision.model_copy(update={"reasons": (*decision.reasons, *failed)})
    return decision


def _plan(manifest: Manifest, mode: Mode, task: str | None) -> Plan:
    """The stored plan; for a manifest without one, what its suite says."""
    stored = manifest.plans.get(f"{task or 'pooled'}.{mode}")
    if stored is not None:
        return stored
    rule = manifest.spec.decision
    shared = {"alpha_safe": rule.alpha, "alpha_unsafe": rule.alpha, "design": rule.design, "estimand": rule.estimand}
    for spec in manifest.spec.tasks:
        if spec.task == task:
            return Plan(margin=spec.margin, role=spec.role, chance=spec.chance or 0.0, **shared)
    return Plan(margin=rule.margin, **shared)


def _noise(pairing: Pairing) -> Noise | None:
    """The noise floor; None if no item was answered twice."""
    return Noise(pairing.pooled, pairing.parsed, sum(pairing.mismatches.values())) if pairing.pooled.n else None


def _summaries(manifest: Manifest, grid: Grid, arm: str) -> list[ArmSummary]:
    """One row for all tasks together, then one a task."""
    column = grid.columns.get(arm, grid.columns[""])
    answered = ~np.isnan(column.mean)
    generates = np.isin(grid.task, [i for i, t in enumerate(grid.tasks) if t in _generating(manifest)])
    counted = answered & generates & ~np.isnan(column.tokens)
    rows = []
    for index, task in enumerate([None, *grid.tasks]):
        here = answered & (grid.task == index - 1) if task is not None else answered
        n, tokens = int(here.sum()), column.tokens[here & counted]
        accuracy = float(column.mean[here].mean()) if n else None
        rows.append(ArmSummary(
            arm=arm, task=task, mode=grid.mode, n=n,
            n_correct=int((here & column.first["correct"]).sum()),
            n_unparsable=int((here & ~column.first["parsed"]).sum()),
            n_truncated=int((here & column.first["truncated"]).sum()),
            accuracy=accuracy,
            ci=wilson(accuracy * n, n) if accuracy is not None else None,
            mean_output_tokens=float(tokens.mean()) if len(tokens) else None,
        ))  # fmt: skip
    return rows


def _generating(manifest: Manifest) -> set[str]:
    """Tasks that generate text; log-likelihood tasks have no output to count."""
    return {task.task for task in manifest.spec.tasks if task.max_gen_toks is not None}
