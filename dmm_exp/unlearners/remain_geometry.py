"""Ascent on the forget set in few, salient weights, between steps of descent that bring the retain set back."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dmm_exp.errors import UserError
from dmm_exp.unlearners.dampening import squared_gradients
from dmm_exp.unlearners.unlearner import FineTuning, Fit, UnlearningTask, cycled, own_rows, shuffled


class SFRon(FineTuning):
    """Saliency forgetting in the remain-preserving manifold, online (SFR-on).

    A step of ascent on a batch of the forget set alternates with ``forget_every`` steps of descent on the retain set,
    which stand for the Hessian of the retain set (fast and slow updates). Ascent maximises ``α_t·Σ_i c_i·CE_i`` with
    ``c_i ∝ CE_i^−λ``, which spares examples that are forgotten already, and moves only weights whose Fisher importance
    to the forget set is at least ``threshold`` times that to the retain set. ``α_t`` falls like half a cosine from
    ``ascent`` to 0 over the whole run (Huang et al., "Unified Gradient-Based Machine Unlearning with Remain Geometry
    Enhancement", NeurIPS 2024, arXiv 2409.19732; schedule and order of steps as in the authors' code, whose slow step
    is a whole one). Importances are means of squared gradients of single examples at the original.

    Args:
        ascent: α, weight of the ascent at the beginning.
        focus: λ; 0 weighs all examples alike.
        threshold: γ; 0 lets all weights move.
        forget_every: number of batches of the retain set that follow a batch of the forget set.
        forget_batch_size: of the forget set's batches; the set is repeated, each time in a new order.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`; an epoch is a pass over the retain set.

    Raises:
        UserError: a number is out of range.
    """

    def __init__(
        self,
        *,
        ascent: float = 25.0,
        focus: float = 0.5,
        threshold: float = 1.0,
        forget_every: int = 5,
        forget_batch_size: int = 64,
        **optimisation: Any,
    ) -> None:
        super().__init__(**optimisation)
        if min(ascent, focus, threshold) < 0 or min(forget_every, forget_batch_size) < 1:
            raise UserError(
                f"unlearner.ascent={ascent}, focus={focus}, threshold={threshold}, forget_every={forget_every}, "
                f"forget_batch_size={forget_batch_size}: expected at least 0, 0, 0, 1 and 1"
            )
        self.ascent, self.focus, self.threshold = ascent, focus, threshold
        self.forget_every, self.forget_batch_size = forget_every, forget_batch_size

    @property
    def nests(self) -> bool:
        """No: the ascent's decay depends on the number of epochs."""
        return False

    def prepare(self, fit: Fit) -> dict[str, Tensor]:
        """Choose the weights that ascent may move, by name."""
        fit.sample_gradients += fit.task.n_train
        salient = [self._salient(fit, row) for row in range(len(fit.members))]
        return {name: torch.stack([member[name] for member in salient]) for name in salient[0]}

    def _salient(self, fit: Fit, row: int) -> dict[str, Tensor]:
        task, originals = fit.task.of(row), fit.task.originals
        forget, retain = (
            squared_gradients(originals, row, task.examples, points, "unlearner=sfron")
            for points in (task.forget, task.retain)
        )
        return {
            name: value / task.n_forget >= self.threshold * retain[name] / task.n_retain
            for name, value in forget.items()
        }

    def passes(self, task: UnlearningTask, epoch: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
        """Return batches of the forget set, each followed by some of the retain set."""
        batch_size = self.optimisation.batch_size
        descents = shuffled(task.retain, generator).split(self.forget_every * batch_size)
        size = min(self.forget_batch_size, len(task.forget))
        ascents = cycled(task.forget, size * len(descents), generator).split(size)
        pairs = zip(ascents, descents, strict=True)
        return [part for ascent, descent in pairs for part in ((ascent, size), (descent, batch_size))]

    def losses(self, fit: Fit, indices: Tensor) -> Tensor:
        """Return every member's loss: weighted and negative on forget points, the cross-entropy on retain points."""
        values = fit.cross_entropies(indices)
        weights = 1 / (values.detach() ** self.focus + 1e-15)
        left = torch.as_tensor(fit.elapsed) * (math.pi / fit.epochs)
        ascent = self.ascent * (1 + left.cos()) / 2 * (weights * values).sum(1) / weights.sum(1)
        return torch.where(self._of_the_forget_set(fit, indices), -ascent, values.mean(1))

    def before_step(self, fit: Fit, indices: Tensor) -> None:
        """Let ascent move the salient weights only."""
        descending = ~self._of_the_forget_set(fit, indices)
        for name, value in fit.ensemble.params.items():
            if value.grad is not None:
                value.grad.mul_(fit.kept[name] | descending.view(-1, *[1] * (value.ndim - 1)))

    def _of_the_forget_set(self, fit: Fit, indices: Tensor) -> Tensor:
        """Return whether each member's batch is of its forget set ``[members]``; no batch holds points of both."""
        return own_rows(fit.forgotten, indices)[:, 0]
