"""Forget sets that are homogeneous in a score (RUM: Zhao et al., NeurIPS 2024, arXiv 2406.01257)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dmm_exp.data import Examples, Rows
from dmm_exp.errors import UserError
from dmm_exp.forget.selector import Selector, forget_size
from dmm_exp.scores import hardness


@dataclass(frozen=True)
class Memorized(Selector):
    """The most, the medium or the least memorized examples (or by another score), or a third of each.

    High are the largest scores, low the smallest, and mid the scores nearest to the middle among the remaining
    examples, so that the groups are always disjoint; the middle is 0.5 for memorization and the median for other
    scores. A score that is high for easy examples is negated. Equal scores are ordered by index (stable sort).

    Attributes:
        level: which group; ``both`` is half of high and half of low.
        size: how many; ``fraction`` of the training set when None.
        fraction: share of the training set.
        skip: number of the group's first examples to leave out; this gives a disjoint group of the same kind, on which
            hyper-parameters can be searched.
        score: column of the table of scores.
    """

    level: Literal["low", "mid", "high", "mix", "both"]
    size: int | None = None
    fraction: float = 0.035
    skip: int = 0
    score: str = "memorization"

    needs_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.skip < 0:
            raise UserError(f"forget.skip={self.skip}: expected a whole number of at least 0")

    def check(self, examples: Examples) -> None:
        """Check the size before any score is computed."""
        size = forget_size(self.size, self.fraction, examples.n_train)
        memorization_groups(torch.zeros(examples.n_train), max(self._sizes(size).values()), self.skip)

    def select(self, examples: Examples, scores: pd.DataFrame | None) -> Tensor:
        """Return the sorted group."""
        assert scores is not None
        size = forget_size(self.size, self.fraction, examples.n_train)
        values = torch.from_numpy(hardness(scores, self.score, "forget.score"))
        middle = 0.5 if self.score.startswith("memorization") else float(values.median())
        sizes = self._sizes(size)
        groups = (memorization_groups(values, part, self.skip, middle)[level] for level, part in sizes.items())
        chosen = torch.cat(list(groups)).unique()
        if len(chosen) != size:
            raise UserError(
                f"forget.size={size}: the parts of forget.level={self.level} overlap; ask for fewer examples"
            )
        return chosen

    def remark(self, rows: Rows, scores: pd.DataFrame | None = None) -> str:
        """Return which scores the rows have, and a warning where "high" is not what RUM calls so."""
        assert scores is not None
        values = scores[self.score].to_numpy(dtype=np.float64)[rows.indices.numpy()]
        middle = float(np.median(values))
        text = f"{self.score} {float(values.min()):.2f} to {float(values.max()):.2f}, median {middle:.2f}"
        if self.level == "high" and self.score == "memorization" and middle < HIGH:
            return f"{text} (RUM calls high what lies above {HIGH}; this data has too few such examples)"
        return text

    def _sizes(self, size: int) -> dict[str, int]:
        """Return the number of examples of each group."""
        if self.level == "mix":
            return {"low": size - 2 * (size // 3), "mid": size // 3, "high": size // 3}
        if self.level == "both":
            return {"low": size // 2, "high": size - size // 2} if size > 1 else {"high": 1}
        return {self.level: size}


LEVELS = ("low", "mid", "high")
HIGH = 0.8  # memorization from which RUM (arXiv 2406.01257) calls an example highly memorized


def memorization_groups(values: Tensor, size: int, skip: int = 0, middle: float = 0.5) -> dict[str, Tensor]:
    """Return the disjoint groups ``low``, ``mid`` and ``high`` of ``size`` sorted indices each.

    Args:
        values: ``[n_train]`` scores.
        size: of each group.
        skip: number of first examples of every group to leave out.
        middle: the value around which the medium group lies.

    Raises:
        UserError: the training set is too small for three such groups.
    """
    taken = size + skip
    if 3 * taken > len(values):
        raise UserError(
            f"forget.size={size}, forget.skip={skip}: three disjoint groups need {3 * taken} training examples, there "
            f"are {len(values)}"
        )
    order = values.argsort(stable=True)
    low, high = order[:taken], order[len(order) - taken :].flip(0)
    distance = (values - middle).abs()
    distance[torch.cat([low, high])] = torch.inf
    mid = distance.argsort(stable=True)[:taken]
    groups = {name: group[skip:].sort().values for name, group in zip(LEVELS, (low, mid, high), strict=True)}
    if len(torch.cat(list(groups.values())).unique()) != 3 * size:
        raise AssertionError("memorization groups overlap")
    return groups
