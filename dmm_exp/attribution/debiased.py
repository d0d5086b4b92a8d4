"""Ridge as a control variate for the difference of means: unbiased like the second, precise like the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dmm_exp.attribution.datamodel import Datamodel, Noise, Ridge, RidgeEffects, check_memory
from dmm_exp.attribution.estimator import Effect, Estimator, Learned, not_negative, towards
from dmm_exp.attribution.evidence import Evidence
from dmm_exp.attribution.feldman_zhang import check_in_and_out, difference_weights, summed_differences
from dmm_exp.files.reading import Json
from dmm_exp.store import blocks, points_at_once

Shrinkage = Literal["james_stein", "elementwise", "none"]


class Debiased(Estimator):
    """Ridge prediction plus a shrunken correction: the difference of means of ridge's leave-one-out residuals.

    Residuals of a fit without a member depend on that member's mask alone, so their difference of means is an unbiased
    estimate of what ridge misses; what remains is noise of the *residual*, not of the output. The correction has two
    parts of very different precision, which are shrunk separately: the effect of a training example on itself (one
    difference of means), and the effect of all others on it (a sum of many). A part c with standard error se is shrunk

    * ``james_stein``: by ``max(0, 1 − ν/Σc²)``, one factor for each group of outputs, where ν is what Σc² would be
      were it noise alone: its mean Σse² plus ``caution`` times its standard deviation. Outputs of one model vary
      together, so that deviation, ``Σse² √(2/p)``, is that of p = (tr Σ)²/tr Σ² independent ones, where Σ is the
      covariance of their noise;
    * ``elementwise``: each output by ``max(0, 1 − se²/c²)``;
    * ``none``: not at all.

    Memory besides that of ridge: ``4 M n_train`` bytes, the weights of all own corrections.

    Args:
        shrinkage: one of the three.
        caution: see ``james_stein``; 0 is the classical estimator, more stays closer to ridge.
        penalties: see :class:`Datamodel`.
        tuning_outputs: see :class:`Datamodel`.
    """

    def __init__(
        self,
        shrinkage: Shrinkage = "james_stein",
        caution: float = 2.0,
        penalties: list[float] | None = None,
        tuning_outputs: int = 200,
    ) -> None:
        self.ridge = Datamodel(penalties, tuning_outputs)
        self.shrinkage = shrinkage
        self.caution = not_negative("caution", caution)

    def learn(self, evidence: Evidence) -> DebiasedEffects:
        """Fit ridge, and correct the effect of each training example on itself.

        Raises:
            UserError: the pool needs more memory than there is, or an example is in all members, or in none.
        """
        pool = evidence.subset_models
        check_memory(pool, type(self).__name__, whole_matrices=1)
        found = self.ridge.learn(evidence)
        check_in_and_out(pool.inside, len(pool))
        points = found.points.items()
        corrections = {group: self._correction(found.ridge, where, found.penalty[group]) for group, where in points}
        return DebiasedEffects(found, corrections)

    def shrink(self, correction: Tensor, length: Tensor, noise: Noise) -> Tensor:
        """Return shrunken corrections ``[..., points, classes]``; their variance is ``length`` times the noise's."""
        if self.shrinkage == "none" or not correction.numel():
            return correction
        size, expected = correction.square(), length * noise.variance
        if self.shrinkage == "james_stein":
            size, expected = (values.sum((-2, -1), keepdim=True) for values in (size, expected))
            expected = expected * (1 + self.caution * (2 / noise.dimension) ** 0.5)
        return (1 - expected / size.clamp(min=1e-30)).clamp(min=0) * correction

    def _correction(self, ridge: Ridge, points: Tensor, penalty: float) -> Correction:
        train, noise = points < ridge.pool.n_train, ridge.noise(points, penalty)
        examples = points[train]
        weights = torch.empty(len(ridge.pool), len(examples)).T
        raw = torch.empty(len(examples), noise.variance.shape[1])
        for part in blocks(len(examples), points_at_once(ridge.pool.logits)):
            own = difference_weights(ridge.pool.masks[:, examples[part]])
            weights[part] = ridge.left_out_weights(own, penalty)
            raw[part] = torch.einsum("pm,mpc->pc", weights[part], ridge.logits.at(examples[part]))
        shrunken = self.shrink(raw, weights.square().sum(1)[:, None], Noise(noise.variance[train], noise.dimension))
        return Correction(self, ridge, points, penalty, noise, OwnCorrection(train, weights, raw, shrunken))


@dataclass(frozen=True)
class OwnCorrection:
    """The error of ridge in the effects of training examples on their own logits, for the points of one group.

    Attributes:
        train: which of the group's points are training examples, ``[points]`` bool.
        weights: of outputs, ``[examples, members]``.
        raw: the unbiased corrections, ``[examples, classes]``.
        shrunken: the shrunken corrections, ``[examples, classes]``.
    """

    train: Tensor
    weights: Tensor
    raw: Tensor
    shrunken: Tensor


@dataclass(frozen=True)
class Correction:
    """The correction of ridge at the points of one group.

    Attributes:
        method: that shrinks corrections.
        ridge: to correct.
        points: of the group.
        penalty: λ of the group.
        noise: of its outputs.
        own: the part of training examples in their own logits.
    """

    method: Debiased
    ridge: Ridge
    points: Tensor
    penalty: float
    noise: Noise
    own: OwnCorrection

    def predict(self, directions: Tensor) -> Tensor:
        """Return both shrunken parts of the correction, ``[directions, points, classes]``."""
        of_others, length = self._of_others(directions)
        corrected = self.method.shrink(of_others, length[..., None], self.noise)
        corrected[:, self.own.train] += self._share(directions)[..., None] * self.own.shrunken
        return corrected

    def standard_error(self, direction: Tensor) -> Tensor:
        """Return the sampling error ``[points, classes]`` of ridge and correction together, by ``direction [1, n]``."""
        own, share = self.own, self._share(direction)[0, :, None]
        ridge = self.ridge.member_weights(direction, self.penalty)[0]
        others = self._weights(direction)[0]
        of_others, length = self._of_others(direction)
        kept = _kept(self.method.shrink(of_others, length[..., None], self.noise), of_others)[0]
        own_kept = _kept(own.shrunken, own.raw)
        own_length = own.weights.square().sum(1)[:, None]
        with_own = (own.weights @ others)[:, None] - share * own_length  # of the others' weights with the own ones
        with_ridge = (ridge @ others).repeat(len(self.points))[:, None]
        with_ridge[own.train] -= share * (own.weights @ ridge)[:, None]
        squared = ridge.square().sum() + 2 * kept * with_ridge + kept.square() * length[0, :, None]
        squared[own.train] += share.square() * own_kept.square() * own_length
        squared[own.train] += 2 * share * own_kept * ((own.weights @ ridge)[:, None] + kept[own.train] * with_own)
        return (squared.clamp(min=0) * self.noise.variance).sqrt()

    def _share(self, directions: Tensor) -> Tensor:
        """Return how far directions move the group's training examples, ``[directions, examples]``."""
        return directions[:, self.points[self.own.train]]

    def _weights(self, directions: Tensor) -> Tensor:
        """Return the weights of outputs of the whole correction, ``[directions, members]``."""
        return self.ridge.left_out_weights(summed_differences(self.ridge.pool, directions), self.penalty)

    def _of_others(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return corrections without the points' own part ``[directions, points, classes]``, and their squared lengths.

        The lengths are those of the weights of outputs, ``[directions, points]``.
        """
        own, weights, share = self.own, self._weights(directions), self._share(directions)
        of_others = self.ridge.logits.weigh(weights, self.points)
        of_others[:, own.train] -= share[..., None] * own.raw
        length = weights.square().sum(1, keepdim=True).repeat(1, len(self.points))
        overlap = 2 * share * (weights @ own.weights.T) - share.square() * own.weights.square().sum(1)
        length[:, own.train] -= overlap
        return of_others, length.clamp(min=0)


@dataclass(frozen=True)
class DebiasedEffects(Learned):
    """The corrected prediction of ridge.

    Attributes:
        ridge: the prediction of ridge.
        corrections: of every group.
    """

    ridge: RidgeEffects
    corrections: Mapping[int, Correction]

    def effect(self, rows: Tensor) -> Effect:
        """Return the corrected prediction, and its sampling error for the given amount of shrinkage."""
        direction = towards(rows, self.ridge.ridge.pool.n_train)
        mean = self.predict(direction)[0]
        errors = torch.empty_like(mean)
        for correction in self.corrections.values():
            errors[correction.points] = correction.standard_error(direction)
        return Effect(mean, errors)

    def predict(self, directions: Tensor) -> Tensor:
        """Return ridge plus both shrunken parts of the correction, ``[directions, points, classes]``."""
        changes = self.ridge.predict(directions)
        for correction in self.corrections.values():
            changes[:, correction.points] += correction.predict(directions)
        return changes

    def facts(self) -> Json:
        """Return the chosen λ of every group."""
        return self.ridge.facts()


def _kept(shrunken: Tensor, raw: Tensor) -> Tensor:
    """Return the share of every correction that shrinking left."""
    return torch.where(raw == 0, torch.zeros_like(raw), shrunken / raw)
