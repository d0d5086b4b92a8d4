"""Which points each member is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmm_exp.ensembles.seeds import member_generator


@dataclass(frozen=True)
class AllBut:
    """Every member is trained on the whole training set without some points (oracles), or on all of it (originals).

    Attributes:
        n_train: size of the training set.
        excluded: indices; empty for originals.
    """

    n_train: int
    excluded: Sequence[int] | Tensor

    def indices(self, members: range) -> Tensor:
        """Return sorted training indices ``[members, size]``."""
        kept = torch.ones(self.n_train, dtype=torch.bool)
        kept[torch.as_tensor(self.excluded, dtype=torch.long)] = False
        return kept.nonzero().squeeze(1).expand(len(members), -1)

    def identity(self) -> dict[str, object]:
        """Return what tells these subsets from others, in plain values."""
        return {"all_but": [int(index) for index in self.excluded]}


@dataclass(frozen=True)
class Only:
    """Every member is trained on the same range of points.

    Attributes:
        points: their indices.
    """

    points: range

    def indices(self, members: range) -> Tensor:
        """Return point indices ``[members, size]``."""
        return torch.arange(self.points.start, self.points.stop).expand(len(members), -1)

    def identity(self) -> dict[str, object]:
        """Return what tells these subsets from others, in plain values."""
        return {"only": [self.points.start, self.points.stop]}


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

    def identity(self) -> dict[str, object]:
        """Return what tells these subsets from others, beside the run's seed, in plain values."""
        return {"alpha": self.alpha, "complementary": self.complementary}

    def _member(self, index: int) -> Tensor:
        owner, half = (index - index % 2, index % 2) if self.complementary else (index, 0)
        order = torch.randperm(self.n_train, generator=member_generator(self.seed, "subset", owner, "subset"))
        return order[half * self.size : (half + 1) * self.size].sort().values


Subsets = AllBut | Only | RandomSubsets
