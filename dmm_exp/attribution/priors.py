"""Estimates of single effects from the pool, and priors for effects of each kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmm_exp.attribution.adaptive import AdaptiveShrinkage
from dmm_exp.attribution.datamodel import Ridge
from dmm_exp.attribution.evidence import CentredLogits, SubsetModels, consecutive
from dmm_exp.attribution.feldman_zhang import difference_weights
from dmm_exp.store import blocks, points_at_once

KINDS = 5  # of logits of another point, see ``kinds``
BIN_EDGES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)  # quantiles of the expected size that divide a kind into cells
BINS = len(BIN_EDGES) + 1
OWN = KINDS * BINS  # the cell of an example's effect on its own logit of its label; the next: on its other logits
CELLS = OWN + 2
BLOCK_VALUES = 1 << 22  # number of effects in memory at the same time


@dataclass(frozen=True)
class Estimates:
    """Both kinds of estimates of every single effect, as weighted sums of the pool's logits.

    Attributes:
        logits: of the pool.
        unbiased: weights of the unbiased estimate, of length 1, ``[n_train, members]`` in the layout of the transpose.
        response: weights of the response, divided by the same lengths, ``[n_train, members]``.
        lengths: the lengths by which the weights were divided, ``[n_train]``.
        noise: standard deviation of the noise of outputs, ``[points, classes]``.
    """

    logits: CentredLogits
    unbiased: Tensor
    response: Tensor
    lengths: Tensor
    noise: Tensor

    @classmethod
    def of(cls, ridge: Ridge, penalty: float) -> Estimates:
        """Compute the weights of a pool's members."""
        pool = ridge.pool
        unbiased = torch.empty(len(pool), pool.n_train).T  # in the layout of products with masks
        for examples in blocks(pool.n_train, points_at_once(pool.masks)):
            own = difference_weights(pool.masks[:, examples])
            unbiased[examples] = ridge.left_out_weights(own, penalty)
            unbiased[examples] += ridge.example_weights(examples, penalty)
        lengths = torch.cat([rows.square().sum(1).sqrt() for rows in unbiased.split(points_at_once(pool.masks))])
        unbiased /= lengths[:, None]
        response = response_weights(pool).div_(lengths[:, None])
        noise = ridge.noise(torch.arange(len(ridge.logits.means)), penalty).variance.sqrt().clamp(min=1e-12)
        return cls(ridge.logits, unbiased, response, lengths, noise)

    @property
    def labels(self) -> Tensor:
        """The points' labels."""
        return self.logits.pool.known_labels

    def at(self, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return unbiased estimates and responses in standard errors, and kinds, each ``[rows, points, classes]``.

        An example's effect on itself is of the kind of another point's with its label.
        """
        chosen = consecutive(rows)
        sums = self.logits.weigh_each([self.unbiased[chosen], self.response[chosen]], points)
        numbers, responses = (values.div_(self.noise[points]) for values in sums)
        return numbers, responses, kinds(self.labels[rows], self.labels[points], self.noise.shape[1])

    def own(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what :meth:`at` does for examples' effects on their own logits, with kinds of their own.

        Each is ``[rows, classes]``; the kind of the label's logit is ``KINDS``, of others ``KINDS + 1``.
        """
        parts = []
        for part in self.logits.parts(rows):
            outputs = self.logits.at(part)
            weighed = (torch.einsum("rm,mrc->rc", values[part], outputs) for values in (self.unbiased, self.response))
            parts.append([sums / self.noise[part] for sums in weighed])
        numbers, responses = (torch.cat(values) for values in zip(*parts, strict=True))
        kind = torch.where(torch.arange(self.noise.shape[1]) == self.labels[rows, None], KINDS, KINDS + 1)
        return numbers, responses, kind


@dataclass(frozen=True)
class Priors:
    """Priors of effects of every kind, and posterior means of single effects.

    Attributes:
        estimates: of single effects.
        factors: of responses, by kind, ``[kinds]``.
        edges: sizes of expected effects that divide a kind into cells.
        shrinkage: of every cell.
    """

    estimates: Estimates
    factors: Tensor
    edges: Tensor
    shrinkage: AdaptiveShrinkage

    @classmethod
    def of(cls, estimates: Estimates, rows: Tensor, points: Tensor) -> Priors:
        """Learn from a sample of effects, and from the own effects of all sampled examples."""
        pairs, others = zip(estimates.at(rows, points), estimates.own(rows), strict=True), rows[:, None] != points
        numbers, responses, kind = (torch.cat([of_others[others].flatten(), own.flatten()]) for of_others, own in pairs)
        squares = torch.zeros(KINDS + 2).index_add_(0, kind, responses.square())
        products = torch.zeros(KINDS + 2).index_add_(0, kind, responses * numbers)
        factors = products / squares.clamp(min=1e-12)
        expected = responses * factors[kind]
        edges = quantiles(expected[kind < KINDS].abs(), BIN_EDGES)
        shrinkage = AdaptiveShrinkage.of(numbers - expected, _cells(kind, expected, edges), CELLS)
        return cls(estimates, factors, edges, shrinkage)

    def effects(self, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return posterior means and variances ``[rows, points, classes]``; an example's effect on itself is zero."""
        unit, numbers, expected, cells = self._among(rows, points)
        means, variances = self.shrinkage.posterior(numbers, cells)
        return means.add_(expected).mul_(unit), variances.mul_(unit.square_())

    def means(self, rows: Tensor, points: Tensor) -> Tensor:
        """Return the posterior means of :meth:`effects` alone, in three quarters of its time."""
        unit, numbers, expected, cells = self._among(rows, points)
        return self.shrinkage.expected(numbers, cells).add_(expected).mul_(unit)

    def own_effects(self) -> tuple[Tensor, Tensor]:
        """Return posterior means and variances of examples' effects on their own logits, ``[n_train, classes]``."""
        rows = torch.arange(len(self.estimates.lengths))
        unit = self.estimates.lengths[:, None] * self.estimates.noise[rows]
        numbers, responses, kind = self.estimates.own(rows)
        expected = responses * self.factors[kind]
        means, variances = self.shrinkage.posterior(numbers - expected, _cells(kind, expected, self.edges))
        return unit * (expected + means), unit.square() * variances

    def _among(self, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what effects on other points follow from, each ``[rows, points, classes]``.

        That are their standard errors (zero for a row's effect on itself), and in these units the estimates less what
        is expected, and what is expected; and their cells.
        """
        unit = self.estimates.lengths[rows, None, None] * self.estimates.noise[points]
        unit[rows[:, None] == points] = 0
        numbers, responses, kind = self.estimates.at(rows, points)
        expected = responses.mul_(self.factors[kind])
        cells = kind.mul_(BINS).add_(torch.bucketize(expected.abs(), self.edges))
        return unit, numbers.sub_(expected), expected, cells

    def parts(self, points: Tensor, rows: int) -> Iterator[Tensor]:
        """Divide points into parts for which effects of ``rows`` examples fit into memory."""
        yield from points.split(self.points_beside(rows))

    def points_beside(self, rows: int) -> int:
        """Return for how many points effects of ``rows`` examples fit into memory."""
        fitting = max(1, BLOCK_VALUES // max(1, rows * self.estimates.noise.shape[1]))
        return min(fitting, points_at_once(self.estimates.logits.pool.logits))


def kinds(trained: Tensor, points: Tensor, classes: int) -> Tensor:
    """Return the kind of a logit for a training example, ``[examples, points, classes]`` int, from both labels.

    0: the label's logit of a point of the example's class; 1: another logit of such a point; of a point of another
    class, 2: its label's logit; 3: the logit of the example's class; 4: any other.
    """
    logit = torch.arange(classes)
    example, point = trained[:, None, None], points[None, :, None]
    other = torch.where(logit == point, 2, torch.where(logit == example, 3, 4))
    return torch.where(example == point, torch.where(logit == point, 0, 1), other)


def _cells(kind: Tensor, expected: Tensor, edges: Tensor) -> Tensor:
    """Return the cells of effects, from their kinds and their expectations in standard errors."""
    sizes = torch.bucketize(expected.abs(), edges)
    return torch.where(kind < KINDS, kind * BINS + sizes, kind - KINDS + OWN)


def response_weights(pool: SubsetModels) -> Tensor:
    """Return weights ``[n_train, members]`` of logits whose sum is the response to each example.

    Raises:
        TypeError: the pool has no labels.
    """
    n_train, labels = pool.n_train, pool.known_labels
    weights = torch.empty(n_train, len(pool))
    for rows in torch.arange(n_train).split(max(1, BLOCK_VALUES // (len(pool) * pool.logits.shape[2]))):
        without = (~pool.masks[:, rows]).float()
        share = without / without.sum(0)
        logits = pool.logits[:, rows]
        probability = torch.einsum("mr,mrc->rc", share, logits.softmax(-1))
        missing = -probability
        missing[torch.arange(len(rows)), labels[rows]] += 1
        along = torch.einsum("mrc,rc->mr", logits, missing)
        weights[rows] = ((along - (along * share).sum(0)) * share).T
    return weights


def quantiles(values: Tensor, levels: Sequence[float]) -> Tensor:
    """Return quantiles of a sample of values, small enough for ``torch.quantile``."""
    return torch.quantile(values[:: max(1, len(values) // 200_000)], torch.tensor(levels))
