"""Publishing: judged runs and benches in, a folder of static pages out. Works from the store alone, without torch.

Read in this order: `pages` (the table of pages, and how the site is written; `folder`: whole or not at all), `runs`
(one run, indexed), `views` (one decision), `leaderboard` (all runs), `provenance` (the run page), `benches` (one bench,
indexed), `throughput` and `energy` (its two pages; `costs`: what a correct answer costs), `imported` (other programs'
results), `canvas` and `figures`, `speed_figures`, `scaling_figures`, `cost_figures` (charts as dicts), `tables` and
`bench_tables` (CSV), `text` (how numbers read). The templates, the style sheet and the script lie in `dashboards/`.
"""

from evalsuite.publish.benches import JudgedBench, Speeds
from evalsuite.publish.pages import SiteReport, build_site
from evalsuite.publish.runs import JudgedRun

__all__ = ["JudgedBench", "JudgedRun", "SiteReport", "Speeds", "build_site"]
