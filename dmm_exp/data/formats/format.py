"""The interface of formats: a format reads files into arrays, and knows nothing of splits or normalisation."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dmm_exp.data.pictures import Pictures
from dmm_exp.data.split import TEST, TRAIN
from dmm_exp.data.words import Texts
from dmm_exp.errors import UserError

__all__ = ["TEST", "TRAIN", "Format", "Part", "Reading", "fingerprint", "label_values", "whole_numbers"]


@dataclass(frozen=True)
class Part:
    """The examples of one part of the files, such as the training part.

    Attributes:
        inputs: ``[examples, ...]`` uint8 or float32 (images ``[examples, channels, height, width]``), encoded images,
            or texts.
        labels: ``[examples]`` int64; or texts, where the reading has no names of classes.
        names: paths of the files in the folder of the part, if each example is a file.
        columns: name → value of every example, as text, of the columns by which training examples are grouped.
    """

    inputs: np.ndarray | Pictures | Texts
    labels: np.ndarray
    names: list[str] | None = None
    columns: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """The content of a dataset's files.

    Attributes:
        parts: ``train`` and, where the files have one, ``test``.
        class_names: a name for every class, where the files have them.
        files: the files that were read, without the images of a folder.
        taken: sentences that say how the files were read where that was not obvious.
        source: of the labels, for errors.
    """

    parts: Mapping[str, Part]
    class_names: list[str] | None = None
    files: tuple[Path, ...] = ()
    taken: tuple[str, ...] = ()
    source: str = "labels"


class Format(ABC):
    """A layout of files."""

    @property
    @abstractmethod
    def expected(self) -> str:
        """A description of the files of this format, for errors."""

    @abstractmethod
    def found(self, path: Path) -> bool:
        """Return whether ``path`` (a folder or a file) looks like this format."""

    @abstractmethod
    def read(self, path: Path) -> Reading:
        """Return the content of the files.

        Raises:
            UserError: a file is missing, truncated, or of another kind.
        """

    def advice(self, path: Path) -> str:
        """Return a clause of advice if ``path`` looks like a version of these files that cannot be read."""
        return ""


def fingerprint(paths: Iterable[Path]) -> str:
    """Return a digest of the paths, sizes and modification times of files; it changes when a file changes."""
    digest = hashlib.sha256()
    for path in paths:
        facts = path.stat()
        digest.update(os.fsencode(f"{path.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}\n"))
    return digest.hexdigest()


def whole_numbers(labels: np.ndarray, where: str) -> np.ndarray:
    """Return labels as ``[examples]`` int64; true becomes 1, and 2.0 becomes 2.

    Raises:
        UserError: they are not whole numbers.
    """
    flat = labels.reshape(len(labels)) if labels.size == len(labels) and labels.ndim else labels
    if flat.ndim == 2 and flat.dtype.kind in "biuf" and (np.count_nonzero(flat, axis=1) == 1).all():
        raise UserError(
            f"{where}: expected one whole number a label, found {labels.dtype} {list(labels.shape)}, which looks like "
            "one column for each class; give the number of the column instead, as argmax(axis=1) does"
        )
    if flat.ndim != 1 or flat.dtype.kind not in "biuf":
        raise UserError(f"{where}: expected one whole number a label, found {labels.dtype} {list(labels.shape)}")
    if flat.dtype.kind == "f" and not (flat == np.round(flat)).all():
        raise UserError(f"{where}: expected one whole number a label, found fractions ({labels.dtype})")
    if flat.size and not -(2**63) <= float(flat.min()) <= float(flat.max()) < 2**63:
        raise UserError(f"{where}: expected one whole number a label, found {flat.max()}, beyond 64 bits")
    return flat.astype(np.int64)


def label_values(labels: np.ndarray, where: str) -> np.ndarray:
    """Return labels as ``[examples]`` int64, or unchanged if they are texts.

    Raises:
        UserError: they are neither, or some are missing.
    """
    flat = labels.reshape(len(labels)) if labels.size == len(labels) and labels.ndim else labels
    if flat.ndim == 1 and flat.dtype.kind == "O":
        if missing := sum(value is None or value != value for value in flat):
            raise UserError(f"{where}: {missing} labels are missing")
        flat = flat.astype(str) if all(isinstance(value, str) for value in flat) else flat
    return flat if flat.ndim == 1 and flat.dtype.kind == "U" else whole_numbers(labels, where)
