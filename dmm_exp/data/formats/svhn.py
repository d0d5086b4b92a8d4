"""The cropped digits of SVHN in MATLAB files."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from dmm_exp.data.formats.format import TEST, TRAIN, Format, Part, Reading, whole_numbers
from dmm_exp.errors import UserError
from dmm_exp.files.reading import check_memory

BYTES = 8  # largest size of a number
FILES = {TRAIN: "train_32x32.mat", TEST: "test_32x32.mat"}


@dataclass(frozen=True)
class SvhnMat(Format):
    """``X`` uint8 ``[height, width, 3, n]`` and ``y`` ``[n, 1]`` from 1 to 10, where 10 stands for the digit 0."""

    @property
    def expected(self) -> str:
        """A description of the files, for errors."""
        return " and ".join(FILES.values())

    def found(self, path: Path) -> bool:
        """Return whether ``path`` is a folder with one of the files."""
        return any((path / name).is_file() for name in FILES.values())

    def read(self, path: Path) -> Reading:
        """Return inputs uint8 ``[n, 3, height, width]``."""
        return Reading(
            {part: _part(path / name) for part, name in FILES.items()},
            files=tuple(path / name for name in FILES.values()),
        )


def _part(path: Path) -> Part:
    from scipy.io import loadmat, whosmat

    if not path.is_file():
        raise UserError(f"{path.parent} lacks the file {path.name}")
    try:
        check_memory(sum(BYTES * prod(shape) for name, shape, _ in whosmat(path) if name in ("X", "y")))
        content = loadmat(path, variable_names=("X", "y"))
    except Exception as error:  # a damaged file may raise any exception
        raise UserError(f"{path} is not a complete MATLAB file: {error or type(error).__name__}") from error
    if not {"X", "y"} <= set(content):
        raise UserError(f"{path} does not hold the arrays X and y")
    images, digits = content["X"], whole_numbers(content["y"], f"y of {path}")
    if images.ndim != 4 or images.shape[2] != 3 or images.dtype != np.uint8:
        raise UserError(f"{path}: expected X uint8 [height, width, 3, n], found {images.dtype} {list(images.shape)}")
    if len(digits) and not 1 <= digits.min() <= digits.max() <= 10:
        raise UserError(f"{path}: expected labels from 1 to 10 (for 0), found {digits.min()} to {digits.max()}")
    return Part(np.ascontiguousarray(images.transpose(3, 2, 0, 1)), digits % 10)
