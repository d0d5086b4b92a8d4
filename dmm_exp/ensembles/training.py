"""Training from scratch: originals, oracles and the pool are all made here, by one recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmm_exp.ensembles.module import EnsembleModule


class EnsembleTraining(EnsembleModule):
    """Cross-entropy on each member's own subset of the training set.

    Args:
        subsets: ``[members, size]`` training indices of every member.
        **recipe: ``epochs``, ``batch_size``, ``optimizer`` and ``schedule`` of :class:`EnsembleModule`.
    """

    def __init__(self, *, subsets: Tensor, **recipe: Any) -> None:
        super().__init__(**recipe)
        self.subsets = subsets

    def sample(self, row: int, generator: torch.Generator) -> Tensor:
        """Return the member's subset in a new order."""
        subset = self.subsets[row]
        return subset[torch.randperm(len(subset), generator=generator)]

    def losses(self, indices: Tensor) -> Tensor:
        """Return the mean cross-entropy of every member."""
        return self.cross_entropy(indices)
