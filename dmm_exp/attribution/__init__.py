"""Estimators of the effect of a forget set: the change of every logit when it is included in training."""

from dmm_exp.attribution.datamodel import Datamodel
from dmm_exp.attribution.debiased import Debiased
from dmm_exp.attribution.empirical_bayes import EmpiricalBayes
from dmm_exp.attribution.estimator import Effect, Estimator, Learned, towards
from dmm_exp.attribution.evidence import CentredLogits, Evidence, Gradients, SubsetModels
from dmm_exp.attribution.factored import TrakFactored
from dmm_exp.attribution.feldman_zhang import FeldmanZhang
from dmm_exp.attribution.gradients import GradientEstimator
from dmm_exp.attribution.kriging import GroupKriging
from dmm_exp.attribution.lasso import SparseDatamodel
from dmm_exp.attribution.oracle import OracleEffect
from dmm_exp.attribution.trak import Trak

__all__ = [
    "CentredLogits",
    "Datamodel",
    "Debiased",
    "Effect",
    "EmpiricalBayes",
    "Estimator",
    "Evidence",
    "FeldmanZhang",
    "GradientEstimator",
    "Gradients",
    "GroupKriging",
    "Learned",
    "OracleEffect",
    "SparseDatamodel",
    "SubsetModels",
    "Trak",
    "TrakFactored",
    "towards",
]
