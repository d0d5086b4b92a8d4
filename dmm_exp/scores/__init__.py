"""Scores of single examples, computed from the pool."""

from dmm_exp.scores.memorization import memorization, memorization_table

__all__ = ["memorization", "memorization_table"]
