"""Suite file and flags in, `RunSpec` out: everything that a run does is fixed here, before anything is loaded.

`load` reads a suite (a file, or the name of a shipped one); `SuiteFile` mirrors the file. `resolve` applies the command
line's overrides, completes bare task names from the catalogue, adds the noise-floor arm and checks every name. The
result is frozen and goes into the manifest. What a suite does not state and the catalogue does not know is an error,
never a default.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from evalsuite import calibration, resources, tasks
from evalsuite.engines import ENGINES, OPTIONS
from evalsuite.errors import SuiteError, UsageError, did_you_mean
from evalsuite.located import Located, read, validate
from evalsuite.measure import presets
from evalsuite.measure.rigs import RIGS
from evalsuite.precision.recipes import AS_SHIPPED, RECIPES, needs_calibration, recipe
from evalsuite.records import (
    Arm,
    BenchSpec,
    DecisionSpec,
    DivergenceSpec,
    EnergyModel,
    Mode,
    ModelRef,
    PublishSpec,
    RunSpec,
    Sampling,
    TaskSpec,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_@+-]*(\.[A-Za-z0-9_@+-]+)*")
"""What an arm or task may be called: it becomes part of a folder name."""


def _as_model(value: Any) -> Any:
    return {"id": value} if isinstance(value, str) else value


def _as_engine(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _as_engine_or_none(value: Any) -> Any:
    return None if value is None else _as_engine(value)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineEntry(_Strict):
    """`engine: local`, or `{name: local, options...}`."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class ModelEntry(_Strict):
    """`model: NAME`, or `{id, revision}`."""

    id: str
    revision: str | None = None


class ArmEntry(_Strict):
    """An entry of `arms` that is not a bare recipe name."""

    id: str
    recipe: str
    model: Annotated[ModelEntry | None, BeforeValidator(_as_model)] = None
    engine: str | None = None
    calibration: str | None = None
    """Static activation scales: a file of texts, or `reference`."""


class Limits(_Strict):
    """Bounds on a run."""

    max_time: str | float | None = None


class SamplingFile(_Strict):
    """`sampling:` by mode."""

    direct: Sampling = Sampling()
    thinking: Sampling = Sampling()


class BenchEntry(_Strict):
    """`bench:`, what `evalsuite bench` measures of the suite's model. `presets`: see `evalsuite list presets`."""

    presets: tuple[str, ...] = ("cpu-smoke",)
    rounds: int = Field(default=6, ge=2)
    devices: tuple[int, ...] = (1,)
    """Numbers of devices on which each workload is run."""
    arms: list[Any] | None = None
    """None takes the suite's."""
    window_s: float | None = Field(default=None, gt=0)
    """Seconds a window; None: 3 on processors, 12 on accelerators and servers."""
    warm_s: float | None = Field(default=None, ge=0)
    cooldown_s: float = Field(default=0.0, ge=0)
    engine: Annotated[EngineEntry | None, BeforeValidator(_as_engine_or_none)] = None
    meters: dict[str, Any] = Field(default_factory=dict)
    """Meters to configure: an external one's file, a command line's pattern."""
    energy_model: EnergyModel | None = None
    price_per_hour: float | None = Field(default=None, gt=0)
    """Of one device, in any currency."""


class SuiteFile(_Strict):
    """A suite file as written (design: §5). `arms` and `tasks` are completed by `resolve`."""

    schema_: Literal[1] = Field(alias="schema")
    name: str
    model: Any
    arms: list[Any] = Field(min_length=1)
    baseline: str
    noise_floor: bool = True
    engine: Annotated[EngineEntry, BeforeValidator(_as_engine)] = EngineEntry(name="local")
    datasets: dict[str, str] = Field(default_factory=dict)
    sampling: SamplingFile = SamplingFile()
    tasks: list[Any] = Field(min_length=1)
    decision: DecisionSpec
    publish: PublishSpec = PublishSpec()
    divergence: DivergenceSpec = DivergenceSpec()
    limits: Limits = Limits()
    bench: BenchEntry = BenchEntry()
    chat: Literal["on", "off"] = "on"
    seed: int = 0
    limit: int | None = Field(default=None, ge=1)
    """The suite's own number of items a task (at most, the first of the seeded order)."""

    @model_validator(mode="after")
    def _names(self) -> "SuiteFile":
        if not NAME.fullmatch(self.name):
            raise ValueError(f"name '{self.name}' may hold letters, digits and . _ - + @ only")
        return self


class BenchOverrides(_Strict):
    """What flags may replace in a suite's `bench:`; None keeps the suite's."""

    model: str | None = None
    arms: tuple[str, ...] | None = None
    engine: str | None = None
    presets: tuple[str, ...] | None = None
    rounds: int | None = None
    window_s: float | None = None
    price_per_hour: float | None = None
    endpoints: dict[str, str] = Field(default_factory=dict)
    """Arm -> URL."""
    devices: tuple[int, ...] | None = None
    energy_model: EnergyModel | None = None


class Overrides(_Strict):
    """What flags may replace in a suite; None keeps the suite's."""

    model: str | None = None
    arms: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None
    engine: str | None = None
    design: Literal["fixed", "sequential"] | None = None
    limit: int | None = None
    datasets: dict[str, str] = Field(default_factory=dict)
    """Dataset id -> local folder, over the suite's own."""
    endpoints: dict[str, str] = Field(default_factory=dict)
    """Arm -> URL, over the suite's own; they imply the engine `endpoint`."""

    def engine_of(self, suite: "SuiteFile") -> EngineEntry:
        """The engine that answers, with its options."""
        name = self.engine or ("endpoint" if self.endpoints else suite.engine.name)
        options = suite.engine.options
        if self.endpoints:
            own = options if suite.engine.name == "endpoint" else {}
            options = {**own, "endpoints": {**(own.get("endpoints") or {}), **self.endpoints}}
        return EngineEntry(name=name, options=options)


def shipped_suites() -> dict[str, Path]:
    """Suites that come with evalsuite: name -> file."""
    return {path.stem: path for path in sorted((resources.tasks() / "suites").glob("*.yaml"))}


def load(name: str) -> Located:
    """Find and parse a suite: a file, or the name of a shipped suite. UsageError if it is neither."""
    if Path(name).suffix in {".yaml", ".yml"} or "/" in name:
        return read(Path(name))
    shipped = shipped_suites()
    if name not in shipped:
        raise UsageError(f"Unknown suite '{name}' (a file ends in .yaml).{did_you_mean(name, shipped)}")
    return read(shipped[name])


def resolve(located: Located, overrides: Overrides | None = None) -> tuple[RunSpec, ...]:
    """The runs that a suite asks for, one a model. SuiteError with file, line and what is allowed."""
    suite, overrides = validate(located, (), SuiteFile), overrides or Overrides()
    asked = overrides.engine_of(suite)
    engine = asked.name
    if engine not in ENGINES:
        raise located.error(("engine",), f"unknown engine '{engine}'.{did_you_mean(engine, ENGINES)}")
    for option in asked.options:
        if option not in OPTIONS[engine]:
            raise located.error(
                ("engine", "options", option), f"unknown option '{option}'.{did_you_mean(option, OPTIONS[engine])}"
            )
    for mode in ("direct", "thinking"):
        sampling = getattr(suite.sampling, mode)
        if sampling.k > 1 and not sampling.temperature:
            message = f"{sampling.k} samples at temperature 0 are all the same; set a temperature, or k: 1."
            raise located.error(("sampling", mode), message)
    models = [overrides.model] if overrides.model else suite.model if isinstance(suite.model, list) else [suite.model]
    if not models:
        raise located.error(("model",), "the list is empty; name a model.")
    return tuple(_resolve_model(located, suite, _model(located, model), overrides) for model in models)


def resolve_bench(
    located: Located, overrides: BenchOverrides | None = None, *, quick: bool = True
) -> tuple[BenchSpec, ...]:
    """The benches that a suite asks for, one a model. SuiteError or UsageError as `resolve`.

    `quick`: where nothing says how long a window is, 3 s, for a processor, rather than 12 s, which hold the hundred
    ticks of a 100 ms energy counter.
    """
    overrides = overrides or BenchOverrides()
    suite = validate(located, (), SuiteFile)
    asked = suite.bench
    engine = overrides.engine or ("endpoint" if overrides.endpoints else None)
    entry = EngineEntry(name=engine) if engine else asked.engine or suite.engine
    if entry.name not in RIGS:
        raise located.error(("bench",), f"unknown engine '{entry.name}'.{did_you_mean(entry.name, RIGS)}")
    options = {**entry.options, **({"endpoints": overrides.endpoints} if overrides.endpoints else {})}
    for option in options:
        if option not in RIGS[entry.name].options:
            near = did_you_mean(option, RIGS[entry.name].options)
            raise located.error(("bench", "engine"), f"in a bench, '{entry.name}' has no option '{option}'.{near}")
    presets.check(overrides.presets or asked.presets)
    arms = suite.model_copy(update={"arms": asked.arms or suite.arms, "noise_floor": True})
    at: tuple[str, ...] = ("arms",) if asked.arms is None else ("bench", "arms")
    models = [overrides.model] if overrides.model else suite.model if isinstance(suite.model, list) else [suite.model]
    made = []
    for model in (_model(located, value) for value in models):
        chosen = _arms(located, arms, model, Overrides(arms=overrides.arms, engine=entry.name), at)
        made.append(BenchSpec(
            suite=suite.name, model=model, arms=tuple(arm for arm in chosen if not arm.noise_floor),
            baseline=suite.baseline, null_arm=f"{suite.baseline}@aa", engine=entry.name, engine_options=options,
            presets=overrides.presets or asked.presets, rounds=overrides.rounds or asked.rounds,
            devices=tuple(sorted(set(overrides.devices or asked.devices))),
            window_s=overrides.window_s or asked.window_s or (3.0 if quick else 12.0),
            warm_s=asked.warm_s if asked.warm_s is not None else (0.5 if quick else 2.0),
            cooldown_s=asked.cooldown_s, energy_model=overrides.energy_model or asked.energy_model,
            seed=suite.seed, meters=asked.meters,
            price_per_hour=overrides.price_per_hour or asked.price_per_hour,
        ))  # fmt: skip
    return tuple(made)


def _model(located: Located, value: Any) -> ModelRef:
    try:
        return ModelRef(**_as_model(value))
    except (TypeError, ValueError):
        raise located.error(("model",), f"expected a name or {{id, revision}}, found {value!r}.") from None


def _resolve_model(located: Located, suite: SuiteFile, model: ModelRef, overrides: Overrides) -> RunSpec:
    engine = overrides.engine_of(suite)
    arms = _arms(located, suite, model, overrides)
    chosen = _tasks(located, suite, overrides)
    margin = suite.decision.model_copy(update={"design": overrides.design or suite.decision.design})
    if not 0 < margin.margin < 0.5 or not 0 < margin.alpha < 0.5:
        raise located.error(("decision",), "margin and alpha must lie between 0 and 0.5.")
    return RunSpec(
        name=suite.name, model=model, arms=arms, baseline=suite.baseline, tasks=chosen, decision=margin,
        engine=engine.name, engine_options=engine.options, datasets={**_folders(located, suite), **overrides.datasets},
        sampling={"direct": suite.sampling.direct, "thinking": suite.sampling.thinking}, chat=suite.chat == "on",
        limit=overrides.limit or suite.limit, limited=overrides.limit is not None, seed=suite.seed,
        publish=suite.publish, divergence=suite.divergence,
    )  # fmt: skip


def _folders(located: Located, suite: SuiteFile) -> dict[str, str]:
    """Dataset folders, relative ones against the suite file's own folder."""
    base = Path(located.source).parent
    return {name: str((base / Path(path).expanduser()).resolve()) for name, path in suite.datasets.items()}


def _arms(
    located: Located, suite: SuiteFile, model: ModelRef, overrides: Overrides, at: tuple[str, ...] = ("arms",)
) -> tuple[Arm, ...]:
    engine = overrides.engine_of(suite).name
    entries: list[tuple[tuple[str | int, ...], Any]] = [((*at, i), entry) for i, entry in enumerate(suite.arms)]
    if overrides.arms is not None:
        known = {_arm_id(entry): (path, entry) for path, entry in entries}
        wanted = dict.fromkeys((suite.baseline, *overrides.arms))
        entries = [known.get(arm, (at, arm)) for arm in wanted]
    arms = [_arm(located, path, entry, model).model_copy(update={"engine": engine}) for path, entry in entries]
    ids = [arm.id for arm in arms]
    for arm_id in ids:
        if ids.count(arm_id) > 1:
            raise located.error(at, f"arm '{arm_id}' stands twice; give each an id of its own.")
    if suite.baseline not in ids:
        raise located.error(("baseline",), f"unknown arm '{suite.baseline}'.{did_you_mean(suite.baseline, ids)}")
    if len(arms) < 2 and not suite.noise_floor:
        raise located.error(("arms",), "one arm and no noise floor: there is nothing to compare.")
    base = arms[ids.index(suite.baseline)]
    noise = [base.model_copy(update={"id": f"{base.id}@aa", "noise_floor": True})] if suite.noise_floor else []
    return (base, *noise, *(arm for arm in arms if arm.id != base.id))


def _arm_id(entry: Any) -> str:
    return str(entry.get("id", "")) if isinstance(entry, dict) else str(entry)


def _arm(located: Located, path: tuple[str | int, ...], entry: Any, model: ModelRef) -> Arm:
    item = validate(located, path, ArmEntry) if isinstance(entry, dict) else ArmEntry(id=str(entry), recipe=str(entry))
    try:
        asked = AS_SHIPPED if item.recipe == AS_SHIPPED.id else recipe(item.recipe)
    except UsageError:
        near = did_you_mean(item.recipe, [*RECIPES, AS_SHIPPED.id])
        raise located.error(path, f"unknown recipe '{item.recipe}'.{near}") from None
    static = needs_calibration(asked)
    if item.calibration is not None and not static:
        why = "brings its own scales" if asked == AS_SHIPPED else "has no static scales"
        raise located.error(path, f"recipe '{item.recipe}' {why}; remove `calibration`.")
    if not NAME.fullmatch(item.id) or "@aa" in item.id:
        raise located.error(path, f"arm id '{item.id}' may hold letters, digits and . _ - + only.")
    ref = ModelRef(id=item.model.id, revision=item.model.revision) if item.model else model
    try:
        texts = calibration.chosen(item.calibration, ref, Path(located.source).parent) if static else None
    except UsageError as error:
        raise located.error(path, f"recipe '{item.recipe}': {error}") from None
    return Arm(id=item.id, model=ref, recipe=asked, engine=item.engine or "local", calibration=texts)


def _tasks(located: Located, suite: SuiteFile, overrides: Overrides) -> tuple[TaskSpec, ...]:
    catalogue = tasks.catalogue()
    found: dict[str, TaskSpec] = {}
    for i, entry in enumerate(suite.tasks):
        if isinstance(entry, str):
            if entry not in catalogue:
                raise located.error(("tasks", i), f"task '{entry}' is not in the catalogue; state its metric, filter, "
                                    f"modes, role and margin here.{did_you_mean(entry, catalogue)}")  # fmt: skip
            spec = catalogue[entry]
        else:
            spec = _task(located, ("tasks", i), catalogue)
        if spec.task in found:
            raise located.error(("tasks", i), f"task '{spec.task}' stands twice.")
        found[spec.task] = spec
    design = overrides.design or suite.decision.design
    grouped = [name for name, spec in found.items() if spec.cluster is not None]
    if design == "sequential" and grouped:
        raise located.error(("decision",), f"the sequential design draws independent items; {', '.join(grouped)} has "
                            "clusters. Use `design: fixed`.")  # fmt: skip
    if overrides.tasks is None:
        return tuple(found.values())
    known = {**catalogue, **found}
    for name in overrides.tasks:
        if name not in known:
            raise UsageError(f"Unknown task '{name}' in --tasks.{did_you_mean(name, known)}")
    return tuple(known[name] for name in dict.fromkeys(overrides.tasks))


def _task(located: Located, path: tuple[str | int, ...], catalogue: dict[str, TaskSpec]) -> TaskSpec:
    """A task entry with keys: the catalogue fills what the entry leaves out; own items must be readable."""
    entry = located.data[path[0]][path[1]]
    if not isinstance(entry, dict) or not isinstance(entry.get("task"), str):
        raise located.error(path, "expected a task name or keys with at least `task`.")
    base = catalogue[entry["task"]].model_dump(exclude_unset=True) if entry["task"] in catalogue else {}
    merged = {**base, **entry}
    modes: list[Mode] = merged.get("modes") or []
    if isinstance(merged.get("max_gen_toks"), int):
        merged["max_gen_toks"] = dict.fromkeys(modes, merged["max_gen_toks"])
    located.data[path[0]][path[1]] = merged
    spec = validate(located, path, TaskSpec)
    if not NAME.fullmatch(spec.task):
        raise located.error((*path, "task"), f"task name '{spec.task}' may hold letters, digits and . _ - + only.")
    if not 0 < spec.margin < 0.5:
        raise located.error((*path, "margin"), f"margin must lie between 0 and 0.5 (found: {spec.margin}).")
    if spec.items is not None:
        file = (Path(located.source).parent / Path(spec.items).expanduser()).resolve()
        tasks.read_items(file)
        spec = spec.model_copy(update={"items": str(file)})
    return spec


def parse_duration(text: str | float | None) -> float | None:
    """Seconds in `90`, `90s`, `15m`, `2h`; None stays None. SuiteError for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(text).strip())
    if match is None:
        raise SuiteError(f"'{text}' is not a duration; write 90, 90s, 15m or 2h.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
