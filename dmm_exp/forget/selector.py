"""Selectors of forget sets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import pandas as pd
from torch import Tensor

from dmm_exp.data import Examples, Rows
from dmm_exp.errors import UserError
from dmm_exp.forget.rows import described


class Selector(ABC):
    """Chooses the forget set.

    Attributes:
        needs_scores: whether :meth:`select` needs the table of scores.
        score: column of the table of scores that is used, if any.
    """

    needs_scores: ClassVar[bool] = False
    score: str = ""

    def check(self, examples: Examples) -> None:
        """Raise ``UserError`` when the dataset alone, without scores, shows that there is no such forget set."""
        if not self.needs_scores:
            self.select(examples, None)

    @abstractmethod
    def select(self, examples: Examples, scores: pd.DataFrame | None) -> Tensor:
        """Return the sorted training indices of the forget set.

        Args:
            examples: the dataset.
            scores: one row for each training point, when ``needs_scores``.

        Raises:
            UserError: no such forget set exists on this dataset.
        """

    def rows(self, examples: Examples, scores: pd.DataFrame | None = None) -> Rows:
        """Return the chosen rows, checked; arguments are those of :meth:`select`.

        Raises:
            UserError: as :meth:`select` does, or nothing would be forgotten, or nothing retained.
        """
        chosen, name = self.select(examples, scores), type(self).__name__
        if not 0 < len(chosen) < examples.n_train:
            raise UserError(
                f"forget: {name} chose {len(chosen)} of {examples.n_train} training examples; expected at least one "
                "example to forget and at least one to retain"
            )
        return Rows(chosen, examples.n_train, f"{described(chosen.tolist())} chosen by {name}")

    def remark(self, rows: Rows, scores: pd.DataFrame | None = None) -> str:
        """Return what a person should know of the chosen rows beside their number; an empty text if nothing."""
        return ""


def forget_size(size: int | None, fraction: float, n_train: int) -> int:
    """Return the number of examples asked for: ``size``, or a fraction of the training set when it is None.

    Raises:
        UserError: nothing would be forgotten, or nothing retained.
    """
    wanted = size if size is not None else round(fraction * n_train)
    if not 0 < wanted < n_train:
        asked = f"forget.size={size}" if size is not None else f"forget.fraction={fraction}"
        raise UserError(f"{asked}: expected from 1 to {n_train - 1} of the {n_train} training examples")
    return wanted
