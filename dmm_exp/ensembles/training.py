"""Training from scratch: originals, oracles and the pool are all made here, by one recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmm_exp.ensembles.module import EnsembleModule
from dmm_exp.ensembles.trajectory import Trajectory


class EnsembleTraining(EnsembleModule):
    """Cross-entropy on each member's own subset of the training set.

    Args:
        subsets: ``[members, size]`` indices of the points that every member is trained on.
        trajectory: is told what members answer on the way.
        **recipe: ``epochs``, ``batch_size``, ``optimizer`` and ``schedule`` of :class:`EnsembleModule`.
    """

    def __init__(self, *, subsets: Tensor, trajectory: Trajectory | None = None, **recipe: Any) -> None:
        super().__init__(**recipe)
        self.subsets = subsets
        self.trajectory = trajectory

    def sample(self, row: int, generator: torch.Generator) -> Tensor:
        """Return the member's subset in a new order."""
        subset = self.subsets[row]
        return subset[torch.randperm(len(subset), generator=generator)]

    def predict_batch(self, indices: Tensor) -> Tensor:
        """Return the members' logits, as in every module; the trajectory takes note of them."""
        logits = super().predict_batch(indices)
        if self.trajectory is not None:
            self.trajectory.update(indices, logits.detach(), self.labels[indices])
        return logits

    def losses(self, indices: Tensor) -> Tensor:
        """Return the mean cross-entropy of every member."""
        return self.cross_entropy(indices)
