"""Unlearners: one class and one YAML file a method."""

from dmm_exp.unlearners.fine_tuning import Finetune, GradientAscent
from dmm_exp.unlearners.matching import DMM, DMDirect, OracleMatching
from dmm_exp.unlearners.references import DoNothing, Retrain
from dmm_exp.unlearners.unlearner import FineTuning, Unlearned, Unlearner, UnlearningTask

__all__ = [
    "DMM",
    "DMDirect",
    "DoNothing",
    "FineTuning",
    "Finetune",
    "GradientAscent",
    "OracleMatching",
    "Retrain",
    "Unlearned",
    "Unlearner",
    "UnlearningTask",
]
