"""What is known of the data when a pool is designed; nothing of it depends on a forget set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from dmm_exp.data import Words, group_values, vectors
from dmm_exp.errors import UserError, did_you_mean, listed

ALIKE = ("answers", "inputs")


@dataclass(frozen=True)
class Known:
    """What designs look at, and what tells which points are alike.

    Attributes:
        n_train: number of training rows, the first points.
        labels: ``[points]``.
        memorization: of the training rows by models on random halves, ``[n_train]``, within [0, 1].
        answers: margins in models on random halves, the effect of a row's own inclusion taken out,
            ``[points, models]``.
        inputs: ``[points, ...]``.
        columns: name → value of every training row, for datasets that say from whom or where a row is.
        words: what inputs are numbers of, where they are texts.
    """

    n_train: int
    labels: Tensor
    memorization: Tensor
    answers: Tensor
    inputs: Tensor
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    words: Words | None = None

    @cached_property
    def classes(self) -> list[Tensor]:
        """Training rows of every class that has any."""
        return rows_of_classes(self.labels[: self.n_train])

    def representation(self, alike: str) -> Tensor:
        """Return what says which points are alike, ``[points, width]``: rows of unit length.

        Their products are correlations of answers over models, or of inputs within classes.

        Raises:
            UserError: there is no such representation.
        """
        if alike not in ALIKE:
            raise UserError(f"alike={alike}: expected {listed(ALIKE)}{did_you_mean(alike, ALIKE)}")
        return self._answers if alike == "answers" else self._inputs

    @cached_property
    def _answers(self) -> Tensor:
        return _unit_rows(self.answers - self.answers.mean(1, keepdim=True))

    @cached_property
    def _inputs(self) -> Tensor:
        inputs = vectors(self.inputs, self.words).clone()  # never the data themselves, which flat ones would be
        for rows in self.classes:
            inputs[self.labels == self.labels[rows[0]]] -= inputs[rows].mean(0)
        return _unit_rows(inputs)

    def values(self, column: str) -> Sequence[str]:
        """Return the value of every training row in a column of the dataset.

        Raises:
            UserError: the dataset has no such column.
        """
        return group_values(self.columns, column, "column")


def rows_of_classes(labels: Tensor) -> list[Tensor]:
    """Return the rows of every class that has any, from labels ``[rows]``, in the order of classes."""
    return [(labels == label).nonzero().squeeze(1) for label in labels.unique().tolist()]


def answers_alike(margins: Tensor, masks: Tensor) -> Tensor:
    """Return margins of points less what a training row's own inclusion does to them, ``[points, models]``.

    Args:
        margins: ``[models, points]``.
        masks: which rows each model was trained on, ``[models, n_train]`` bool.
    """
    inside, n_train = masks.float(), masks.shape[1]
    trained = margins[:, :n_train]
    means_inside = (trained * inside).sum(0) / inside.sum(0).clamp(min=1)
    means_outside = (trained * (1 - inside)).sum(0) / (1 - inside).sum(0).clamp(min=1)
    answers = margins.clone()
    answers[:, :n_train] -= torch.where(masks, means_inside, means_outside)
    return answers.T.contiguous()


def _unit_rows(values: Tensor) -> Tensor:
    return values / values.norm(dim=1, keepdim=True).clamp(min=1e-12)
