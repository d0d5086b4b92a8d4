"""Which training points each member is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dmm_exp.ensembles.seeds import member_generator


@dataclass(frozen=True)
class AllBut:
    """Every member is trained on the whole training set without some points (oracles), or on all of it (originals).

    Attributes:
        n_train: size of the training set.
        excluded: ``[excluded]`` indices; empty for originals.
    """

    n_train: int
    excluded: Tensor

    def indices(self, members: range) -> Tensor:
        """Return sorted training indices ``[members, size]``."""
        kept = torch.ones(self.n_train, dtype=torch.bool)
        kept[self.excluded] = False
        return kept.nonzero().squeeze(1).expand(len(members), -1)


@dataclass(frozen=True)
class RandomSubsets:
    """Random α-subsets of the training set: the pool.

    Attributes:
        n_train: size of the training set.
        alpha: share of it that each member is trained on.
        seed: the run's seed.
        complementary: members 2k and 2k+1 share no point, so that every example is in and out equally often. When
            the training set is odd, one random point is left out of both.
    """

    n_train: int
    alpha: float
    seed: int
    complementary: bool

    @property
    def size(self) -> int:
        """Number of points of each subset, the same for all members."""
        return self.n_train // 2 if self.complementary else max(1, round(self.alpha * self.n_train))

    def indices(self, members: range) -> Tensor:
        """Return sorted training indices ``[members, size]``."""
        return torch.stack([self._member(index) for index in members])

    def masks(self, members: range) -> Tensor:
        """Return the inclusion masks ``[members, n_train]`` bool."""
        masks = torch.zeros(len(members), self.n_train, dtype=torch.bool)
        return masks.scatter_(1, self.indices(members), True)

    def _member(self, index: int) -> Tensor:
        owner, half = (index - index % 2, index % 2) if self.complementary else (index, 0)
        order = torch.randperm(self.n_train, generator=member_generator(self.seed, "subset", owner, "subset"))
        return order[half * self.size : (half + 1) * self.size].sort().values
