"""Datasets as tensors in memory, one index space for training and validation points."""

from dmm_exp.data.augmentation import Augmentation
from dmm_exp.data.classes import comparable
from dmm_exp.data.corruption import Corruption, LabelCorruption, PlantedClass
from dmm_exp.data.dataset import Dataset
from dmm_exp.data.digits import Digits
from dmm_exp.data.examples import Examples, Normalisation
from dmm_exp.data.groups import group_text, group_values
from dmm_exp.data.pictures import Decoding
from dmm_exp.data.rows import FORGET, GROUPS, RETAIN, VALIDATION, Rows, content_hash
from dmm_exp.data.split import Split
from dmm_exp.data.words import FrequentWords, HashedWords, WordEncoder, Words, vectors

__all__ = [
    "FORGET",
    "GROUPS",
    "RETAIN",
    "VALIDATION",
    "Augmentation",
    "Corruption",
    "Dataset",
    "Decoding",
    "Digits",
    "Examples",
    "FrequentWords",
    "HashedWords",
    "LabelCorruption",
    "Normalisation",
    "PlantedClass",
    "Rows",
    "Split",
    "WordEncoder",
    "Words",
    "comparable",
    "content_hash",
    "group_text",
    "group_values",
    "vectors",
]
