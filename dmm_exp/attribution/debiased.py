"""Ridge as a control variate for the difference of means: unbiased like the second, precise like the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dmm_exp.attribution.datamodel import Datamodel, Noise
from dmm_exp.attribution.estimator import towards
from dmm_exp.attribution.feldman_zhang import check_in_and_out, difference_weights, summed_differences
from dmm_exp.errors import UserError
from dmm_exp.store import blocks, points_at_once

Shrinkage = Literal["james_stein", "elementwise", "none"]


@dataclass(frozen=True)
class OwnCorrection:
    """What ridge misses of the effect of training examples on their own logits, for the points of one group.

    Attributes:
        train: which of the group's points are training examples, ``[points]`` bool.
        weights: of outputs, ``[examples, members]``.
        raw: the unbiased corrections, ``[examples, classes]``.
        shrunken: what is left of them, ``[examples, classes]``.
    """

    train: Tensor
    weights: Tensor
    raw: Tensor
    shrunken: Tensor


class Debiased(Datamodel):
    """Ridge prediction plus a shrunken correction: the difference of means of ridge's leave-one-out residuals.

    Residuals of a fit that has not seen a member are a function of that member's mask alone, so their difference of
    means estimates, without bias, what ridge misses; what remains is noise of the *residual*, not of the output. The
    correction has two parts of very different precision, and each is shrunk on its own: what a training example does
    to itself (one difference of means), and what all others do to it (a sum of many). A part c with standard error se
    is shrunk

    * ``james_stein``: by ``max(0, 1 − ν/Σc²)``, one factor for each group of outputs, where ν is what Σc² would be
      were it noise alone: its mean Σse² plus ``caution`` times its standard deviation. Outputs of one model vary
      together, so that deviation, ``Σse² √(2/p)``, is that of p = (tr Σ)²/tr Σ² independent ones, where Σ is the
      covariance of their noise;
    * ``elementwise``: each output by ``max(0, 1 − se²/c²)``;
    * ``none``: not at all.

    Memory beside ridge's: ``4 M n_train`` bytes, the weights of all own corrections.

    Args:
        shrinkage: one of the three.
        caution: see ``james_stein``; 0 is the classical estimator, more stays closer to ridge.
        penalties: see :class:`Datamodel`.
        tuning_outputs: see :class:`Datamodel`.
    """

    whole_matrices = 1

    def __init__(
        self,
        shrinkage: Shrinkage = "james_stein",
        caution: float = 2.0,
        penalties: list[float] | None = None,
        tuning_outputs: int = 200,
    ) -> None:
        super().__init__(penalties, tuning_outputs)
        self.shrinkage = shrinkage
        self.caution = caution
        if caution < 0:
            raise UserError(f"attribution.caution={caution}: expected a number of at least 0")

    def prepare(self) -> None:
        """Fit ridge, and correct what each training example does to itself."""
        super().prepare()
        check_in_and_out(self.pool.inside, len(self.pool))
        self.noise = {group: self.noise_of(group, where) for group, where in self.group_points()}
        self.own = {group: self._own_correction(group, where) for group, where in self.group_points()}

    def predict_group(self, directions: Tensor, group: int, where: Tensor) -> Tensor:
        """Return ridge plus both shrunken parts of the correction."""
        own = self.own[group]
        of_others, length = self._of_others(directions, group, where)
        corrected = self._shrink(of_others, length[..., None], self.noise[group])
        corrected[:, own.train] += directions[:, where[own.train], None] * own.shrunken
        return super().predict_group(directions, group, where) + corrected

    def standard_error(self, forget: Tensor) -> Tensor:
        """Return the sampling error, with what shrinks the correction taken as given."""
        errors = torch.empty_like(self.means)
        direction = towards(forget, self.pool.n_train)
        for group, where in self.group_points():
            own, noise = self.own[group], self.noise[group]
            ridge = self.member_weights(direction, self.penalty[group])[0]
            others = self.left_out_weights(summed_differences(self.pool, direction), self.penalty[group])[0]
            of_others, length = self._of_others(direction, group, where)
            kept = _kept(self._shrink(of_others, length[..., None], noise), of_others)[0]
            share = direction[0, where[own.train], None]
            own_kept = _kept(own.shrunken, own.raw)
            own_length = own.weights.square().sum(1)[:, None]
            with_own = (own.weights @ others)[:, None] - share * own_length  # of the others' weights with the own ones
            with_ridge = (ridge @ others).repeat(len(where))[:, None]
            with_ridge[own.train] -= share * (own.weights @ ridge)[:, None]
            squared = ridge.square().sum() + 2 * kept * with_ridge + kept.square() * length[0, :, None]
            squared[own.train] += share.square() * own_kept.square() * own_length
            squared[own.train] += 2 * share * own_kept * ((own.weights @ ridge)[:, None] + kept[own.train] * with_own)
            errors[where] = (squared.clamp(min=0) * noise.variance).sqrt()
        return errors

    def _of_others(self, directions: Tensor, group: int, where: Tensor) -> tuple[Tensor, Tensor]:
        """Return corrections without the points' own part ``[directions, points, classes]``, and their squared lengths.

        The lengths are those of the weights of outputs, ``[directions, points]``.
        """
        weights = self.left_out_weights(summed_differences(self.pool, directions), self.penalty[group])
        own = self.own[group]
        share = directions[:, where[own.train]]
        of_others = self.weigh(weights, where)
        of_others[:, own.train] -= share[..., None] * own.raw
        length = weights.square().sum(1, keepdim=True).repeat(1, len(where))
        overlap = 2 * share * (weights @ own.weights.T) - share.square() * own.weights.square().sum(1)
        length[:, own.train] -= overlap
        return of_others, length.clamp(min=0)

    def _own_correction(self, group: int, where: Tensor) -> OwnCorrection:
        train = where < self.pool.n_train
        examples = where[train]
        weights, raw = torch.empty(len(self.pool), len(examples)).T, torch.empty(len(examples), self.means.shape[1])
        for part in blocks(len(examples), points_at_once(self.pool.logits)):
            own = difference_weights(self.pool.masks[:, examples[part]])
            weights[part] = self.left_out_weights(own, self.penalty[group])
            raw[part] = torch.einsum("pm,mpc->pc", weights[part], self.outputs(examples[part]))
        noise = self.noise[group]
        shrunken = self._shrink(raw, weights.square().sum(1)[:, None], Noise(noise.variance[train], noise.dimension))
        return OwnCorrection(train, weights, raw, shrunken)

    def _shrink(self, correction: Tensor, length: Tensor, noise: Noise) -> Tensor:
        """Return shrunken corrections ``[..., points, classes]``; their variance is ``length`` times the noise's."""
        if self.shrinkage == "none" or not correction.numel():
            return correction
        size, expected = correction.square(), length * noise.variance
        if self.shrinkage == "james_stein":
            size, expected = (values.sum((-2, -1), keepdim=True) for values in (size, expected))
            expected = expected * (1 + self.caution * (2 / noise.dimension) ** 0.5)
        return (1 - expected / size.clamp(min=1e-30)).clamp(min=0) * correction


def _kept(shrunken: Tensor, raw: Tensor) -> Tensor:
    """Return the share of every correction that shrinking left."""
    return torch.where(raw == 0, torch.zeros_like(raw), shrunken / raw)
