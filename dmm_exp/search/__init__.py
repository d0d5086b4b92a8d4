"""Searching an unlearner's settings on forget sets that are not reported."""

from dmm_exp.search.search import search
from dmm_exp.search.spaces import Range, settings_of, with_settings
from dmm_exp.search.strategies import Grid, Optuna, Strategy

__all__ = ["Grid", "Optuna", "Range", "Strategy", "search", "settings_of", "with_settings"]
