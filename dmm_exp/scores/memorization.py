"""Memorization: how much a model's output on an example depends on the example being in the training set.

Definition: Feldman, "Does learning require memorization?" (2020); estimated over random subsets as in Feldman and
Zhang, "What neural networks memorize and why" (2020).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmm_exp.store import Stacked, blocks, points_at_once

Form = Literal["correctness", "probability"]
Many = Tensor | Stacked  # in memory, or on disk


def memorization(
    logits: Many, masks: Many, labels: Tensor, form: Form, margins: Many | None = None
) -> tuple[Tensor, Tensor]:
    """Return (score, standard error), both ``[n_train]``.

    The score is ``mean(v, i in) - mean(v, i out)`` where ``v`` is whether a member is right on i, or the probability
    that it gives to i's label; the second is far less noisy in a small pool. Tensors on disk are read in blocks.

    Args:
        logits: ``[members, points, classes]`` of the pool.
        masks: ``[members, n_train]`` bool, the examples of each member's training.
        labels: ``[points]``.
        form: ``correctness`` or ``probability``.
        margins: ``[members, points]``, from which probabilities are computed if logits are rounded.
    """
    scores, errors = [], []
    for block in blocks(masks.shape[1], points_at_once(logits)):
        if margins is not None and form == "probability":
            values = margins[:, block].sigmoid()
        else:
            values = torch.stack([_values(member, labels[block], form) for member in logits[:, block]])
        inside = masks[:, block]
        (mean_in, variance_in), (mean_out, variance_out) = _moments(values, inside), _moments(values, ~inside)
        scores.append(mean_in - mean_out)
        errors.append((variance_in + variance_out).sqrt())
    return torch.cat(scores), torch.cat(errors)


def memorization_columns(
    logits: Many, masks: Many, labels: Tensor, margins: Many | None = None
) -> dict[str, NDArray[np.float32]]:
    """Return both forms with their standard errors, ``[n_train]`` each.

    The names are ``memorization``, ``memorization_se`` (probability form), ``memorization_correctness`` and
    ``memorization_correctness_se``.
    """
    columns: dict[str, NDArray[np.float32]] = {}
    forms: dict[str, Form] = {"memorization": "probability", "memorization_correctness": "correctness"}
    for name, form in forms.items():
        score, error = memorization(logits, masks, labels, form, margins)
        columns |= {name: score.numpy(), f"{name}_se": error.numpy()}
    return columns


def _values(logits: Tensor, labels: Tensor, form: Form) -> Tensor:
    if form == "correctness":
        return (logits.argmax(1) == labels).float()
    return logits.softmax(1).gather(1, labels[:, None]).squeeze(1)


def _moments(values: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over selected members and the variance of that mean, both ``[n_train]``."""
    count = where.sum(0)
    mean = torch.where(where, values, 0).sum(0) / count
    spread = torch.where(where, (values - mean) ** 2, 0).sum(0) / (count - 1).clamp(min=1)
    return mean, torch.where(count > 1, spread / count, torch.inf)  # one value tells nothing about its variance
