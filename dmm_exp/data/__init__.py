"""Datasets as tensors in memory, one index space for training and validation points."""

from dmm_exp.data.corruption import LabelCorruption
from dmm_exp.data.digits import Digits
from dmm_exp.data.examples import Examples, Normalisation
from dmm_exp.data.idx import IdxImages

__all__ = ["Digits", "Examples", "IdxImages", "LabelCorruption", "Normalisation"]
