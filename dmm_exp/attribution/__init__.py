"""Estimators of what including the forget set does to every logit."""

from dmm_exp.attribution.datamodel import Datamodel
from dmm_exp.attribution.debiased import Debiased
from dmm_exp.attribution.estimator import Estimator, Evidence, LinearEstimator, PoolEstimator, SubsetModels
from dmm_exp.attribution.feldman_zhang import FeldmanZhang
from dmm_exp.attribution.lasso import SparseDatamodel
from dmm_exp.attribution.oracle import OracleEffect

__all__ = [
    "Datamodel",
    "Debiased",
    "Estimator",
    "Evidence",
    "FeldmanZhang",
    "LinearEstimator",
    "OracleEffect",
    "PoolEstimator",
    "SparseDatamodel",
    "SubsetModels",
]
