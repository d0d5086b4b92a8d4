"""Refinement: splitting a forget set into parts that are unlearned in turn (RUM)."""

from dmm_exp.refinement.refinement import ByScore, Part, Refinement, Shuffle, Whole

__all__ = ["ByScore", "Part", "Refinement", "Shuffle", "Whole"]
