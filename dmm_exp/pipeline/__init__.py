"""An experiment as stages that are made when they are asked for, and kept."""

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
