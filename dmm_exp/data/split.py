"""The split of examples into training points and unseen points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from dmm_exp.errors import UserError

TRAIN, TEST = "train", "test"
Chosen = tuple[str, np.ndarray]  # a part of the files, and the numbers of the examples to take from it


@dataclass(frozen=True)
class Split:
    """Training, validation and test examples; a run has one set of unseen points, one of the last two.

    Examples are set aside with the same proportion of every class (stratified), at least one example of every class is
    left where that is possible, and the choice depends on ``seed`` alone, not on the run's seed. RUM's split of CIFAR
    (arXiv 2406.01257), 45,000 / 5,000 / 10,000, is ``validation=5000``: settings are searched with
    ``unseen=validation`` and reported with ``unseen=test``.

    Attributes:
        validation: training examples to set aside: a number, or a share in (0, 1); 0 for none.
        test: the same for a test part; only used where the files have no test part.
        unseen: which of the two parts is the run's unseen points; the other part is not used.
        seed: of the choice.
    """

    validation: float = 0
    test: float = 0
    unseen: Literal["test", "validation"] = "test"
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("validation", "test"):
            value = getattr(self, key)
            if not (value >= 0 and (value < 1 or value == int(value))):
                raise UserError(
                    f"dataset.split.{key}={value}: expected 0 for none, a share in (0, 1), or a number of examples"
                )
        if self.unseen not in ("test", "validation"):
            raise UserError(f"dataset.split.unseen={self.unseen}: expected test or validation")
        if self.unseen == "validation" and not self.validation:
            raise UserError(
                "dataset.split.unseen=validation: no examples are set aside; give dataset.split.validation, a number "
                "of training examples or a share"
            )

    def __call__(self, labels: Mapping[str, np.ndarray]) -> tuple[Chosen, Chosen]:
        """Return the rows of training points and of unseen points, each in the order of the files.

        Args:
            labels: of the parts that the files have: ``train`` and perhaps ``test``, ``[examples]`` each.

        Raises:
            UserError: there is no test part, or there are fewer examples than asked for.
        """
        train, test = np.arange(len(labels[TRAIN])), None
        if TEST not in labels and self.test:
            train, test = self._set_aside(train, labels[TRAIN], "test")
        if self.validation:
            train, validation = self._set_aside(train, labels[TRAIN], "validation")
            if self.unseen == "validation":
                return (TRAIN, train), (TRAIN, validation)
        if test is not None:
            return (TRAIN, train), (TRAIN, test)
        if TEST not in labels:
            raise UserError(
                "dataset.split.unseen=test: the files have no test part; set some of their examples aside with "
                "dataset.split.test=0.2"
            )
        return (TRAIN, train), (TEST, np.arange(len(labels[TEST])))

    def _set_aside(self, rows: np.ndarray, labels: np.ndarray, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (rows that stay, rows set aside)."""
        value = getattr(self, key)
        size = round(value * len(rows)) if value < 1 else int(value)
        if not 0 < size < len(rows):
            raise UserError(
                f"dataset.split.{key}={value}: of {len(rows)} examples expected 1 to {len(rows) - 1} to be set aside"
            )
        aside = stratified(labels[rows], size, self.seed)
        return np.delete(rows, aside), rows[aside]


def stratified(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return ``size`` random rows with the classes' proportions (to within one row each), sorted ``[size]``.

    At least one row of every class is left where ``size`` allows that; other classes then give one row more.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).numpy()
    classes, counts = np.unique(labels, return_counts=True)
    shares = counts * size / len(labels)
    quota = np.floor(shares).astype(int)
    largest_remainders = np.argsort(quota - shares, kind="stable")[: size - quota.sum()]
    quota[largest_remainders] += 1
    if size <= (counts - 1).sum():
        quota = _leaving_one(quota, shares, counts)
    drawn = [order[labels[order] == label][:number] for label, number in zip(classes, quota, strict=True)]
    return np.sort(np.concatenate(drawn))


def _leaving_one(quota: np.ndarray, shares: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the number of rows to draw of every class, with the same total, so that one row of each class is left."""
    quota = np.minimum(quota, counts - 1)
    while (more := round(shares.sum()) - quota.sum()) > 0:
        room = np.flatnonzero(quota < counts - 1)
        quota[room[np.argsort((quota - shares)[room], kind="stable")[:more]]] += 1
    return quota
