"""How much margins vary over models that were trained without a set of rows, against how much over the originals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from dmm_exp.attribution.evidence import SubsetModels
from dmm_exp.attribution.shared_rows import SharedRows
from dmm_exp.attribution.sums import leaves_out
from dmm_exp.models import margin

NEAR_POWERS = (1, 4, 12)
LOG_RANGE = (-3.0, 4.0)  # of logarithms of variances
FREEDOM = 4.0  # degrees of freedom of residuals: a few large ones say little about how the others vary
LARGEST = 100.0  # squared residual, in variances of the originals
BLOCK_VALUES = 1 << 24


@dataclass(frozen=True)
class Spread:
    """Variances of margins over models without a set of rows, relative to those over the originals.

    Their logarithm is linear in what the set is like, as seen from a point x: how much more models on random halves
    vary where they were not trained on x (if x is in the set), the share of memorized rows that the set holds, the
    share of x's neighbours to several powers, and the set's size.

    Attributes:
        shared: neighbourhoods and memorization.
        unseen: logarithm of the ratio of variances between models trained without and with a point, ``[points]``; 0
            for points that are no training rows.
        coefficients: of the features, ``[features]``.
    """

    shared: SharedRows
    unseen: Tensor
    coefficients: Tensor

    @classmethod
    def of(cls, shared: SharedRows, pool: SubsetModels, points: int) -> Spread:
        """Return a spread whose coefficients are not known yet: by them sets of rows change nothing."""
        n_train, unseen = pool.n_train, torch.zeros(points)
        for rows in torch.arange(n_train).split(max(1, BLOCK_VALUES // (len(pool) * pool.logits.shape[2]))):
            inside = pool.masks[:, rows].float()
            margins = margin(pool.logits[:, rows].float(), pool.known_labels[rows])
            unseen[rows] = (_variance(margins, 1 - inside) / _variance(margins, inside)).log().clamp(*LOG_RANGE)
        return cls(shared, unseen, torch.zeros(3 + len(NEAR_POWERS)))

    def features(self, cluster: int, points: Tensor, sets: Tensor) -> Tensor:
        """Return what sets are like, as seen from some points of a cluster, ``[sets, points, features]``.

        Args:
            cluster: of the points.
            points: where.
            sets: of rows, ``[sets, n_train]`` float32, 1 where a row is left out.
        """
        goes = leaves_out(sets, points)
        mass = self.shared.memorization / self.shared.memorization.sum().clamp(min=1e-12)
        near = sets @ self.shared.neighbourhoods.near[0, cluster]
        of_set = torch.stack([sets @ mass, *(near.pow(power) for power in NEAR_POWERS), sets.mean(1)], -1)
        own = (goes * self.unseen[points])[..., None]
        return torch.cat([own, of_set[:, None].expand(-1, len(points), -1)], -1)

    def ratio(self, cluster: int, points: Tensor, sets: Tensor) -> Tensor:
        """Return ratios of standard deviations, ``[sets, points]``; see :meth:`features`."""
        return (0.5 * (self.features(cluster, points, sets) @ self.coefficients).clamp(*LOG_RANGE)).exp()


def margin_errors(errors: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return what errors of logits do to margins, to first order, ``[models, points]``.

    Args:
        errors: ``[models, points, classes]``.
        logits: where, ``[models, points, classes]``.
        labels: ``[points]``.
    """
    own = torch.zeros_like(logits[0], dtype=torch.bool).scatter_(-1, labels[:, None], True)
    weights = logits.masked_fill(own, -torch.inf).softmax(-1)
    return (errors * (own.float() - weights)).sum(-1)


def fitted(features: Tensor, squares: Tensor, known: Tensor) -> Tensor:
    """Return the coefficients ``[features]`` of the logarithm of variances under which residuals are most likely.

    Residuals follow Student's t. A constant, and a factor of the known part, are fitted beside them and left out: what
    all residuals have in common is not due to any set of rows.

    Args:
        features: ``[residuals, features]``.
        squares: of residuals, in variances of the originals.
        known: the part of each one's variance that is the error of its prediction.
    """
    features = torch.cat([features, torch.ones(len(features), 1)], 1)
    squares = squares.clamp(max=LARGEST)

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        coefficients = torch.from_numpy(values).float().requires_grad_()
        of_models = (features @ coefficients[:-1]).clamp(*LOG_RANGE).exp()
        variance = known * coefficients[-1].clamp(*LOG_RANGE).exp() + of_models
        value = (
            variance.log() + (FREEDOM + 1) * (squares / (FREEDOM * variance)).log1p()
        ).mean() + 1e-4 * coefficients.square().sum()
        (slopes,) = torch.autograd.grad(value, coefficients)
        return value.item(), slopes.double().numpy()

    found = minimize(loss, np.zeros(features.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 30})
    return torch.from_numpy(found.x).float()[:-2]


def _variance(values: Tensor, weights: Tensor) -> Tensor:
    """Return weighted variances over members, of values ``[members, rows]``, ``[rows]``."""
    shares = weights / weights.sum(0)
    return (shares * (values - (shares * values).sum(0)).square()).sum(0).clamp(min=1e-12)
