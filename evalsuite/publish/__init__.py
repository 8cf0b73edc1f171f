"""Publishing: judged runs in, a folder of static pages out. Works from the store alone, without torch.

Read in this order: `pages` (the table of pages, and how the site is written), `runs` (one run, indexed), `views` (one
decision), `leaderboard` (all runs), `provenance` (the run page), `figures` (charts as dicts), `tables` (CSV), `text`
(how numbers read). The templates, the style sheet and the script lie in `dashboards/`.
"""

from evalsuite.publish.pages import SiteReport, build_site
from evalsuite.publish.runs import JudgedRun

__all__ = ["JudgedRun", "SiteReport", "build_site"]
