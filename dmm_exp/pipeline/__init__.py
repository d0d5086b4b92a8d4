"""An experiment as stages, which are computed when they are needed, and stored."""

from dmm_exp.pipeline.context import Context
from dmm_exp.pipeline.effects import Effects
from dmm_exp.pipeline.learning import LastLearned
from dmm_exp.pipeline.models import Models
from dmm_exp.pipeline.pipeline import Pipeline
from dmm_exp.pipeline.plan import PlannedStage

__all__ = [
    "Context",
    "Effects",
    "LastLearned",
    "Models",
    "Pipeline",
    "PlannedStage",
]
