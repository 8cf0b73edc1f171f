"""What a run notices about activations: counts and findings in the cell's record, and texts that may not calibrate.

A static scale made from judged items would fit them better than anything served later, so a run whose calibration texts
hold one of its items is refused before the first item.
"""

import re
from collections.abc import Mapping, Sequence

from evalsuite.calibration import read_again
from evalsuite.engines import HALVED
from evalsuite.errors import UsageError
from evalsuite.harness.workload import Item, Workload
from evalsuite.records import Activity, CellRecord, Finding, Recipe, RunSpec

CODES = ("NONFINITE_ACTIVATIONS", "CALIBRATION_EXCEEDED", "GROUP_HALVED")
"""Findings that come from counts."""
TOTALS = ("blocks", "elements", HALVED)
"""Counts that are no module's: how much was looked at, and groups that did not fit in memory."""
EXCEEDED_WARNS = 0.01
"""Share of clipped blocks from which `CALIBRATION_EXCEEDED` is a warning."""
LONG = 40
"""Characters from which a text can be recognised inside another one."""
MARKERS = re.compile(r"<\|[^|]*\|>|^\s*(question|q):", re.MULTILINE | re.IGNORECASE)


def noted(record: CellRecord, recipe: Recipe, counts: Mapping[str, Mapping[str, int]]) -> CellRecord:
    """The record of a cell in *recipe* with the counts of one more request group, and the findings that all counts so
    far give."""
    if not counts:
        return record
    before = record.activations or Activity(groups=0, totals={}, modules={})
    totals, modules = dict(before.totals), {name: dict(c) for name, c in before.modules.items()}
    for name, group in counts.items():
        for key, value in group.items():
            totals[key] = totals.get(key, 0) + value
            if value and key not in TOTALS:
                modules.setdefault(name, {})[key] = modules.get(name, {}).get(key, 0) + value
    activity = Activity(groups=before.groups + 1, totals=totals, modules=modules)
    kept = tuple(finding for finding in record.findings if finding.code not in CODES)
    found = _findings(record.cell.key, activity, recipe)
    return record.model_copy(update={"activations": activity, "findings": kept + found})


def _findings(cell: str, activity: Activity, recipe: Recipe) -> tuple[Finding, ...]:
    found = []
    blocks = max(activity.totals.get("blocks", 0), 1)
    if bad := activity.totals.get("nonfinite_blocks", 0):
        message = (
            f"{cell}: {bad:,} of {blocks:,} blocks of activations held NaN or Inf and became NaN "
            f"({_worst(activity, 'nonfinite_blocks')}). Answers from there on are noise. If the baseline is sound, "
            "this format cannot hold these activations; exclude the layer or take another recipe."
        )
        found.append(Finding(code="NONFINITE_ACTIVATIONS", severity="error", message=message))
    over = activity.totals.get("clipped_blocks", 0)
    if recipe.static and over:
        message = (
            f"{cell}: {over:,} of {blocks:,} inputs of a token ({over / blocks:.2%}) exceeded the calibrated range "
            f"and were clipped ({_worst(activity, 'clipped_blocks')}). Calibrate on more texts, or more like these."
        )
        severity = "warning" if over / blocks > EXCEEDED_WARNS else "info"
        found.append(Finding(code="CALIBRATION_EXCEEDED", severity=severity, message=message))
    if halved := activity.totals.get(HALVED, 0):
        message = (
            f"{cell}: {halved} request groups did not fit in memory and were answered in halves. BF16 results depend "
            "on the batch, so this cell's noise is not quite the other arms'. Set `group_tokens` lower for all of them."
        )
        found.append(Finding(code="GROUP_HALVED", severity="warning", message=message))
    return tuple(found)


def _worst(activity: Activity, key: str) -> str:
    """The three layers with the most, with their counts."""
    ranked = sorted(((c[key], name) for name, c in activity.modules.items() if c.get(key)), reverse=True)
    shown = ", ".join(f"{name} {n:,}" for n, name in ranked[:3])
    return shown + (f" and {len(ranked) - 3} more layers" if len(ranked) > 3 else "")


def refuse_judged_texts(spec: RunSpec, workloads: Sequence[Workload]) -> None:
    """UsageError if an arm's calibration texts hold a planned item, naming some."""
    checked: dict[str, list[str]] = {}
    for arm in spec.arms:
        if arm.calibration is None:
            continue
        digest = arm.calibration.texts_sha256
        if digest not in checked:
            asked = [(item.item_id, item.prompt, text) for w in workloads for item in w.items for text in _texts(item)]
            checked[digest] = judged(read_again(arm.calibration), asked)
        if names := checked[digest]:
            raise UsageError(
                f"{arm.calibration.file}: {len(names)} calibration texts hold an item that this run judges (such as "
                f"{', '.join(names[:3])}). Take other texts: scales fitted to the judged items prove nothing."
            )


def judged(texts: Sequence[str], asked: Sequence[tuple[str, str, str]]) -> list[str]:
    """One item id for every text that holds the item's question, or that the item's prompt holds.

    *asked*: (item id, prompt, question). Case, spaces and chat markers do not matter. A short question must be a line
    of its own: "True and False is" stands in many a longer expression.
    """
    plain = [(item_id, _plain(prompt), _plain(question)) for item_id, prompt, question in asked]
    found = []
    for text in texts:
        whole, lines = _plain(text), {_plain(line) for line in text.splitlines()}
        name = next((name for name, prompt, question in plain
                     if (len(whole) >= LONG and whole in prompt)
                     or (question in whole if len(question) >= LONG else question in lines - {""})), None)  # fmt: skip
        found += [name] if name is not None else []
    return found


def _texts(item: Item) -> list[str]:
    """What would give an item away, without knowing its task: its long texts, or else its longest."""
    texts = sorted((value for value in item.doc.values() if isinstance(value, str)), key=len)
    return [text for text in texts if len(text) >= LONG] or texts[-1:]


def _plain(text: str) -> str:
    return " ".join(MARKERS.sub(" ", text).lower().split())
