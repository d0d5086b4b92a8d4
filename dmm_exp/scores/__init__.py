"""Scores of single examples, computed from the pool."""

from dmm_exp.scores.hardness import hardness
from dmm_exp.scores.memorization import memorization, memorization_table

__all__ = ["hardness", "memorization", "memorization_table"]
