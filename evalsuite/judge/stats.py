"""All statistics of the judge under one name, `stats`: the table of contents of four modules of pure functions.

    exact.py        right/wrong answers at a fixed number of items: the verdict's p-values, score intervals, McNemar,
                    Wilson, Holm, Poisson-binomial
    sequential.py   the same question when one may look after every item: e-processes, confidence sequences
    means.py        k samples an item, clusters, recovery (asymptotic tests)
    power.py        items needed, margins that can be certified, forecasts

Names and signatures are those of the specification (statistics, section 13). `b` counts regressions (baseline right,
candidate wrong), `c` improvements, `n` items, `m` the margin as a fraction; a change is candidate minus baseline.
"""

from evalsuite.judge.exact import (
    exact_p,
    exact_power,
    holm,
    mcnemar_exact,
    poisson_binomial,
    settled_p,
    tango_ci,
    tango_z,
    wilson,
)
from evalsuite.judge.means import (
    MeanTest,
    Variances,
    cluster_t,
    recovery_ci,
    recovery_z,
    t_paired,
    variance_components,
)
from evalsuite.judge.power import certifiable_margin, forecast_more, n_required, n_zero_discordance, planning_psi
from evalsuite.judge.sequential import (
    cs_bounds,
    design_mixture,
    log_e_counts,
    log_e_scores,
    log_e_wor,
)

__all__ = [
    "MeanTest",
    "Variances",
    "certifiable_margin",
    "cluster_t",
    "cs_bounds",
    "design_mixture",
    "exact_p",
    "exact_power",
    "forecast_more",
    "holm",
    "log_e_counts",
    "log_e_scores",
    "log_e_wor",
    "mcnemar_exact",
    "n_required",
    "n_zero_discordance",
    "planning_psi",
    "poisson_binomial",
    "recovery_ci",
    "recovery_z",
    "settled_p",
    "t_paired",
    "tango_ci",
    "tango_z",
    "variance_components",
    "wilson",
]
