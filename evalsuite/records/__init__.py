"""The nouns: everything that is stored, passed between the two halves, or printed as JSON.

Measuring and judging meet here and in `store`; neither imports the other. All nouns are frozen pydantic models that
refuse unknown fields. Units stand in names (`duration_s`). Unknown is `None`, failed is a status, neither is ever 0.
*Requested* (`Recipe`) is kept apart from *realised* (`Realised`): an engine reports what really ran.

Read in this order: `asked` (recipes, models, arms, tasks, the resolved suite), `stored` (the unit of work and all that
is kept of it), `concluded` (decisions), `beside` (what warns and never decides), `planned` (forecasts).
"""

from evalsuite.records.asked import (
    DEFAULT_EXCLUDE,
    Arm,
    Calibration,
    CalibrationTexts,
    DecisionSpec,
    DivergenceSpec,
    ModelRef,
    PublishSpec,
    Quant,
    Recipe,
    RunSpec,
    Sampling,
    TaskSpec,
)
from evalsuite.records.base import SCHEMA, VERDICT_EXIT, VERDICTS, Mode, Noun, Verdict
from evalsuite.records.beside import Divergence, Endpoint, Excess, Flips, PositionBin
from evalsuite.records.concluded import ArmSummary, Decision, Judgement, PairCounts, Subject, SuiteDecision, worst
from evalsuite.records.planned import Gate, ModePlan, SuitePlan
from evalsuite.records.stored import (
    DIVERGENCE_COLUMNS,
    FINDINGS,
    SAMPLE_COLUMNS,
    Activity,
    Cell,
    CellRecord,
    Finding,
    Manifest,
    Plan,
    Realised,
    Sequence,
)

__all__ = [
    "DEFAULT_EXCLUDE",
    "DIVERGENCE_COLUMNS",
    "FINDINGS",
    "SAMPLE_COLUMNS",
    "SCHEMA",
    "VERDICTS",
    "VERDICT_EXIT",
    "Activity",
    "Arm",
    "ArmSummary",
    "Calibration",
    "CalibrationTexts",
    "Cell",
    "CellRecord",
    "Decision",
    "DecisionSpec",
    "Divergence",
    "DivergenceSpec",
    "Endpoint",
    "Excess",
    "Finding",
    "Flips",
    "Gate",
    "Judgement",
    "Manifest",
    "Mode",
    "ModePlan",
    "ModelRef",
    "Noun",
    "PairCounts",
    "Plan",
    "PositionBin",
    "PublishSpec",
    "Quant",
    "Realised",
    "Recipe",
    "RunSpec",
    "Sampling",
    "Sequence",
    "Subject",
    "SuiteDecision",
    "SuitePlan",
    "TaskSpec",
    "Verdict",
    "worst",
]
