"""Scores of unlearned models."""

from dmm_exp.evaluation.evaluation import EVALUATION_FORMAT, Evaluation
from dmm_exp.evaluation.outputs import Outputs

__all__ = ["EVALUATION_FORMAT", "Evaluation", "Outputs"]
