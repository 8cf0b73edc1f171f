"""The border to lm-eval: the only package that imports it.

In: a `RunSpec` and an engine. `prepare` builds every `Workload` once, for all arms: items in the seeded order with
their prompts as token ids, and the request groups. `answer` runs one group on a session and returns finished sample
rows: lm-eval's own filters and metrics score the text that follows the thought. lm-eval's saving, caching and tables
are not used: its response cache, keyed by the prompt alone, would hand one arm's answers to the next.

Read on in this order: `loading` (task files), `lm` (lm-eval's `LM` over a session), `workload`, `scoring`.
"""

from evalsuite.harness.activations import noted, refuse_judged_texts
from evalsuite.harness.lm import EngineLM
from evalsuite.harness.scoring import answer
from evalsuite.harness.workload import Item, Source, Workload, draw_sequences, load_sources, prepare

__all__ = [
    "EngineLM",
    "Item",
    "Source",
    "Workload",
    "answer",
    "draw_sequences",
    "load_sources",
    "noted",
    "prepare",
    "refuse_judged_texts",
]
