"""Forget sets: selectors of the training examples that have to go."""

from dmm_exp.forget.memorized import Memorized, memorization_groups
from dmm_exp.forget.selector import Selector
from dmm_exp.forget.simple import Indices, Mislabelled, OneClass, Points, Random

__all__ = ["Indices", "Memorized", "Mislabelled", "OneClass", "Points", "Random", "Selector", "memorization_groups"]
