"""What the energy page shows of one bench: meters and their absence, joules a token, costs of a correct answer.

Without a meter the page says why and what to do, and shows seconds where arms ran natively and tokens always; never a
zero. What is modelled stands in a panel of its own with `ESTIMATE`, and in no ratio.
"""

from typing import Any

from evalsuite.publish import cost_figures, speed_figures
from evalsuite.publish.benches import JudgedBench, spelled
from evalsuite.publish.canvas import Figure
from evalsuite.publish.costs import costs, estimates, facets

ESTIMATE = (
    "At constant utilisation a power model is power = constant, so its energy ratio equals the time ratio; it contains "
    "no information about the precision's energy."
)


def context(bench: JudgedBench) -> dict[str, Any]:
    """What the template gets."""
    energy = [code for point in bench.judgement.points for code in point.energy_reasons]
    joint = [code for one in bench.judgement.joints for code in one.reasons]
    return {
        "facets": facets(bench), "costs": costs(bench), "estimates": estimates(bench), "estimate_note": ESTIMATE,
        "drawn": frozenset(charts(bench)),
        "in_mind": spelled(code for code in bench.judgement.reasons if code in {*energy, *joint}),
    }  # fmt: skip


def charts(bench: JudgedBench) -> dict[str, Figure]:
    """The page's figures by id; none for what has no point."""
    found = {}
    for facet in facets(bench):
        found[f"joules-{facet.id}"] = cost_figures.joules(bench, facet)
        if any(row.ratio is not None and row.ratio.value is not None for row in facet.rows):
            found[f"joule-ratios-{facet.id}"] = speed_figures.ratios(bench, facet.quantity, facet.workloads)
    for own in costs(bench):
        for unit in own.units:
            found[f"cost-{own.mode}-{unit}"] = cost_figures.cost(bench, own, unit)
        if any(joint.token_inflation is not None for joint in own.joints):
            found[f"inflation-{own.mode}"] = cost_figures.inflation(bench, own)
        if own.units:
            found[f"pareto-{own.mode}"] = cost_figures.pareto(bench, own)
        for place, joint in enumerate(own.whole):
            parts = own.parts(joint)
            if parts is not None:
                found[f"fall-{own.mode}-{place}"] = cost_figures.waterfall(parts[1], bench.looks[joint.arm].family)
    modelled = estimates(bench)
    if modelled:
        found["estimates"] = cost_figures.estimates(bench, modelled)
    return found
