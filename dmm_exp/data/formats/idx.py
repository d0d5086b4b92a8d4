"""The IDX files of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dmm_exp.data.formats.format import TEST, TRAIN, Format, Part, Reading, whole_numbers
from dmm_exp.errors import UserError
from dmm_exp.files.reading import check_memory

IDX_UINT8 = 8
PREFIXES = {TRAIN: "train", TEST: "t10k"}


@dataclass(frozen=True)
class Idx(Format):
    """Images and labels in the four IDX files (plain or gzipped) of a folder; t10k is the test part."""

    @property
    def expected(self) -> str:
        """A description of the files, for errors."""
        return "the four IDX files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-… (plain or .gz)"

    def found(self, path: Path) -> bool:
        """Return whether ``path`` is a folder with one of the files."""
        return any(_existing(path, name) is not None for prefix in PREFIXES.values() for name in _names(prefix))

    def read(self, path: Path) -> Reading:
        """Return inputs uint8 ``[n, 1, height, width]``."""
        files = {part: [_needed(path, name) for name in _names(prefix)] for part, prefix in PREFIXES.items()}
        parts = {part: _part(*pair) for part, pair in files.items()}
        return Reading(parts, files=tuple(file for pair in files.values() for file in pair))


def _names(prefix: str) -> tuple[str, str]:
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"


def _part(images_file: Path, labels_file: Path) -> Part:
    images, labels = read_idx(images_file), read_idx(labels_file)
    if images.ndim != 3 or labels.ndim != 1:
        raise UserError(f"{images_file} and {labels_file.name} do not hold images and their labels")
    return Part(images[:, None], whole_numbers(labels, str(labels_file)))


def _existing(folder: Path, name: str) -> Path | None:
    """Return the plain or gzipped file of this name; MNIST's files also exist with a dot before ``idx``."""
    spellings = [spelling + end for spelling in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    return next((folder / spelling for spelling in spellings if (folder / spelling).is_file()), None)


def _needed(folder: Path, name: str) -> Path:
    file = _existing(folder, name)
    if file is None:
        raise UserError(f"{folder} lacks the file {name} (plain or .gz)")
    return file


def read_idx(path: Path) -> np.ndarray:
    """Return the uint8 array of an IDX file, plain or gzipped.

    Raises:
        UserError: the file is not a complete IDX file of unsigned bytes.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _array(file, path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a complete gzip file: {error}") from error


def _array(file: Any, path: Path) -> np.ndarray:
    """Return the array of an open IDX file; no more is read than its header announces."""
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] != IDX_UINT8:
        raise UserError(f"{path} is not an IDX file of unsigned bytes")
    sizes = file.read(4 * head[3])
    shape = [int.from_bytes(sizes[i : i + 4], "big") for i in range(0, 4 * head[3], 4)]
    try:
        check_memory(prod(shape))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    content = file.read(prod(shape) + 1)
    if len(sizes) != 4 * head[3] or len(content) != prod(shape):
        there = "more" if len(content) > prod(shape) else len(content)
        raise UserError(f"{path} is truncated: its header says {prod(shape)} bytes of data, {there} exist")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
