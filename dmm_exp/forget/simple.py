"""Forget sets that need nothing but the dataset."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dmm_exp.data import Examples
from dmm_exp.errors import UserError
from dmm_exp.forget.selector import Selector, forget_size


@dataclass(frozen=True)
class Random(Selector):
    """Examples drawn uniformly without replacement.

    Attributes:
        size: how many; ``fraction`` of the training set when None.
        fraction: share of the training set.
        seed: of the draw.
        generator: ``numpy`` draws as ``numpy.random.seed(seed)`` and ``numpy.random.choice(n_train, size,
            replace=False)`` do. With sizes 10, 100, 1000 and seeds 0, 1, 2 these are forget sets 1 to 3 of
            arXiv 2410.23232 on CIFAR-10.
    """

    size: int | None = None
    fraction: float = 0.035
    seed: int = 0
    generator: Literal["torch", "numpy"] = "torch"

    def __post_init__(self) -> None:
        if self.generator == "numpy" and not 0 <= self.seed < 2**32:
            raise UserError(f"forget.seed={self.seed}: with forget.generator=numpy expected 0 to {2**32 - 1}")

    def select(self, examples: Examples, scores: pd.DataFrame | None = None) -> Tensor:
        """Return the sorted draw."""
        size = forget_size(self.size, self.fraction, examples.n_train)
        if self.generator == "numpy":
            draw = np.random.RandomState(self.seed).choice(examples.n_train, size, replace=False)
            return torch.from_numpy(np.sort(draw).astype(np.int64))
        order = torch.randperm(examples.n_train, generator=torch.Generator().manual_seed(self.seed))
        return order[:size].sort().values


@dataclass(frozen=True)
class OneClass(Selector):
    """A class, or a random part of it.

    Attributes:
        label: number or name of the class.
        fraction: share of the class.
        seed: of the draw of a part.
    """

    label: int | str = 0
    fraction: float = 1.0
    seed: int = 0

    def select(self, examples: Examples, scores: pd.DataFrame | None = None) -> Tensor:
        """Return the sorted examples of the class."""
        label = class_index(self.label, examples.class_names, "forget.label")
        candidates = (examples.labels[: examples.n_train] == label).nonzero().squeeze(1)
        if not 0 < self.fraction <= 1 or len(candidates) == 0:
            raise UserError(
                f"forget.fraction={self.fraction} of the {len(candidates)} examples of class {self.label}: expected a "
                "fraction in (0, 1] of a class that has examples"
            )
        size = max(1, round(self.fraction * len(candidates)))
        order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(self.seed))
        return candidates[order[:size]].sort().values


def class_index(label: int | str, names: list[str], key: str) -> int:
    """Return the number of a class that is given by its number or name.

    Raises:
        UserError: there is no such class; ``key`` is where it stands in the configuration.
    """
    if str(label) in names:
        return names.index(str(label))
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    raise UserError(f"{key}={label}: expected 0 to {len(names) - 1} or one of {', '.join(names)}")


@dataclass(frozen=True)
class SubClass(Selector):
    """Part of a class that belongs together: one of the clusters of its inputs (k-means).

    Attributes:
        label: number or name of the class.
        cluster: which cluster, the largest being 0.
        clusters: how many the class is cut into.
        seed: of the clustering.
    """

    label: int | str = 0
    cluster: int = 0
    clusters: int = 3
    seed: int = 0

    def select(self, examples: Examples, scores: pd.DataFrame | None = None) -> Tensor:
        """Return the sorted examples of the cluster."""
        from sklearn.cluster import KMeans

        members = OneClass(self.label).select(examples)
        if not 1 <= self.clusters <= len(members) or not 0 <= self.cluster < self.clusters:
            raise UserError(
                f"forget.cluster={self.cluster} of forget.clusters={self.clusters}: expected 1 to {len(members)} "
                "clusters, counted from 0"
            )
        inputs = examples.inputs[members].flatten(1).float().numpy()
        found = torch.from_numpy(KMeans(self.clusters, random_state=self.seed).fit_predict(inputs)).long()
        by_size = torch.bincount(found, minlength=self.clusters).argsort(descending=True, stable=True)
        return members[found == by_size[self.cluster]]


@dataclass(frozen=True)
class Mislabelled(Selector):
    """The examples whose labels were corrupted: what one wants gone once labels turn out wrong."""

    def select(self, examples: Examples, scores: pd.DataFrame | None = None) -> Tensor:
        """Return the sorted corrupted examples."""
        chosen = examples.corrupted[: examples.n_train].nonzero().squeeze(1)
        if len(chosen) == 0:
            raise UserError(
                "forget=mislabelled: this dataset has no corrupted labels; ask for some, for example "
                "dataset.corruption.fraction=0.05"
            )
        return chosen


@dataclass(frozen=True)
class Points(Selector):
    """Training indices as they are: how one stage hands a forget set to another.

    Attributes:
        points: distinct training indices.
    """

    points: list[int]

    def select(self, examples: Examples, scores: pd.DataFrame | None = None) -> Tensor:
        """Return the sorted indices."""
        chosen = torch.tensor(sorted(set(self.points)), dtype=torch.long)
        if len(chosen) != len(self.points) or not len(chosen) or chosen[0] < 0 or chosen[-1] >= examples.n_train:
            raise UserError(f"forget.points: expected distinct indices from 0 to {examples.n_train - 1}")
        return chosen


@dataclass(frozen=True)
class Indices(Selector):
    """Training indices from a file.

    Attributes:
        indices: a file: ``.npy`` (integers or a boolean mask), ``.json`` (a list), ``.csv`` (first column), ``.txt``
            (one a line).
    """

    indices: str

    def select(self, examples: Examples, scores: pd.DataFrame | None = None) -> Tensor:
        """Return the sorted indices of the file."""
        values = self._read(Path(self.indices).expanduser())
        if values.dtype == bool and values.shape == (examples.n_train,):
            values = values.nonzero()[0]
        if values.ndim != 1 or len(values) == 0 or values.dtype.kind not in "iu":
            raise UserError(
                f"forget.indices={self.indices}: expected a list of whole numbers, or a mask of the training set"
            )
        if values.min() < 0 or values.max() >= examples.n_train or len(np.unique(values)) != len(values):
            raise UserError(
                f"forget.indices={self.indices}: expected distinct indices from 0 to {examples.n_train - 1}, got "
                f"{len(values)} from {values.min()} to {values.max()}"
            )
        if len(values) == examples.n_train:
            raise UserError(
                f"forget.indices={self.indices}: is the whole training set; expected some of it to be retained"
            )
        return torch.from_numpy(np.sort(values).astype(np.int64))

    def _read(self, path: Path) -> np.ndarray:
        readers = {".npy": _read_npy, ".json": _read_json, ".csv": _read_csv, ".txt": _read_csv}
        if path.suffix not in readers:
            raise UserError(f"forget.indices={self.indices}: expected a file ending in {', '.join(readers)}")
        try:
            return np.asarray(readers[path.suffix](path))
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"forget.indices={self.indices}: cannot be read ({error})") from error


def _read_npy(path: Path) -> object:
    return np.load(path, allow_pickle=False)


def _read_json(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_csv(path: Path) -> object:
    table = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if row]
    if len(table) == 1 and len(table[0]) > 1:
        raise ValueError("one row of several columns; expected one index in a row")
    rows = [row[0].strip() for row in table]
    headed = bool(rows) and not rows[0].lstrip("-").isdigit()
    return [int(value) for value in rows[headed:]]
