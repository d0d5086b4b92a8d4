"""An experiment as stages that are made when they are asked for, and kept."""

from dmm_exp.pipeline.learning import LastLearned
from dmm_exp.pipeline.pipeline import Pipeline, PlannedStage
from dmm_exp.pipeline.prediction import FORGET, GROUPS, RETAIN, VALIDATION
from dmm_exp.pipeline.stages import content_hash

__all__ = ["FORGET", "GROUPS", "RETAIN", "VALIDATION", "LastLearned", "Pipeline", "PlannedStage", "content_hash"]
