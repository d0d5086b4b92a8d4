"""Unlearners: one class and one YAML file a method."""

from importlib import import_module
from typing import TYPE_CHECKING

from dmm_exp.ensembles import Ensemble
from dmm_exp.unlearners.boundary import AMUN, BoundaryShrink
from dmm_exp.unlearners.class_noise import UNSIR
from dmm_exp.unlearners.competition import CT, MSG
from dmm_exp.unlearners.dampening import SSD
from dmm_exp.unlearners.distillation import BadTeacher, Scrub
from dmm_exp.unlearners.fine_tuning import AscentDescent, Finetune, GradientAscent, L1Sparse, NegGradPlus
from dmm_exp.unlearners.function import Function
from dmm_exp.unlearners.influence import Influence
from dmm_exp.unlearners.layers import CFk, EUk
from dmm_exp.unlearners.matching import DMM, DMDirect, OracleMatching
from dmm_exp.unlearners.negation import NegMerge
from dmm_exp.unlearners.noisy import NoisyFinetune
from dmm_exp.unlearners.partial_retraining import SISA, Rewind
from dmm_exp.unlearners.references import DoNothing, Retrain
from dmm_exp.unlearners.relabelling import RandomLabel, SalUn
from dmm_exp.unlearners.remain_geometry import SFRon
from dmm_exp.unlearners.smoothing import JiT
from dmm_exp.unlearners.unlearner import (
    FineTuning,
    Unlearner,
    UnlearningResult,
    UnlearningTask,
    mean_where,
    own_rows,
    shuffled,
)

if TYPE_CHECKING:
    from dmm_exp.unlearners.fit import Fit

__all__ = [
    "AMUN",
    "CT",
    "DMM",
    "MSG",
    "SISA",
    "SSD",
    "UNSIR",
    "AscentDescent",
    "BadTeacher",
    "BoundaryShrink",
    "CFk",
    "DMDirect",
    "DoNothing",
    "EUk",
    "Ensemble",
    "FineTuning",
    "Finetune",
    "Fit",
    "Function",
    "GradientAscent",
    "Influence",
    "JiT",
    "L1Sparse",
    "NegGradPlus",
    "NegMerge",
    "NoisyFinetune",
    "OracleMatching",
    "RandomLabel",
    "Retrain",
    "Rewind",
    "SFRon",
    "SalUn",
    "Scrub",
    "Unlearner",
    "UnlearningResult",
    "UnlearningTask",
    "mean_where",
    "own_rows",
    "shuffled",
]


def __getattr__(name: str) -> object:
    """Import the Lightning module of methods that fine-tune when it is asked for."""
    if name != "Fit":
        raise AttributeError(f"module 'dmm_exp.unlearners' has no attribute '{name}'")
    return import_module("dmm_exp.unlearners.fit").Fit
