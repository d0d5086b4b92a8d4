"""Fine-tuning on the labels there are: ascent on what must go, descent on what stays, and both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmm_exp.errors import UserError
from dmm_exp.unlearners.unlearner import FineTuning, mean_where, own_rows, shuffled


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


class L1Sparse(Finetune):
    """Descend on the retain set under a penalty that drives weights to zero: ``CE_R + γ_t·‖θ‖₁``.

    ``γ_t`` falls linearly from ``penalty`` to 0 over the whole run (Jia et al., "Model Sparsity Can Simplify Machine
    Unlearning", NeurIPS 2023, arXiv 2304.04934).

    Args:
        penalty: γ at the first step.
        **optimisation: options of :class:`~dmm_exp.ensembles.EnsembleModule`.

    Raises:
        UserError: the penalty is negative.
    """

    def __init__(self, *, penalty: float = 5e-4, **optimisation: Any) -> None:
        super().__init__(**optimisation)
        if penalty < 0:
            raise UserError(f"unlearner.penalty={penalty}: expected a number of at least 0")
        self.penalty = penalty

    @property
    def nests(self) -> bool:
        """No: the penalty's decay depends on the number of epochs."""
        return False

    def losses(self, indices: Tensor) -> Tensor:
        """Return the cross-entropy of every member, plus the absolute sum of its parameters times γ_t."""
        sizes = sum(value.abs().flatten(1).sum(1) for value in self.ensemble.parameters())
        return super().losses(indices) + self.penalty * (1 - self.elapsed / self.epochs) * sizes


class NegGradPlus(FineTuning):
    """Descend on the retain set and ascend on the forget set in every step: ``α·CE_R − (1−α)·CE_F``.

    An epoch goes over the retain set; each retain point is paired with a forget point, and the forget set is gone over
    again, in a new order, as often as need be (NegGrad+; Kurmanji et al., NeurIPS 2023, arXiv 2302.09880).

    Args:
        alpha: weight of the retain set in [0, 1]; 1 is fine-tuning, 0 is ascent.
        **optimisation: options of :class:`~dmm_exp.ensembles.EnsembleModule`; ``batch_size`` counts pairs.

    Raises:
        UserError: the weight is out of range.
    """

    def __init__(self, *, alpha: float = 0.95, **optimisation: Any) -> None:
        super().__init__(**optimisation)
        if not 0 <= alpha <= 1:
            raise UserError(f"unlearner.alpha={alpha}: expected a number in [0, 1]")
        self.alpha = alpha

    def sample(self, row: int, generator: torch.Generator) -> Tensor:
        """Return pairs of a retain and a forget point, ``[points, 2]``."""
        retain, forget = shuffled(self.task.retain, generator), self.task.forget
        rounds = -(-len(retain) // len(forget))
        cycled = torch.cat([shuffled(forget, generator) for _ in range(rounds)])[: len(retain)]
        return torch.stack([retain, cycled], dim=1)

    def losses(self, indices: Tensor) -> Tensor:
        """Return the weighted difference of the two cross-entropies of every member."""
        values = self.cross_entropies(indices.flatten(1)).view(indices.shape)
        retain, forget = values.mean(1).unbind(-1)
        return self.alpha * retain - (1 - self.alpha) * forget


class AscentDescent(FineTuning):
    """Epochs of ascent on the forget set, each followed by an epoch of descent on the retain set (GDA).

    Args:
        ascent_epochs: how many of the first epochs begin with a pass of ascent.
        forget_batch_size: batch of these passes.
        **optimisation: options of :class:`~dmm_exp.ensembles.EnsembleModule`; ``epochs`` and ``batch_size`` are
            those of the descent.

    Raises:
        UserError: a number is out of range.
    """

    def __init__(self, *, ascent_epochs: int = 3, forget_batch_size: int = 64, **optimisation: Any) -> None:
        super().__init__(**optimisation)
        if ascent_epochs < 0 or forget_batch_size < 1:
            raise UserError(
                f"unlearner.ascent_epochs={ascent_epochs}, unlearner.forget_batch_size={forget_batch_size}: expected "
                "at least 0, and at least 1"
            )
        self.ascent_epochs = ascent_epochs
        self.forget_batch_size = forget_batch_size

    def passes(self, epoch: int, row: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
        """Return a pass over the forget set, in the first epochs, and one over the retain set."""
        ascent = [(shuffled(self.task.forget, generator), self.forget_batch_size)]
        return ascent * (epoch < self.ascent_epochs) + super().passes(epoch, row, generator)

    def sample(self, row: int, generator: torch.Generator) -> Tensor:
        """Return the retain set in a new order."""
        return shuffled(self.task.retain, generator)

    def losses(self, indices: Tensor) -> Tensor:
        """Return the cross-entropy of every member, negative on forget points."""
        values, forgotten = self.cross_entropies(indices), own_rows(self.forgotten, indices)
        return mean_where(values, ~forgotten) - mean_where(values, forgotten)
