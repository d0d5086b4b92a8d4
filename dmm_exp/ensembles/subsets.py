"""The points that each member is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from dmm_exp.ensembles.seeds import Role, member_generator
from dmm_exp.store import Artifact


@dataclass(frozen=True)
class AllBut:
    """Every member is trained on the whole training set without some points (oracles), or on all of it (originals).

    Attributes:
        n_train: size of the training set.
        excluded: indices; empty for originals.
    """

    n_train: int
    excluded: Sequence[int] | Tensor

    def indices(self, members: Sequence[int]) -> Tensor:
        """Return sorted training indices ``[members, size]``."""
        kept = torch.ones(self.n_train, dtype=torch.bool)
        kept[torch.as_tensor(self.excluded, dtype=torch.long)] = False
        return kept.nonzero().squeeze(1).expand(len(members), -1)

    def identity(self) -> dict[str, object]:
        """Return plain values that identify these subsets."""
        return {"all_but": [int(index) for index in self.excluded]}


@dataclass(frozen=True)
class Only:
    """Every member is trained on the same range of points.

    Attributes:
        points: their indices.
    """

    points: range

    def indices(self, members: Sequence[int]) -> Tensor:
        """Return point indices ``[members, size]``."""
        return torch.arange(self.points.start, self.points.stop).expand(len(members), -1)

    def identity(self) -> dict[str, object]:
        """Return plain values that identify these subsets."""
        return {"only": [self.points.start, self.points.stop]}


@dataclass(frozen=True)
class RandomSubsets:
    """Random α-subsets of the training set: the pool.

    Attributes:
        n_train: size of the training set.
        alpha: share of it that each member is trained on.
        seed: the run's seed.
        complementary: members come in blocks of k = 1/(1 − α), for whole k. A block cuts the training set into k random
            parts, and each of its members is trained without one of them: every example is left out equally often (for
            α = 0.5, the two members of a pair share no example). Where k does not divide the training set, the
            remainder is left out of the whole block.
        role: of the members; those of different roles have unrelated subsets.
    """

    n_train: int
    alpha: float
    seed: int
    complementary: bool
    role: Role = "subset"

    @property
    def block(self) -> int:
        """Number of consecutive members whose subsets depend on one another."""
        return round(1 / (1 - self.alpha)) if self.complementary else 1

    @property
    def size(self) -> int:
        """Number of points of each subset, the same for all members."""
        if self.complementary:
            return self.n_train // self.block * (self.block - 1)
        return max(1, round(self.alpha * self.n_train))

    def indices(self, members: Sequence[int]) -> Tensor:
        """Return sorted training indices ``[members, size]``."""
        return torch.stack([self._member(index) for index in members])

    def masks(self, members: Sequence[int]) -> Tensor:
        """Return the inclusion masks ``[members, n_train]`` bool."""
        masks = torch.zeros(len(members), self.n_train, dtype=torch.bool)
        return masks.scatter_(1, self.indices(members), True)

    def identity(self) -> dict[str, object]:
        """Return plain values that, with the run's seed, identify these subsets."""
        return {"alpha": self.alpha, "complementary": self.complementary}

    def _member(self, index: int) -> Tensor:
        place = index % self.block
        generator = member_generator(self.seed, self.role, index - place, "subset")
        order = torch.randperm(self.n_train, generator=generator)
        if not self.complementary:
            return order[: self.size].sort().values
        parts = order[: self.n_train // self.block * self.block].view(self.block, -1)
        return parts.roll(-place, 0)[:-1].flatten().sort().values


@dataclass(frozen=True)
class Designed:
    """Subsets that a design chose and an artifact holds; their sizes may differ.

    Attributes:
        path: folder of the artifact, with the masks ``[members, n_train]`` bool.
    """

    path: Path

    def indices(self, members: Sequence[int]) -> Tensor:
        """Return sorted training indices ``[members, size]`` of members whose subsets have one size."""
        return torch.stack([mask.nonzero().squeeze(1) for mask in self.masks(members)])

    def masks(self, members: Sequence[int]) -> Tensor:
        """Return the inclusion masks ``[members, n_train]`` bool."""
        return self._all[list(members)]

    def identity(self) -> dict[str, object]:
        """Return what tells these subsets from others: nothing here, the artifact is an input of the ensemble."""
        return {}

    def of_one_size(self, members: Sequence[int]) -> list[list[int]]:
        """Cut members into those whose subsets have one size, which can be trained together."""
        by_size: dict[int, list[int]] = {}
        for member, size in zip(members, self.masks(members).sum(1).tolist(), strict=True):
            by_size.setdefault(size, []).append(member)
        return list(by_size.values())

    @cached_property
    def _all(self) -> Tensor:
        return Artifact(self.path, self.path.name, cached=True).tensors("masks")["masks"]


Subsets = AllBut | Only | RandomSubsets | Designed
