"""Makes the sample logs beside this file, by running lm-eval's own command line on three tiny tasks.

    PYTHONPATH=FOLDER_OF_THAT_LM_EVAL python make.py OUT

The model is scripted: it answers from the items' own text, and each arm errs on other items. Everything else (prompts,
filters, metrics, hashes, files) is the lm-eval's that is imported, so a log has the format of its version. Packages
that an old lm-eval imports but does not need here (peft, hub metrics) are replaced.
"""

import hashlib
import importlib
import importlib.machinery
import json
import re
import sys
import tempfile
import types
from pathlib import Path

OUT = Path(sys.argv[1]).resolve()
ITEMS = 10
ARMS = {"base": "pretrained=example/tiny,dtype=bfloat16", "cand": "pretrained=example/tiny-FP8,dtype=bfloat16",
        "again": "pretrained=example/tiny,dtype=bfloat16"}  # fmt: skip
WRONG = {"base": 1, "cand": 3, "again": 1}
"""Every arm errs on the items whose number leaves this rest when divided by 5."""
CHOICES = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
num_fewshot: 0
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
SUMS = """\
task: mini_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: generate_until
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
num_fewshot: 0
generation_kwargs: {{until: ["Question:"], do_sample: false, temperature: 0.0}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
filter_list:
  - name: strict-match
    filter: [{{function: regex, regex_pattern: "answer is (-?[0-9]+)"}}, {{function: take_first}}]
  - name: flexible-extract
    filter: [{{function: regex, regex_pattern: "(-?[0-9]+)"}}, {{function: take_first}}]
metadata: {{version: 2.0}}
"""
GROUP = "group: mini_group\ntask: [mini_size, mini_age]\n"


def replace_absent() -> None:
    """Stand-ins for what an old lm-eval imports and these tasks do not use."""
    import evaluate
    import transformers

    transformers.AutoModelForVision2Seq = getattr(transformers, "AutoModelForVision2Seq", transformers.AutoModel)
    for name in ("peft", "peft.peft_model", "transformers.data.metrics", "transformers.data.metrics.squad_metrics"):
        try:
            importlib.import_module(name)
        except ImportError:
            module = types.ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
            module.__path__, module.__version__, module.PeftModel = [], "0", object
            sys.modules[name] = module
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)

    class Match:
        def compute(self, predictions, references, **_):
            return {"exact_match": float(predictions[0] == references[0])}

    evaluate.load = lambda *_, **__: Match()


def write_tasks(folder: Path) -> None:
    """Task files and their items."""
    rows = {
        "mini_size": [{"question": f"Which is larger, {3 * i} or {3 * i + 2}?", "choices": [str(3 * i), str(3 * i + 2)],
                       "label": 1} for i in range(ITEMS)],
        "mini_age": [{"question": f"Ann is {20 + i}, Bob {21 + i} and Cy {19 + i}. Who is oldest?",
                      "choices": ["Ann", "Bob", "Cy"], "label": 1} for i in range(ITEMS)],
        "mini_sums": [{"question": f"What is {i} + {2 * i}?", "answer": str(3 * i)} for i in range(ITEMS)],
    }  # fmt: skip
    for name, items in rows.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(item) + "\n" for item in items))
        form = SUMS if name == "mini_sums" else CHOICES
        (folder / f"{name}.yaml").write_text(form.format(name=name, file=file))
    (folder / "mini_group.yaml").write_text(GROUP)


def scripted(arm: list[str]):
    """The model class; `arm` holds the arm that is running."""
    from lm_eval.api.model import LM

    def errs(prompt: str) -> bool:
        return int(re.findall(r"\d+", prompt)[0]) % 5 == WRONG[arm[0]]

    def noise(text: str) -> float:
        return int(hashlib.sha256(text.encode()).hexdigest()[:6], 16) / 16**6

    class Scripted(LM):
        tokenizer_name = "scripted"

        @classmethod
        def create_from_arg_string(cls, arg_string, additional_config=None):
            return cls()

        @classmethod
        def create_from_arg_obj(cls, arg_dict, additional_config=None):
            return cls()

        def loglikelihood(self, requests, **_):
            made = []
            for prompt, continuation in (request.args for request in requests):
                numbers = [int(x) for x in re.findall(r"\d+", prompt)]
                right = continuation.strip() in (str(max(numbers)), "Bob")
                made.append((-1.0 - 2.0 * (right == errs(prompt)) - noise(prompt + continuation), False))
            return made

        def generate_until(self, requests, **_):
            made = []
            for prompt in (request.args[0] for request in requests):
                a, b = (int(x) for x in re.findall(r"\d+", prompt)[:2])
                text = f" The answer is {a + b + errs(prompt)}."
                made.append(f" {a} plus {b}" if a == 9 else f" {a + b}" if a == 8 else text)
            return made

        def loglikelihood_rolling(self, requests, **_):
            raise NotImplementedError

    return Scripted


def main() -> None:
    replace_absent()
    import torch
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api import registry

    torch.set_num_threads(1)
    running = [""]
    registry.register_model("scripted")(scripted(running))
    for arm, model_args in ARMS.items():
        running[0] = arm
        with tempfile.TemporaryDirectory() as tasks:
            write_tasks(Path(tasks))
            sys.argv = ["lm_eval", "--model", "scripted", "--model_args", model_args, "--tasks", "mini_group,mini_sums",
                        "--include_path", tasks, "--log_samples", "--output_path", str(OUT / arm)]  # fmt: skip
            cli_evaluate()
    for file in OUT.rglob("results*.json"):
        results = json.loads(file.read_text())
        results.pop("pretty_env_info", None)  # some 200 lines on the machine
        file.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
