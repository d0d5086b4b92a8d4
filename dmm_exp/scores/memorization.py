"""Memorization: how much an example's own presence in the training set decides what models answer on it.

Definition: Feldman, "Does learning require memorization?" (2020); estimated over random subsets as in Feldman and
Zhang, "What neural networks memorize and why" (2020).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Form = Literal["correctness", "probability"]


def memorization(logits: Tensor, masks: Tensor, labels: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """Return (score, standard error), both ``[n_train]``.

    The score is ``mean(v, i in) - mean(v, i out)`` where ``v`` is whether a member is right on i, or the probability
    that it gives to i's label; the second is far less noisy in a small pool.

    Args:
        logits: ``[members, points, classes]`` of the pool.
        masks: ``[members, n_train]`` bool, who was trained on what.
        labels: ``[points]``.
        form: ``correctness`` or ``probability``.
    """
    n_train = masks.shape[1]
    values = torch.stack([_values(member[:n_train], labels[:n_train], form) for member in logits])
    (mean_in, variance_in), (mean_out, variance_out) = _moments(values, masks), _moments(values, ~masks)
    return mean_in - mean_out, (variance_in + variance_out).sqrt()


def memorization_columns(logits: Tensor, masks: Tensor, labels: Tensor) -> dict[str, NDArray[np.float32]]:
    """Return both forms with their standard errors, ``[n_train]`` each.

    The names are ``memorization``, ``memorization_se`` (probability form), ``memorization_correctness`` and
    ``memorization_correctness_se``.
    """
    columns: dict[str, NDArray[np.float32]] = {}
    forms: dict[str, Form] = {"memorization": "probability", "memorization_correctness": "correctness"}
    for name, form in forms.items():
        score, error = memorization(logits, masks, labels, form)
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
    return mean, torch.where(count > 1, spread / count, torch.inf)  # one value says nothing of its spread
