"""How much logits vary over models that were trained without a set of rows, against how much over the originals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dmm_exp.attribution.evidence import SubsetModels
from dmm_exp.attribution.shared_rows import SharedRows

NEAR_POWERS = (1, 4, 12)
LOG_RANGE = (-3.0, 4.0)  # of logarithms of variances
LARGEST = 100.0  # squared residual, in variances of the originals


@dataclass(frozen=True)
class Spread:
    """Variances of logits over models without a set of rows, relative to those over the originals.

    Their logarithm is linear in what the set is like, as seen from a point x: how much more models on random halves
    vary where they were not trained on x (if x is in the set), the share of memorized rows that the set holds, the
    share of x's neighbours to several powers, and the set's size.

    Attributes:
        shared: neighbourhoods and memorization.
        unseen: logarithm of the ratio of variances between models trained without and with a point, ``[points,
            classes]``; 0 for points that are no training rows.
        coefficients: by kind of logit, ``[kinds, features]``.
    """

    shared: SharedRows
    unseen: Tensor
    coefficients: Tensor

    @classmethod
    def of(cls, shared: SharedRows, pool: SubsetModels, points: int) -> Spread:
        """Return a spread whose coefficients are not known yet: by them sets of rows change nothing."""
        n_train, classes = pool.n_train, pool.logits.shape[2]
        unseen = torch.zeros(points, classes)
        for rows in torch.arange(n_train).split(max(1, (1 << 24) // (len(pool) * classes))):
            inside, logits = pool.masks[:, rows].float(), pool.logits[:, rows].float()
            unseen[rows] = (_variance(logits, 1 - inside) / _variance(logits, inside)).log().clamp(*LOG_RANGE)
        return cls(shared, unseen, torch.zeros(2, 3 + len(NEAR_POWERS)))

    def features(self, cluster: int, points: Tensor, sets: Tensor) -> Tensor:
        """Return what sets are like, as seen from some points of a cluster, ``[sets, points, classes, features]``.

        Args:
            cluster: of the points.
            points: where.
            sets: of rows, ``[sets, n_train]`` float32, 1 where a row is left out.
        """
        n_train, classes = sets.shape[1], self.unseen.shape[1]
        goes = sets[:, points.clamp(max=n_train - 1)] * (points < n_train)
        mass = self.shared.memorization / self.shared.memorization.sum().clamp(min=1e-12)
        near = sets @ self.shared.neighbourhoods.near[0, cluster]
        of_set = torch.stack([sets @ mass, *(near.pow(power) for power in NEAR_POWERS), sets.mean(1)], -1)
        own = goes[..., None, None] * self.unseen[points][..., None]
        return torch.cat([own, of_set[:, None, None].expand(-1, len(points), classes, -1)], -1)

    def ratio(self, cluster: int, points: Tensor, sets: Tensor, kinds: Tensor) -> Tensor:
        """Return ratios of standard deviations, ``[sets, points, classes]``, by kind of logit ``[points, classes]``."""
        logs = torch.einsum("spcf,pcf->spc", self.features(cluster, points, sets), self.coefficients[kinds])
        return (0.5 * logs.clamp(*LOG_RANGE)).exp()


def fitted(features: Tensor, squares: Tensor, known: Tensor) -> Tensor:
    """Return the coefficients ``[features]`` of the logarithm of variances under which residuals are most likely.

    Args:
        features: ``[residuals, features]``.
        squares: of residuals, in variances of the originals.
        known: the part of each one's variance that is the error of its prediction.
    """
    coefficients = torch.zeros(features.shape[1], requires_grad=True)
    squares = squares.clamp(max=LARGEST)
    optimizer = torch.optim.LBFGS([coefficients], max_iter=30, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        variance = known + (features @ coefficients).clamp(*LOG_RANGE).exp()
        value = (variance.log() + squares / variance).mean() + 1e-4 * coefficients.square().sum()
        value.backward()
        return value.item()

    optimizer.step(loss)
    return coefficients.detach()


def _variance(values: Tensor, weights: Tensor) -> Tensor:
    """Return weighted variances over members, of values ``[members, rows, classes]``, ``[rows, classes]``."""
    shares = weights / weights.sum(0)
    mean = torch.einsum("mr,mrc->rc", shares, values)
    return torch.einsum("mr,mrc->rc", shares, (values - mean).square()).clamp(min=1e-12)
