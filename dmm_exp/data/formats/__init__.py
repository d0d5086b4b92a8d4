"""Formats: files in, arrays out."""

from dmm_exp.data.formats.cifar import CifarBinary
from dmm_exp.data.formats.folder import ImageFolder, TinyImageNet
from dmm_exp.data.formats.format import Format, Part, Reading
from dmm_exp.data.formats.hub import Hub
from dmm_exp.data.formats.idx import Idx
from dmm_exp.data.formats.npz import Npz
from dmm_exp.data.formats.parquet import Parquet
from dmm_exp.data.formats.svhn import SvhnMat
from dmm_exp.data.formats.table import Table
from dmm_exp.data.formats.wordnet import WordNet

__all__ = [
    "CifarBinary",
    "Format",
    "Hub",
    "Idx",
    "ImageFolder",
    "Npz",
    "Parquet",
    "Part",
    "Reading",
    "SvhnMat",
    "Table",
    "TinyImageNet",
    "WordNet",
]
