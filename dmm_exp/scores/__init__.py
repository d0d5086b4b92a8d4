"""Scores of single examples, from the pool or from the originals."""

from dmm_exp.scores.entanglement import entanglement, entanglement_groups
from dmm_exp.scores.families import FAMILIES, FROM_POOL, families_of
from dmm_exp.scores.hardness import hardness
from dmm_exp.scores.memorization import memorization, memorization_table
from dmm_exp.scores.principal import principal_projections
from dmm_exp.scores.proxies import loss_curvature

__all__ = [
    "FAMILIES",
    "FROM_POOL",
    "entanglement",
    "entanglement_groups",
    "families_of",
    "hardness",
    "loss_curvature",
    "memorization",
    "memorization_table",
    "principal_projections",
]
