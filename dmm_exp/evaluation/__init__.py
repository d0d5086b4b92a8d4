"""Scores of unlearned models: of a pipeline's (``Evaluation``), or of outputs alone (``Scored``), without torch."""

from typing import TYPE_CHECKING

from dmm_exp.evaluation.outputs import Outputs
from dmm_exp.evaluation.scored import Scored

if TYPE_CHECKING:
    from dmm_exp.evaluation.evaluation import EVALUATION_FORMAT, Evaluation

__all__ = ["EVALUATION_FORMAT", "Evaluation", "Outputs", "Scored"]


def __getattr__(name: str) -> object:
    """Import what needs torch when it is asked for."""
    if name not in ("EVALUATION_FORMAT", "Evaluation"):
        raise AttributeError(f"module 'dmm_exp.evaluation' has no attribute '{name}'")
    from dmm_exp.evaluation import evaluation

    return getattr(evaluation, name)
