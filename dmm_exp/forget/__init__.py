"""Forget sets: selectors of the training examples to forget."""

from dmm_exp.data import Rows
from dmm_exp.forget.classes import class_index
from dmm_exp.forget.entangled import Entangled
from dmm_exp.forget.memorized import Memorized, memorization_groups
from dmm_exp.forget.rows import read_rows
from dmm_exp.forget.selector import Selector
from dmm_exp.forget.simple import Indices, Mislabelled, OneClass, OneGroup, Points, Random, SubClass

__all__ = [
    "Entangled",
    "Indices",
    "Memorized",
    "Mislabelled",
    "OneClass",
    "OneGroup",
    "Points",
    "Random",
    "Rows",
    "Selector",
    "SubClass",
    "class_index",
    "memorization_groups",
    "read_rows",
]
