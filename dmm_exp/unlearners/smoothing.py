"""Smoothing: make a network's answers change little around the points that have to be forgotten."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmm_exp.data.counter import normals
from dmm_exp.ensembles import member_seed
from dmm_exp.errors import UserError
from dmm_exp.unlearners.other_inputs import moved, surroundings
from dmm_exp.unlearners.unlearner import FineTuning, Fit, UnlearningTask, shuffled


class JiT(FineTuning):
    """Make the network flat around the forget set, which is all that the method looks at (just in time, JiT).

    Minimises the mean over forget points of ``(1/N)·Σ_j ‖f(x) − f(x + ξ_j)‖₂ / ‖ξ_j‖₂`` with normal ``ξ_j`` (Foster et
    al., "Zero-Shot Machine Unlearning at Scale via Lipschitz Regularization", arXiv 2402.01401); both answers are
    trained. ``f`` are the logits, and lengths of ``ξ`` are in standard deviations of the inputs, which stay in their
    range. Every forget point costs ``N + 1`` gradients.

    Args:
        noise: standard deviation of ξ, in those of the inputs.
        neighbours: N, how many a point has, drawn again for every member and step.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`; an epoch is a pass over the forget set.

    Raises:
        UserError: a number is out of range.
    """

    def __init__(self, *, noise: float = 0.5, neighbours: int = 8, **optimisation: Any) -> None:
        super().__init__(**optimisation)
        if noise <= 0 or neighbours < 1:
            raise UserError(
                f"unlearner.noise={noise}, unlearner.neighbours={neighbours}: expected a number above 0, and at least 1"
            )
        self.noise, self.neighbours = noise, neighbours

    def prepare(self, fit: Fit) -> dict[str, Tensor]:
        """Return the members' seeds of noise, and how inputs may be moved."""
        seeds = [member_seed(fit.seed, "unlearned", index, "noise") for index in fit.members]
        return {"seeds": torch.tensor(seeds), **surroundings(fit.examples)}

    def sample(self, task: UnlearningTask, generator: torch.Generator) -> Tensor:
        """Return the forget set in a new order."""
        return shuffled(task.forget, generator)

    def losses(self, fit: Fit, indices: Tensor) -> Tensor:
        """Return how fast every member's answers change around its batch."""
        inputs = fit.see(indices).float()
        shape = (self.neighbours, *inputs.shape[2:])
        drawn = normals(fit.kept["seeds"], fit.steps, indices, torch.Size(shape).numel()).view(*indices.shape, *shape)
        around = moved(fit.kept, inputs[:, :, None], self.noise * drawn)
        logits = fit.answer(torch.cat([inputs, around.flatten(1, 2)], dim=1))
        here, there = logits[:, : indices.shape[1], None], logits[:, indices.shape[1] :].unflatten(1, around.shape[1:3])
        apart = ((around - inputs[:, :, None]) / fit.kept["unit"]).flatten(3).norm(dim=3)
        return ((here - there).norm(dim=3) / apart.clamp(min=torch.finfo(apart.dtype).tiny)).mean((1, 2))
