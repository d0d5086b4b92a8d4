"""An experiment as stages, which are computed when they are needed, and stored."""

from dmm_exp.pipeline.context import Context
from dmm_exp.pipeline.effects import Effects
from dmm_exp.pipeline.models import Models
from dmm_exp.pipeline.pipeline import Pipeline
from dmm_exp.pipeline.plan import PlannedStage
from dmm_exp.pipeline.shared import Last, Shared

__all__ = [
    "Context",
    "Effects",
    "Last",
    "Models",
    "Pipeline",
    "PlannedStage",
    "Shared",
]
