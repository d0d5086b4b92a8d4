"""How much margins vary over models that were trained without a set of rows, against how much over the originals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

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
SHIFTS = torch.linspace(-2, 2, 41)  # of a point's own logarithm of variance
SHIFT_VARIANCES = (0.01, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0)  # of these over points


@dataclass(frozen=True)
class Residuals:
    """Errors of margins of some members at some points, each member predicted from all others.

    Attributes:
        points: of each residual.
        features: of what its member was trained without, as seen from its point, ``[residuals, features]``.
        squares: of the error, in variances of the originals.
        known: the part of its variance that is the error of the prediction.
    """

    points: Tensor
    features: Tensor
    squares: Tensor
    known: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Residuals]) -> Residuals:
        """Return all residuals of some parts."""
        return cls(*(torch.cat([getattr(part, one.name) for part in parts]) for one in fields(cls)))


@dataclass(frozen=True)
class Spread:
    """Variances of margins over models without a set of rows, relative to those over the originals.

    Their logarithm is linear in what the set is like, as seen from a point x: how much more models vary where they
    were not trained on x (if x is in the set), the share of memorized rows that the set holds, the share of x's
    neighbours to several powers, and the set's size.

    Attributes:
        shared: neighbourhoods and memorization.
        unseen: logarithm of the ratio of variances between models trained without and with a point, ``[points]``; 0
            for points that are no training rows. At first it is that of models on random halves.
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

    def learnt(self, sample: Residuals, gone: Residuals) -> Spread:
        """Return the spread that residuals make likely.

        Coefficients are fitted to a sample. What is ``unseen`` of a point is first that of random halves, times its
        coefficient; the residuals of members without this point correct it (empirical Bayes).

        Args:
            sample: of all members and points.
            gone: of memorized points, at members that were trained without them.
        """
        coefficients, constant, factor = fitted(sample)
        expected = gone.features @ coefficients + constant
        unseen = coefficients[0] * self.unseen + own_shifts(gone, expected, factor, len(self.unseen))
        coefficients[0] = 1
        return replace(self, unseen=unseen, coefficients=coefficients)

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


def fitted(residuals: Residuals) -> tuple[Tensor, float, float]:
    """Return the coefficients ``[features]`` of the logarithm of variances under which residuals are most likely.

    Residuals follow Student's t. A constant, and the logarithm of a factor of the known part, are fitted beside them
    and returned, too. They say nothing of sets: what all residuals have in common is not due to any set of rows.
    """
    features = torch.cat([residuals.features, torch.ones(len(residuals.features), 1)], 1)

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        coefficients = torch.from_numpy(values).float().requires_grad_()
        value = _surprise(residuals, features @ coefficients[:-1], coefficients[-1]).mean()
        value = value + 1e-4 * coefficients.square().sum()
        (slopes,) = torch.autograd.grad(value, coefficients)
        return value.item(), slopes.double().numpy()

    found = minimize(loss, np.zeros(features.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 30})
    *coefficients, constant, factor = found.x.tolist()
    return torch.tensor(coefficients), constant, factor


def own_shifts(residuals: Residuals, expected: Tensor, factor: float, points: int) -> Tensor:
    """Return by how much the logarithm of each point's variance differs from what is expected, ``[points]``.

    It is the posterior mean under a normal prior, whose variance is the most likely of a few; 0 without residuals.

    Args:
        residuals: of these points.
        expected: logarithm of their variances without that of the prediction, ``[residuals]``.
        factor: logarithm of a factor of the known part.
        points: how many there are.
    """
    likelihood = torch.zeros(len(SHIFTS), points)
    for total, shift in zip(likelihood, SHIFTS, strict=True):
        total.index_add_(0, residuals.points, _surprise(residuals, expected + shift, torch.tensor(factor)), alpha=-0.5)
    priors = torch.stack([(-SHIFTS.square() / (2 * variance)).log_softmax(0) for variance in SHIFT_VARIANCES])
    evidence = (priors[..., None] + likelihood).logsumexp(1)[:, residuals.points.unique()].sum(1)
    return SHIFTS @ (priors[evidence.argmax(), :, None] + likelihood).softmax(0)


def _surprise(residuals: Residuals, of_models: Tensor, factor: Tensor) -> Tensor:
    """Return -2 log of Student's density of each residual, less a constant."""
    variance = residuals.known * factor.clamp(*LOG_RANGE).exp() + of_models.clamp(*LOG_RANGE).exp()
    squares = residuals.squares.clamp(max=LARGEST)
    return variance.log() + (FREEDOM + 1) * (squares / (FREEDOM * variance)).log1p()


def _variance(values: Tensor, weights: Tensor) -> Tensor:
    """Return weighted variances over members, of values ``[members, rows]``, ``[rows]``."""
    shares = weights / weights.sum(0)
    return (shares * (values - (shares * values).sum(0)).square()).sum(0).clamp(min=1e-12)
