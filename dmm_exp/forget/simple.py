"""Forget sets that depend on the dataset alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dmm_exp.data import Examples, Rows, group_text, group_values
from dmm_exp.errors import UserError, did_you_mean, listed, shown
from dmm_exp.forget.classes import class_index
from dmm_exp.forget.names import COMPARED
from dmm_exp.forget.rows import counted, distinct, read_rows
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
        label: name of the class, or its position from 0 if no name looks like a number (:func:`class_index`).
        fraction: share of the class.
        seed: of the draw of a part.
        position: of the class from 0, instead of its name; 0 if neither is given.
    """

    label: float | bool | str | None = None
    fraction: float = 1.0
    seed: int = 0
    position: int | None = None

    def select(self, examples: Examples, scores: pd.DataFrame | None = None) -> Tensor:
        """Return the sorted examples of the class."""
        place = 0 if self.label is None and self.position is None else self.position
        label = class_index(self.label, examples.class_names, "forget.label", place)
        candidates = (examples.labels[: examples.n_train] == label).nonzero().squeeze(1)
        if not 0 < self.fraction <= 1 or len(candidates) == 0:
            raise UserError(
                f"forget.fraction={self.fraction} of the {len(candidates)} examples of class "
                f"{examples.class_names[label]}: expected a fraction in (0, 1] of a class that has examples"
            )
        size = max(1, round(self.fraction * len(candidates)))
        order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(self.seed))
        return candidates[order[:size]].sort().values


@dataclass(frozen=True)
class SubClass(Selector):
    """A part of a class with similar inputs: one of its clusters (k-means).

    Attributes:
        label: name of the class, or its position from 0 if no name looks like a number (:func:`class_index`).
        cluster: number of the cluster; the largest is 0.
        clusters: number of clusters of the class.
        seed: of the clustering.
        position: of the class from 0, instead of its name; 0 if neither is given.
    """

    label: float | bool | str | None = None
    cluster: int = 0
    clusters: int = 3
    seed: int = 0
    position: int | None = None

    def select(self, examples: Examples, scores: pd.DataFrame | None = None) -> Tensor:
        """Return the sorted examples of the cluster."""
        from sklearn.cluster import KMeans

        members = OneClass(self.label, position=self.position).select(examples)
        if not 1 <= self.clusters <= len(members) or not 0 <= self.cluster < self.clusters:
            raise UserError(
                f"forget.cluster={self.cluster} of forget.clusters={self.clusters}: expected 1 to {len(members)} "
                "clusters, counted from 0"
            )
        inputs = examples.vectors(members).numpy()
        found = torch.from_numpy(KMeans(self.clusters, random_state=self.seed).fit_predict(inputs)).long()
        by_size = torch.bincount(found, minlength=self.clusters).argsort(descending=True, stable=True)
        return members[found == by_size[self.cluster]]


@dataclass(frozen=True)
class OneGroup(Selector):
    """All rows of one value of a column of the dataset, such as those of one user.

    Attributes:
        column: that the dataset groups its training rows by (``Examples.columns``).
        value: of the rows to forget, as it is written in the data; a number counts as its text.
    """

    column: str
    value: str | int

    def remark(self, rows: Rows, scores: pd.DataFrame | None = None) -> str:
        """Return where the rows were found."""
        return rows.read

    def select(self, examples: Examples, scores: pd.DataFrame | None = None) -> Tensor:
        """Return the sorted rows of the group."""
        values = group_values(examples.columns, self.column, "forget.column")
        chosen = [row for row, value in enumerate(values) if value == self._text]
        if not chosen:
            there = sorted(set(values))
            raise UserError(
                f"{self._key}: no training row has this value; expected one of the {len(there):,} of the column "
                f"'{self.column}' ({listed(there, 3)}){did_you_mean(self._text, there[:COMPARED])}"
            )
        return torch.tensor(chosen)

    def rows(self, examples: Examples, scores: pd.DataFrame | None = None) -> Rows:
        """Return the rows, with the group as their description."""
        rows = super().rows(examples)
        return replace(rows, read=f"{self.column}={shown(self._text)} ({counted(rows)})", key=self._key)

    @property
    def _text(self) -> str:
        return group_text(self.value)

    @property
    def _key(self) -> str:
        return f"forget.value={shown(self.value)}"


@dataclass(frozen=True)
class Mislabelled(Selector):
    """The examples with corrupted labels, or those of a planted class: the ones that were put in to be forgotten."""

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
    """Given training indices, with which one stage passes a forget set to another.

    Attributes:
        points: distinct training indices.
    """

    points: list[int]

    def select(self, examples: Examples, scores: pd.DataFrame | None = None) -> Tensor:
        """Return the sorted indices."""
        return distinct(self.points, examples.n_train, "forget.points")


@dataclass(frozen=True)
class Indices(Selector):
    """Training rows from a file, or as a list.

    Attributes:
        indices: a list of training indices, or a file of them, of true and false, or of names of training files:
            ``.txt``, ``.csv``, ``.tsv``, ``.json``, ``.npy`` or ``.parquet``.
        column: one of several columns of the file: its name, or its position from 0 if columns have no names.
        header: whether the first line of a text file names its columns; None if that is clear from the file.
    """

    indices: str | list[int]
    column: str | int | None = None
    header: bool | None = None

    def remark(self, rows: Rows, scores: pd.DataFrame | None = None) -> str:
        """Return where the rows were found."""
        return rows.read

    def select(self, examples: Examples, scores: pd.DataFrame | None = None) -> Tensor:
        """Return the sorted indices."""
        return self.rows(examples).indices

    def rows(self, examples: Examples, scores: pd.DataFrame | None = None) -> Rows:
        """Return the rows, with a description of what was read."""
        return read_rows(self.indices, examples, "forget.indices", column=self.column, header=self.header)
