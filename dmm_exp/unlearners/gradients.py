"""Gradients of all members on some points, at the models as they are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dmm_exp.unlearners.unlearner import Fit


def mean_gradients(fit: Fit, points: Tensor, at_once: int) -> dict[str, Tensor]:
    """Return the gradient of every member's mean cross-entropy, stacked as the parameters are, and count its cost.

    BatchNorm uses its running statistics.

    Args:
        fit: with the members.
        points: of every member, ``[members, points]`` or the same for all ``[points]``.
        at_once: number of a member's points in one pass.
    """
    ensemble = fit.ensemble.eval()
    totals = {name: torch.zeros_like(value) for name, value in ensemble.params.items()}
    for block in points.expand(len(ensemble), -1).split(at_once, dim=1):
        inputs, labels = (values[block].to(ensemble.device) for values in (fit.inputs, fit.labels))
        loss = functional.cross_entropy(ensemble(inputs).flatten(0, 1), labels.flatten(), reduction="sum")
        for total, gradient in zip(
            totals.values(), torch.autograd.grad(loss, list(ensemble.parameters())), strict=True
        ):
            total += gradient
    ensemble.train()
    fit.sample_gradients += points.shape[-1]
    return {name: total / points.shape[-1] for name, total in totals.items()}
