"""How the arms of an imported comparison are called and described: from the model arguments that lm-eval logged."""

import re
from collections.abc import Callable
from typing import Any

from evalsuite.errors import UsageError
from evalsuite.importing.folders import Log
from evalsuite.records import Arm, ModelRef, Recipe

NAMING = ("peft", "delta", "pretrained", "model", "path", "engine")
"""Model arguments that name the model, in lm-eval's order."""
SETTINGS: dict[str, Callable[[Log], Any]] = {
    "model type": lambda log: log.config.get("model"),
    "generation options": lambda log: log.config.get("gen_kwargs") or None,
    "system instruction": lambda log: log.results.get("system_instruction_sha"),
    "chat template": lambda log: log.results.get("chat_template_sha"),
    "few-shot as turns": lambda log: bool(log.results.get("fewshot_as_multiturn")),
    "limit": lambda log: log.config.get("limit"),
    "lm-eval": lambda log: log.results.get("lm_eval_version"),
    "transformers": lambda log: log.results.get("transformers_version"),
}
"""Settings that should be equal in both arms: name -> how to read it. None is unknown, or not set."""


def model_name(log: Log) -> str:
    """The model as lm-eval named it."""
    args = log.model_args
    named = next((args[key] for key in NAMING if args.get(key)), None)
    return str(named or log.results.get("model_name") or log.config.get("model") or log.folder.name)


def name_arms(base: Log, cand: Log, asked: tuple[str | None, str | None]) -> tuple[str, str]:
    """Ids of baseline and candidate: as asked, else from model names, else from what differs."""
    ids = [asked[i] or _plain(model_name(log).rstrip("/").rsplit("/", 1)[-1]) for i, log in enumerate((base, cand))]
    for option, name in zip(("baseline", "candidate"), asked, strict=True):
        if name is not None and _plain(name) != name:
            raise UsageError(f"--{option}-name '{name}': letters, digits and _ @ + - . only, e.g. {_plain(name)}.")
    if ids[0] == ids[1]:
        one, two = base.model_args, cand.model_args
        differing = [key for key in dict.fromkeys([*one, *two]) if one.get(key) != two.get(key)]
        for place, args in enumerate((one, two)):
            own = "-".join(f"{key}-{args[key]}" for key in differing if key in args and len(args[key]) <= 24)
            if asked[place] is None and own:
                ids[place] = _plain(f"{ids[place]}-{own}")
    if ids[0] == ids[1]:
        ids = [asked[0] or "baseline", asked[1] or "candidate"]
    if ids[0] == ids[1]:
        raise UsageError(f"Both arms are called '{ids[0]}'. Give them two names: --baseline-name and --candidate-name.")
    return ids[0], ids[1]


def _plain(name: str) -> str:
    """A name that may stand in a folder name."""
    return re.sub(r"[^A-Za-z0-9_@+.-]+", "-", name).strip("-.")[:60] or "model"


def describe(arm: str, log: Log, *, again: str | None = None) -> Arm:
    """The arm of a log. `again`: the id of the baseline that it repeats. Its precision is not known."""
    revision = log.config.get("model_sha") or log.config.get("model_revision")
    label = again or arm
    return Arm(
        id=arm, model=ModelRef(id=model_name(log), revision=str(revision) if revision and revision != "main" else None),
        recipe=Recipe(id="as-logged", label=label, compute="unknown", exclude=()), engine="lm-eval",
        noise_floor=again is not None,
    )  # fmt: skip


def thinks(log: Log) -> bool:
    """True if the model arguments switch thinking on."""
    return log.model_args.get("enable_thinking", "").lower() == "true" or "think_end_token" in log.model_args


def differing_settings(base: Log, other: Log) -> list[str]:
    """Settings that differ, as `name A against B`."""
    found = []
    for name, read in SETTINGS.items():
        one, two = _text(read(base)), _text(read(other))
        if one != two:
            found.append(f"{name} {one} against {two}")
    return found


def _text(value: Any) -> str:
    text = "not stated" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
