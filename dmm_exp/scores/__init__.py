"""Scores of single examples, from the pool or from the originals."""

from dmm_exp.scores.entanglement import entanglement, entanglement_columns
from dmm_exp.scores.families import FAMILIES, FROM_POOL, families_of, score_names
from dmm_exp.scores.hardness import hardness
from dmm_exp.scores.memorization import memorization, memorization_columns
from dmm_exp.scores.principal import principal_projections
from dmm_exp.scores.proxies import loss_curvature, symmetric_kl

__all__ = [
    "FAMILIES",
    "FROM_POOL",
    "entanglement",
    "entanglement_columns",
    "families_of",
    "hardness",
    "loss_curvature",
    "memorization",
    "memorization_columns",
    "principal_projections",
    "score_names",
    "symmetric_kl",
]
