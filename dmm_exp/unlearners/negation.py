"""Negation: learn the forget set more than before, in several ways, and take the opposite of what they agree on."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dmm_exp.ensembles.schedules import Schedule
from dmm_exp.errors import UserError
from dmm_exp.unlearners.unlearner import FineTuning, Fit, UnlearningResult, UnlearningTask, descent, shuffled


@dataclass(frozen=True)
class Scaled:
    """A schedule of the learning rate, times a factor."""

    schedule: Schedule | None
    factor: float
    nests: bool

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the multiplier."""
        return self.factor * (1.0 if self.schedule is None else self.schedule(epoch, epochs))


class NegMerge(FineTuning):
    """Subtract what fine-tuning on the forget set changes, where several learning rates agree on its sign.

    For each factor in ``rates`` the originals are fine-tuned on the forget set; ``τ_k`` is how parameters change. The
    result is ``θ0 − strength·τ``, with ``τ`` the mean of all ``τ_k`` where they have the same sign and 0 elsewhere
    (Kim, Han and Choe, "NegMerge: Sign-Consensual Weight Merging for Machine Unlearning", ICML 2025, arXiv 2410.05583).
    BatchNorm keeps the original's running statistics.

    Args:
        strength: λ, how much is subtracted.
        rates: factors of the learning rate, one for each fine-tuned model.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`; an epoch is a pass over the forget set.

    Raises:
        UserError: there are fewer than two factors, or one is not above 0.
    """

    losses = descent

    def __init__(self, *, strength: float = 1.0, rates: Sequence[float] = (0.1, 0.3, 1.0), **optimisation: Any) -> None:
        super().__init__(**optimisation)
        if len(rates) < 2 or min(rates) <= 0:
            raise UserError(f"unlearner.rates={list(rates)}: expected at least two numbers above 0")
        self.strength, self.rates = strength, rates

    def sample(self, task: UnlearningTask, generator: torch.Generator) -> Tensor:
        """Return the forget set in a new order."""
        return shuffled(task.forget, generator)

    def unlearn(self, task: UnlearningTask) -> UnlearningResult:
        """Fine-tune copies of all members with each learning rate, and negate what they have in common."""
        results = [Fit(self._at(rate), task).result() for rate in self.rates]
        earlier = {
            epoch: self._negated(task, [one.checkpoints[epoch] for one in results]) for epoch in self.checkpoints
        }
        return replace(self._negated(task, results), checkpoints=earlier)

    def _at(self, rate: float) -> NegMerge:
        """Return the method with another learning rate."""
        other = copy(self)
        schedule = Scaled(self.optimisation.schedule, rate, self.nests)
        other.optimisation = replace(self.optimisation, schedule=schedule)
        return other

    @torch.no_grad()
    def _negated(self, task: UnlearningTask, results: list[UnlearningResult]) -> UnlearningResult:
        """Return the originals without what the results have in common."""
        ensemble = task.originals.copy()
        tuned = [one.ensemble.params for one in results if one.ensemble is not None]
        for name, value in ensemble.params.items():
            changes = torch.stack([params[name].to(value) - value for params in tuned])
            value -= self.strength * agreed(changes)
        logits, gradients = ensemble.logits(task.examples.inputs), sum(one.sample_gradients for one in results)
        history = torch.tensor([one.history for one in results]).mean(0).tolist()
        return UnlearningResult(ensemble.cpu(), logits, gradients, history)


def agreed(changes: Tensor) -> Tensor:
    """Return the mean over the first dimension where all have the same sign, and 0 elsewhere."""
    signs = changes.sign()
    return torch.where((signs == signs[0]).all(0), changes.mean(0), 0.0)
