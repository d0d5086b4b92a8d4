"""Forget sets of homogeneous entanglement (RUM: Zhao et al., NeurIPS 2024, arXiv 2406.01257)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import pandas as pd
import torch
from torch import Tensor

from dmm_exp.data import Examples
from dmm_exp.errors import UserError
from dmm_exp.forget.selector import Selector


@dataclass(frozen=True)
class Entangled(Selector):
    """One of the groups of training points by their distance from the centroid of features.

    The computed entanglement score, not the number of a group, decides which group is low, medium or high: the
    published numbers (3, 12 and 14 of 15) are valid for the authors' model only.

    Attributes:
        level: the group with the lowest, the median or the highest score; ``mix`` is a third of each.
        size: how many of the group's examples; None for all of them.
        seed: of the draw, if not all examples are taken.
        score: column of the table of scores.
    """

    level: Literal["low", "mid", "high", "mix"]
    size: int | None = None
    seed: int = 0
    score: str = "es"

    needs_scores: ClassVar[bool] = True

    def select(self, examples: Examples, scores: pd.DataFrame | None) -> Tensor:
        """Return the sorted examples."""
        assert scores is not None
        by_score = sorted(dict(zip(scores["es"], scores["es_group"], strict=True)).items())
        groups = {"low": by_score[0][1], "mid": by_score[len(by_score) // 2][1], "high": by_score[-1][1]}
        if self.level != "mix":
            return self._draw(self._members(scores, groups[self.level]), self.size).sort().values
        members = [self._members(scores, group) for group in groups.values()]
        size = self.size or min(map(len, members))
        sizes = [size - 2 * (size // 3), size // 3, size // 3]
        return torch.cat([self._draw(*pair) for pair in zip(members, sizes, strict=True)]).sort().values

    @staticmethod
    def _members(scores: pd.DataFrame, group: object) -> Tensor:
        return torch.tensor(scores.loc[scores["es_group"] == group, "point"].to_numpy(), dtype=torch.long)

    def _draw(self, members: Tensor, size: int | None) -> Tensor:
        wanted = len(members) if size is None else size
        if not 0 < wanted <= len(members):
            raise UserError(f"forget.size={self.size}: expected from 1 to {len(members)}, the size of a group")
        return members[torch.randperm(len(members), generator=torch.Generator().manual_seed(self.seed))[:wanted]]
