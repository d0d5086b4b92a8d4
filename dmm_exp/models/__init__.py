"""Architectures, and the normalisation in front of them."""

from dmm_exp.models.networks import CNN, MLP
from dmm_exp.models.normalised import Normalised

__all__ = ["CNN", "MLP", "Normalised"]
