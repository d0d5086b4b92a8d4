"""Dampening: make weights smaller that matter more to the forget set than to the rest, without any training."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from dmm_exp.data import Examples
from dmm_exp.ensembles import Ensemble
from dmm_exp.ensembles.single_examples import ExampleGradients
from dmm_exp.ensembles.skeletons import Mounted
from dmm_exp.errors import UserError
from dmm_exp.unlearners.unlearner import Unlearner, UnlearningResult, UnlearningTask

VALUES_AT_ONCE = 1_000_000  # examples × parameters of one batch of gradients, so that they fit into a CPU's cache


class SSD(Unlearner):
    """Selective synaptic dampening: no gradient step, one multiplication.

    A weight whose importance to the forget set exceeds ``alpha`` times its importance to the whole training set is
    multiplied by ``min(dampening·I_S/I_F, 1)`` (Foster et al., "Fast Machine Unlearning Without Retraining Through
    Selective Synaptic Dampening", AAAI 2024, arXiv 2308.07707). Importance is the diagonal of the
    empirical Fisher matrix: the mean of squared gradients of single examples, with BatchNorm's running statistics.

    Args:
        alpha: how many times more important to the forget set a weight must be to be dampened; infinity dampens none.
        dampening: λ; smaller values dampen more.

    Raises:
        UserError: a number is negative, or no weight of any network could be dampened.
    """

    def __init__(self, *, alpha: float = 10.0, dampening: float = 1.0) -> None:
        if alpha < 0 or dampening < 0:
            raise UserError(f"unlearner.alpha={alpha}, unlearner.dampening={dampening}: expected numbers of at least 0")
        self.alpha, self.dampening = alpha, dampening

    def unlearn(self, task: UnlearningTask) -> UnlearningResult:
        """Dampen copies of all members, one after another."""
        most = task.n_train / len(task.forget)  # I_F / I_S if all importance comes from the forget set
        if most <= self.alpha < math.inf:
            raise UserError(
                f"unlearner.alpha={self.alpha:g}: no weight can be that much more important to {len(task.forget)} of "
                f"{task.n_train} training examples; expected less than {most:.3g}"
            )
        ensemble = task.originals.copy().eval()
        for member in range(len(ensemble)):
            self._dampen(ensemble, member, task)
        cost = task.n_train  # one gradient of every example, including the forget set
        return UnlearningResult(ensemble.cpu(), ensemble.logits(task.examples.inputs), cost, [])

    @torch.no_grad()
    def _dampen(self, ensemble: Ensemble, member: int, task: UnlearningTask) -> None:
        forget, retain = (squared_gradients(ensemble, member, task.examples, p) for p in (task.forget, task.retain))
        for name, values in ensemble.params.items():
            own = forget[name] / len(task.forget)
            everyone = (forget[name] + retain[name]) / task.n_train
            factor = (self.dampening * everyone / own).clamp(max=1)  # no importance at all: never chosen below
            values[member] = torch.where(own > self.alpha * everyone, values[member] * factor, values[member])


def squared_gradients(
    ensemble: Ensemble, member: int, examples: Examples, points: Tensor, who: str = "unlearner=ssd"
) -> dict[str, Tensor]:
    """Return the sum over points of the squared gradients of one member's cross-entropy, by parameter."""
    network, stats = Mounted(ensemble.skeleton), {name: value[member] for name, value in ensemble.stats.items()}
    params = {name: value[member].detach() for name, value in ensemble.params.items()}
    network.module.eval()

    def loss(params: dict[str, Tensor], input: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(network({**params, **stats}, input[None]), label[None])

    gradients = ExampleGradients(loss, params, who)
    totals = {name: torch.zeros_like(value) for name, value in params.items()}
    at_once = max(1, VALUES_AT_ONCE // sum(value.numel() for value in params.values()))
    for block in points.split(at_once):
        inputs, labels = (values[block].to(ensemble.device) for values in (examples.inputs, examples.labels))
        for name, value in gradients(inputs, labels).items():
            totals[name] += value.square().sum(0)
    return totals
