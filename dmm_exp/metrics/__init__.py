"""Metrics: how far unlearned models are from models that never saw the forget set.

Everything here takes arrays and needs numpy alone (``lds`` and ``mean_interval`` load scipy and ``mia`` scikit-learn
when they are called).
Ensembles come as margins ``[members, points]``.
"""

from dmm_exp.metrics.better import better
from dmm_exp.metrics.competition import competition_epsilon, competition_quality
from dmm_exp.metrics.cost import cost_ratio, retraining_cost
from dmm_exp.metrics.effects import UNKNOWN, doubt, effect_quality, error_ratio, expected_error
from dmm_exp.metrics.intervals import mean_interval, ulira_intervals
from dmm_exp.metrics.klom import KlomOptions, check_options, klom, klom_both
from dmm_exp.metrics.klom_floor import SplitHalfFloor, split_half_floor
from dmm_exp.metrics.klom_intervals import klom_interval, klom_intervals
from dmm_exp.metrics.lds import lds, lds_interval
from dmm_exp.metrics.margins import accuracy, margins
from dmm_exp.metrics.mia import check_attack, mia
from dmm_exp.metrics.tow import tow, tow_mia
from dmm_exp.metrics.ulira import false_positives, roc, tpr_at_fpr, ulira, ulira_scores
from dmm_exp.metrics.ulira_strong import auc, check_seen, ulira_strong, ulira_strong_scores

__all__ = [
    "UNKNOWN",
    "KlomOptions",
    "SplitHalfFloor",
    "accuracy",
    "auc",
    "better",
    "check_attack",
    "check_options",
    "check_seen",
    "competition_epsilon",
    "competition_quality",
    "cost_ratio",
    "doubt",
    "effect_quality",
    "error_ratio",
    "expected_error",
    "false_positives",
    "klom",
    "klom_both",
    "klom_interval",
    "klom_intervals",
    "lds",
    "lds_interval",
    "margins",
    "mean_interval",
    "mia",
    "retraining_cost",
    "roc",
    "split_half_floor",
    "tow",
    "tow_mia",
    "tpr_at_fpr",
    "ulira",
    "ulira_intervals",
    "ulira_scores",
    "ulira_strong",
    "ulira_strong_scores",
]
