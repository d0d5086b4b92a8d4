"""Fine-tuning baselines: ascent on what must go, descent on what stays."""

from __future__ import annotations

import torch
from torch import Tensor

from dmm_exp.unlearners.unlearner import FineTuning, shuffled


class GradientAscent(FineTuning):
    """Maximise the cross-entropy on the forget set (NegGrad; Golatkar et al., CVPR 2020)."""

    def sample(self, row: int, generator: torch.Generator) -> Tensor:
        """Return the forget set in a new order."""
        return shuffled(self.task.forget, generator)

    def losses(self, indices: Tensor) -> Tensor:
        """Return the negative cross-entropy of every member."""
        return -self.cross_entropy(indices)


class Finetune(FineTuning):
    """Go on training on the retain set alone (gradient descent, GD), in the hope that the rest is forgotten."""

    def sample(self, row: int, generator: torch.Generator) -> Tensor:
        """Return the retain set in a new order."""
        return shuffled(self.task.retain, generator)

    def losses(self, indices: Tensor) -> Tensor:
        """Return the cross-entropy of every member."""
        return self.cross_entropy(indices)
