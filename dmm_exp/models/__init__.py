"""Architectures, and the normalisation before them."""

from dmm_exp.models.margins import functional_one_hot, margin
from dmm_exp.models.networks import CNN, MLP
from dmm_exp.models.normalised import Normalised
from dmm_exp.models.resnet import ResNet
from dmm_exp.models.resnet9 import ResNet9
from dmm_exp.models.vgg import VGG16
from dmm_exp.models.vit import VisionTransformer
from dmm_exp.models.words import EmbeddingBag, Transformer

__all__ = [
    "CNN",
    "MLP",
    "VGG16",
    "EmbeddingBag",
    "Normalised",
    "ResNet",
    "ResNet9",
    "Transformer",
    "VisionTransformer",
    "functional_one_hot",
    "margin",
]
