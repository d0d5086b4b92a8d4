"""Wrong labels that are introduced on purpose: the practical case for unlearning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dmm_exp.errors import UserError


@dataclass(frozen=True)
class LabelCorruption:
    """Give a random fraction of the training examples a wrong label.

    Attributes:
        fraction: share of the training set, in [0, 1).
        seed: of the choice of examples and of wrong labels.
    """

    fraction: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise UserError(f"dataset.corruption.fraction={self.fraction}: expected a fraction in [0, 1)")

    def __call__(self, labels: Tensor, n_train: int, n_classes: int) -> tuple[Tensor, Tensor]:
        """Return (labels, corrupted), both ``[points]``; a corrupted label is uniform over the other classes."""
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(n_train, generator=generator)[: round(self.fraction * n_train)]
        shift = torch.randint(1, n_classes, (len(chosen),), generator=generator)
        corrupted = torch.zeros(len(labels), dtype=torch.bool)
        corrupted[chosen] = True
        changed = labels.clone()
        changed[chosen] = (labels[chosen] + shift) % n_classes
        return changed, corrupted
