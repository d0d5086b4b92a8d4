"""Datasets in the IDX files of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dmm_exp.data.corruption import LabelCorruption
from dmm_exp.data.examples import Examples, Normalisation
from dmm_exp.errors import UserError

IDX_UINT8 = 8


@dataclass(frozen=True)
class IdxImages:
    """Images and labels from the four IDX files (plain or gzipped) of a folder.

    Attributes:
        folders: places to look, in order; the first that exists is read.
        class_names: a name for every class.
        train_size: number of training examples to keep, drawn at random; all when None.
        validation_size: the same for the validation set (the files called ``t10k``).
        subset_seed: seed of that draw.
        corruption: wrong labels to put into the training set.
    """

    folders: list[str]
    class_names: list[str]
    normalisation: Normalisation
    train_size: int | None = None
    validation_size: int | None = None
    subset_seed: int = 0
    corruption: LabelCorruption = field(default_factory=LabelCorruption)

    def load(self) -> Examples:
        """Return the examples: inputs uint8 ``[points, 1, height, width]``.

        Raises:
            UserError: no folder exists, or a file is missing or malformed.
        """
        folder = self._folder()
        train = self._part(folder, "train", self.train_size, "train_size")
        validation = self._part(folder, "t10k", self.validation_size, "validation_size")
        inputs, labels = (torch.cat(pair) for pair in zip(train, validation, strict=True))
        n_train = len(train[1])
        if labels.max() >= len(self.class_names):
            raise UserError(f"dataset.class_names: {folder} has labels up to {labels.max()}, expected a name for each")
        labels, corrupted = self.corruption(labels, n_train, len(self.class_names))
        return Examples(inputs.unsqueeze(1), labels, n_train, list(self.class_names), self.normalisation, corrupted)

    def _folder(self) -> Path:
        for folder in self.folders:
            if Path(folder).expanduser().is_dir():
                return Path(folder).expanduser()
        raise UserError(
            f"dataset.folders={list(self.folders)}: none of these folders exists; give one that holds the four IDX "
            "files with dataset.folders=[FOLDER] (Debian's package dataset-fashion-mnist installs Fashion-MNIST)"
        )

    def _part(self, folder: Path, part: str, size: int | None, key: str) -> tuple[Tensor, Tensor]:
        images = read_idx(_existing(folder, f"{part}-images-idx3-ubyte"))
        labels = read_idx(_existing(folder, f"{part}-labels-idx1-ubyte")).long()
        if images.ndim != 3 or labels.ndim != 1:
            raise UserError(f"dataset.folders: the {part} files of {folder} do not hold images and their labels")
        if len(images) != len(labels):
            raise UserError(f"dataset.folders: {folder} has {len(images)} {part} images but {len(labels)} labels")
        if size is None:
            return images, labels
        if not 0 < size <= len(labels):
            raise UserError(f"dataset.{key}={size}: expected a number from 1 to {len(labels)}")
        chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(self.subset_seed))[:size]
        return images[chosen], labels[chosen]


def _existing(folder: Path, name: str) -> Path:
    """Return the plain or gzipped file of this name; MNIST's files are also met with a dot before ``idx``."""
    spellings = [spelling + end for spelling in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    for spelling in spellings:
        if (folder / spelling).is_file():
            return folder / spelling
    raise UserError(f"dataset.folders: {folder} lacks the file {name} (plain or .gz)")


def read_idx(path: Path) -> Tensor:
    """Return the uint8 array of an IDX file, plain or gzipped.

    Raises:
        UserError: the file is not a whole IDX file of unsigned bytes.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != IDX_UINT8:
        raise UserError(f"{path} is not an IDX file of unsigned bytes")
    start = 4 + 4 * content[3]
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    if len(content) != start + prod(shape):
        raise UserError(
            f"{path} is truncated: its header says {prod(shape)} bytes of data, {len(content) - start} exist"
        )
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape).copy())
