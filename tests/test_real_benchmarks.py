"""lm-eval's own, unmodified task files over real items in local folders, and people's own items, to a verdict."""

import json
from pathlib import Path

from evalsuite import spec as suites
from evalsuite import workflow

SUITE = """\
schema: 1
name: real
model: reference
arms: [bf16, fp8-e4m3, fp8-ue8m0]
baseline: bf16
noise_floor: true
datasets: {{openai/gsm8k: {gsm8k}, SaylorTwift/bbh: {bbh}}}
tasks:
  - {{task: gsm8k, modes: [direct], max_gen_toks: {{direct: 24}}}}
  - {{task: bbh_cot_zeroshot_boolean_expressions, max_gen_toks: {{direct: 24, thinking: 48}}}}
  - {{task: bbh_cot_zeroshot_navigate, modes: [direct], max_gen_toks: {{direct: 24}}}}
  - {{task: bbh_cot_zeroshot_object_counting, modes: [direct], max_gen_toks: {{direct: 24}}}}
  - {{task: mine, items: mine.jsonl, metric: exact_match, filter: answer, modes: [direct], max_gen_toks: 24,
      role: certify, margin: 0.1}}
decision: {{margin: 0.02}}
"""


def test_gsm8k_three_bbh_tasks_and_own_items_reach_a_verdict_in_every_arm(data: Path, tmp_path: Path):
    path = tmp_path / "real.yaml"
    path.write_text(SUITE.format(gsm8k=data / "gsm8k", bbh=data / "bbh"))
    mine = [{"question": f"Compute {i} + {i + 1}.", "answer": 2 * i + 1} for i in range(12)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(item) + "\n" for item in mine))
    spec = suites.resolve(suites.load(str(path)), suites.Overrides(limit=6))[0]
    run = workflow.run(spec, workflow.Options(results=tmp_path / "r"))
    samples = run.samples()

    assert run.manifest.status == "done", {k: c.error for k, c in run.manifest.cells.items() if c.error}
    assert set(samples["arm"]) == {"bf16", "bf16@aa", "fp8-e4m3", "fp8-ue8m0"}
    assert (samples.groupby(["arm", "task", "mode"]).size() == 6).all()
    assert len(run.decisions()) == 4
    gsm = samples[(samples["task"] == "gsm8k") & (samples["arm"] == "bf16")].iloc[0]
    shown = json.loads((data / "gsm8k" / "test.jsonl").read_text().splitlines()[int(gsm["item_id"].split("/")[1])])
    assert gsm["gold"] == shown["answer"]
    assert gsm["n_prompt_tokens"] > 800  # five worked examples stand before the question
    assert set(samples[samples["task"].str.startswith("bbh")]["gold"]) <= {"True", "False", "Yes", "No"} | {
        str(n) for n in range(30)
    }  # fmt: skip
