"""Forget sets of homogeneous memorization (RUM: Zhao et al., NeurIPS 2024, arXiv 2406.01257, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import pandas as pd
import torch
from torch import Tensor

from dmm_exp.data import Examples
from dmm_exp.errors import UserError
from dmm_exp.forget.selector import Selector, forget_size


@dataclass(frozen=True)
class Memorized(Selector):
    """The most, the medium or the least memorized examples, or a third of each.

    High is the top, low the bottom, and mid those nearest 0.5 among what the other two leave, so that groups of one
    size are disjoint on every dataset. Ties are broken by index (stable sort).

    Attributes:
        level: which group.
        size: how many; ``fraction`` of the training set when None.
        fraction: share of the training set.
        skip: leave out this many of the group's first choices; a disjoint group of the same kind, to search
            hyper-parameters on.
        score: column of the table of scores.
    """

    level: Literal["low", "mid", "high", "mix"]
    size: int | None = None
    fraction: float = 0.035
    skip: int = 0
    score: str = "memorization"

    needs_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.skip < 0:
            raise UserError(f"forget.skip={self.skip}: expected a whole number of at least 0")

    def check(self, examples: Examples) -> None:
        """Check the size before scores are computed."""
        size = forget_size(self.size, self.fraction, examples.n_train)
        largest = size - 2 * (size // 3) if self.level == "mix" else size
        memorization_groups(torch.zeros(examples.n_train), largest, self.skip)

    def select(self, examples: Examples, scores: pd.DataFrame | None) -> Tensor:
        """Return the sorted group."""
        if scores is None or self.score not in scores:
            known = [] if scores is None else [name for name in scores.columns if name != "point"]
            raise UserError(f"forget.score={self.score}: expected one of {', '.join(known)}")
        size = forget_size(self.size, self.fraction, examples.n_train)
        values = torch.from_numpy(scores[self.score].to_numpy(copy=True)).double()
        if unknown := int(values.isnan().sum()):
            raise UserError(f"forget.score={self.score}: {unknown} examples have none; expected a larger pool.size")
        if self.level == "mix":
            sizes = [size - 2 * (size // 3), size // 3, size // 3]
            groups = [
                memorization_groups(values, part, self.skip)[level] for part, level in zip(sizes, LEVELS, strict=True)
            ]
            chosen = torch.cat(groups).unique()
            if len(chosen) != size:
                raise UserError(f"forget.size={size}: the low, mid and high thirds overlap; ask for fewer examples")
            return chosen
        return memorization_groups(values, size, self.skip)[self.level]


LEVELS = ("low", "mid", "high")


def memorization_groups(values: Tensor, size: int, skip: int = 0) -> dict[str, Tensor]:
    """Return the disjoint groups ``low``, ``mid`` and ``high`` of ``size`` sorted indices each.

    Args:
        values: ``[n_train]`` scores.
        size: of each group.
        skip: number of first choices of every group to leave out.

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
    distance = (values - 0.5).abs()
    distance[torch.cat([low, high])] = torch.inf
    mid = distance.argsort(stable=True)[:taken]
    groups = {name: group[skip:].sort().values for name, group in zip(LEVELS, (low, mid, high), strict=True)}
    if len(torch.cat(list(groups.values())).unique()) != 3 * size:
        raise AssertionError("memorization groups overlap")
    return groups
