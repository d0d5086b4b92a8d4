"""Arrays in a NumPy archive."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dmm_exp.data.formats.format import TEST, TRAIN, Format, Part, Reading, whole_numbers
from dmm_exp.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Npz(Format):
    """Inputs and labels by name in one ``.npz`` file. Arrays of Python objects (pickles) are refused.

    Attributes:
        train: names of the training inputs and labels.
        test: names of the test inputs and labels; None when there are none.
        channels_last: images are ``[n, height, width, channels]`` rather than ``[n, channels, height, width]``.
    """

    train: Sequence[str] = ("x_train", "y_train")
    test: Sequence[str] | None = ("x_test", "y_test")
    channels_last: bool = False

    def __post_init__(self) -> None:
        for part, names in ((TRAIN, self.train), (TEST, self.test)):
            if names is not None and len(names) != 2:
                raise UserError(f"dataset.formats.npz.{part}={list(names)}: expected the names [inputs, labels]")

    @property
    def expected(self) -> str:
        """The file in words."""
        return "one .npz file"

    def found(self, path: Path) -> bool:
        """Say whether ``path`` is such a file."""
        return path.is_file() and path.suffix == ".npz"

    def read(self, path: Path) -> Reading:
        """Return inputs uint8 or float32 ``[n, ...]``; grey images get a channel."""
        wanted = {TRAIN: self.train} | ({TEST: self.test} if self.test else {})
        try:
            with np.load(path, allow_pickle=False) as archive:
                parts = {part: self._part(archive, path, part, names) for part, names in wanted.items()}
        except UserError:
            raise
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is not a whole .npz file of plain arrays: {error}") from error
        return Reading(parts, files=(path,))

    def _part(self, archive: np.lib.npyio.NpzFile, path: Path, part: str, names: Sequence[str]) -> Part:
        for name in names:
            if name not in archive.files:
                raise UserError(
                    f"dataset.formats.npz.{part}={list(names)}: {path} has no array '{name}', it has "
                    f"{', '.join(archive.files) or 'none'}{did_you_mean(name, archive.files)}"
                    + ("; a file without a test part takes dataset.formats.npz.test=null" if part == TEST else "")
                )
        return Part(self._inputs(archive[names[0]], path), whole_numbers(archive[names[1]], f"{names[1]} of {path}"))

    def _inputs(self, inputs: np.ndarray, path: Path) -> np.ndarray:
        if inputs.dtype != np.uint8:
            inputs = numbers(inputs, f"inputs of {path}")
        if inputs.ndim == 3:
            return inputs[:, None]
        if inputs.ndim == 4 and self.channels_last:
            return np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
        if inputs.ndim == 4 and inputs.shape[3] in (1, 3) and inputs.shape[1] not in (1, 3):
            raise UserError(
                f"{path}: inputs {list(inputs.shape)} look like images with channels last; say so with "
                "dataset.formats.npz.channels_last=true"
            )
        return inputs


def numbers(values: np.ndarray, where: str) -> np.ndarray:
    """Return values as float32.

    Raises:
        UserError: they are no numbers, or some are missing or infinite.
    """
    if values.dtype.kind not in "biuf":
        raise UserError(f"{where}: expected numbers, found {values.dtype}")
    result = values.astype(np.float32)
    if not np.isfinite(result).all():
        raise UserError(f"{where}: expected finite numbers, but {int((~np.isfinite(result)).sum())} are not")
    return result
