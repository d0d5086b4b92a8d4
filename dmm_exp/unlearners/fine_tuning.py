"""Fine-tuning on the true labels: ascent on the forget set, descent on the retain set, and both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmm_exp.errors import UserError
from dmm_exp.unlearners.unlearner import (
    FineTuning,
    Fit,
    UnlearningTask,
    cycled,
    descent,
    mean_where,
    own_rows,
    shuffled,
)


class GradientAscent(FineTuning):
    """Maximise the cross-entropy on the forget set (NegGrad; Golatkar et al., CVPR 2020)."""

    def sample(self, task: UnlearningTask, generator: torch.Generator) -> Tensor:
        """Return the forget set in a new order."""
        return shuffled(task.forget, generator)

    def losses(self, fit: Fit, indices: Tensor) -> Tensor:
        """Return the negative cross-entropy of every member."""
        return -fit.cross_entropy(indices)


class Finetune(FineTuning):
    """Continue training on the retain set alone (gradient descent, GD), so that the rest may be forgotten."""

    losses = descent


class L1Sparse(FineTuning):
    """Descend on the retain set under a penalty that drives weights to zero: ``CE_R + γ_t·‖θ‖₁``.

    ``γ_t`` falls linearly from ``penalty`` to 0 over the whole run (Jia et al., "Model Sparsity Can Simplify Machine
    Unlearning", NeurIPS 2023, arXiv 2304.04934).

    Args:
        penalty: γ at the first step.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`.

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

    def losses(self, fit: Fit, indices: Tensor) -> Tensor:
        """Return the cross-entropy of every member, plus the absolute sum of its parameters times γ_t."""
        sizes = sum(value.abs().flatten(1).sum(1) for value in fit.ensemble.parameters())
        return fit.cross_entropy(indices) + self.penalty * (1 - fit.elapsed / fit.epochs) * sizes


class NegGradPlus(FineTuning):
    """Descend on the retain set and ascend on the forget set in every step: ``α·CE_R − (1−α)·CE_F``.

    An epoch is a pass over the retain set. Each retain point is paired with a forget point; the forget set is repeated,
    each time in a new order, as often as needed (NegGrad+; Kurmanji et al., NeurIPS 2023, arXiv 2302.09880).

    Args:
        alpha: weight of the retain set in [0, 1]; 1 is fine-tuning, 0 is ascent.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`; ``batch_size`` counts pairs.

    Raises:
        UserError: the weight is out of range.
    """

    def __init__(self, *, alpha: float = 0.95, **optimisation: Any) -> None:
        super().__init__(**optimisation)
        if not 0 <= alpha <= 1:
            raise UserError(f"unlearner.alpha={alpha}: expected a number in [0, 1]")
        self.alpha = alpha

    def sample(self, task: UnlearningTask, generator: torch.Generator) -> Tensor:
        """Return pairs of a retain and a forget point, ``[points, 2]``."""
        retain = shuffled(task.retain, generator)
        return torch.stack([retain, cycled(task.forget, len(retain), generator)], dim=1)

    def losses(self, fit: Fit, indices: Tensor) -> Tensor:
        """Return the weighted difference of the two cross-entropies of every member."""
        values = fit.cross_entropies(indices.flatten(1)).view(indices.shape)
        retain, forget = values.mean(1).unbind(-1)
        return self.alpha * retain - (1 - self.alpha) * forget


@dataclass(frozen=True)
class Ascent:
    """Passes of ascent over the forget set at the beginning of the first epochs.

    Attributes:
        epochs: number of epochs with such a pass.
        batch_size: of these passes.

    Raises:
        UserError: a number is out of range.
    """

    epochs: int
    batch_size: int

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1:
            raise UserError(
                f"unlearner.ascent_epochs={self.epochs}, unlearner.forget_batch_size={self.batch_size}: expected "
                "at least 0, and at least 1"
            )

    def passes(self, task: UnlearningTask, epoch: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
        """Return the pass of an epoch, if it has one; the random order is drawn in any case."""
        return [(shuffled(task.forget, generator), self.batch_size)] * (epoch < self.epochs)


class AscentDescent(FineTuning):
    """Epochs of ascent on the forget set, each followed by an epoch of descent on the retain set (GDA).

    Args:
        ascent_epochs: how many of the first epochs begin with a pass of ascent.
        forget_batch_size: batch of these passes.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`; ``epochs`` and ``batch_size`` are those of
            the descent.

    Raises:
        UserError: a number is out of range.
    """

    def __init__(self, *, ascent_epochs: int = 3, forget_batch_size: int = 64, **optimisation: Any) -> None:
        super().__init__(**optimisation)
        self.ascent = Ascent(ascent_epochs, forget_batch_size)

    def passes(self, task: UnlearningTask, epoch: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
        """Return a pass over the forget set, in the first epochs, and one over the retain set."""
        return self.ascent.passes(task, epoch, generator) + super().passes(task, epoch, generator)

    def losses(self, fit: Fit, indices: Tensor) -> Tensor:
        """Return the cross-entropy of every member, negative on forget points."""
        values, forgotten = fit.cross_entropies(indices), own_rows(fit.forgotten, indices)
        return mean_where(values, ~forgotten) - mean_where(values, forgotten)
