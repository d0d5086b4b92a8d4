"""Entanglement: how far the features of a forget set overlap with those of the rest.

Zhao et al., "What makes unlearning hard and what to do about it", NeurIPS 2024, arXiv 2406.01257, section 4 (after
Goldblum et al., 2020).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmm_exp.errors import UserError


def entanglement(features: Tensor, forget: Tensor) -> Tensor:
    """Return the entanglement score of a forget set, mean over members: a number.

    The spread within both sets over the distance between them:
    ``[mean‖φ(r)−μ_R‖² + mean‖φ(f)−μ_F‖²] / ½(‖μ_R−μ‖² + ‖μ_F−μ‖²)`` with ``μ = (μ_R+μ_F)/2``. Infinite if the two
    means coincide.

    Args:
        features: ``[members, n_train, width]`` penultimate features.
        forget: training indices.

    Raises:
        UserError: one of the two sets is empty.
    """
    values = features.double()
    mask = torch.zeros(values.shape[1], dtype=torch.bool)
    mask[forget] = True
    if not 0 < int(mask.sum()) < len(mask):
        raise UserError(f"entanglement of {int(mask.sum())} of {len(mask)} examples: both sets must hold some")
    (spread_f, mean_f), (spread_r, mean_r) = _spread(values[:, mask]), _spread(values[:, ~mask])
    middle = (mean_f + mean_r) / 2
    apart = ((mean_r - middle).square().sum(-1) + (mean_f - middle).square().sum(-1)) / 2
    return ((spread_f + spread_r) / apart).mean()


def _spread(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean squared distance from the mean ``[members]``, and the mean ``[members, width]``."""
    mean = features.mean(1)
    return (features - mean[:, None]).square().sum(-1).mean(1), mean


def entanglement_columns(features: Tensor, groups: int = 15) -> dict[str, NDArray[np.generic]]:
    """Cut training points into groups by the distance of their features from the mean, and score every group.

    Args:
        features: ``[members, n_train, width]`` penultimate features.
        groups: how many, of nearly equal size.

    Returns:
        By name, ``[n_train]`` each: ``es_distance`` (mean over members), ``es_group`` (from 0, the nearest) and ``es``,
        the entanglement score of a point's group against all other points.

    Raises:
        UserError: there would be a group without points, or a single group, which has no other points.
    """
    n_train = features.shape[1]
    if not 2 <= groups <= n_train:
        raise UserError(f"scores.entanglement.groups={groups}: expected from 2 to {n_train}, the training examples")
    centred = features.double() - features.double().mean(1, keepdim=True)
    distance = centred.norm(dim=-1).mean(0)
    group_of, score = np.zeros(n_train, dtype=int), np.zeros(n_train)
    for group, points in enumerate(distance.argsort(stable=True).tensor_split(groups)):
        group_of[points], score[points] = group, float(entanglement(features, points))
    return {"es": score, "es_group": group_of, "es_distance": distance.numpy()}
