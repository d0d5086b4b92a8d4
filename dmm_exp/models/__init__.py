"""Architectures, and the normalisation in front of them."""

from dmm_exp.models.margins import functional_one_hot, margin
from dmm_exp.models.networks import CNN, MLP
from dmm_exp.models.normalised import Normalised
from dmm_exp.models.resnet9 import ResNet9

__all__ = ["CNN", "MLP", "Normalised", "ResNet9", "functional_one_hot", "margin"]
