"""Ridge as a control variate for the difference of means: unbiased like the second, precise like the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dmm_exp.attribution.datamodel import Datamodel
from dmm_exp.attribution.feldman_zhang import difference_weights
from dmm_exp.errors import UserError

Shrinkage = Literal["james_stein", "elementwise", "none"]

NOISE_BLOCKS = 128  # blocks of members from which the variance of noise is estimated


@dataclass(frozen=True)
class Noise:
    """What of one group's outputs no mask explains.

    Attributes:
        variance: ``[points, classes]``.
        dimension: number of independent outputs whose total would vary as much.
    """

    variance: Tensor
    dimension: float


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
        super().__init__(penalties, tuning_outputs)
        self.shrinkage = shrinkage
        self.caution = caution
        if caution < 0:
            raise UserError(f"attribution.caution={caution}: expected a number of at least 0")

    def prepare(self) -> None:
        """Fit ridge, and correct what each training example does to itself."""
        super().prepare()
        self.weights = difference_weights(self.pool.masks)
        self.noise = {group: self._noise(group, where) for group, where in self.group_points()}
        self.own = {group: self._own_correction(group, where) for group, where in self.group_points()}

    def predict_group(self, directions: Tensor, group: int, where: Tensor) -> Tensor:
        """Return ridge plus both shrunken parts of the correction."""
        weights = self.correction_weights(directions @ self.weights, group)
        own = self.own[group]
        share = directions[:, where[own.train]]
        of_others = self.weigh(weights, where)
        of_others[:, own.train] -= share[..., None] * own.raw
        length = weights.square().sum(1, keepdim=True).repeat(1, len(where))
        overlap = 2 * share * (weights @ own.weights.T) - share.square() * own.weights.square().sum(1)
        length[:, own.train] -= overlap
        corrected = self._shrink(of_others, length.clamp(min=0)[..., None], self.noise[group])
        corrected[:, own.train] += share[..., None] * own.shrunken
        return super().predict_group(directions, group, where) + corrected

    def correction_weights(self, difference: Tensor, group: int) -> Tensor:
        """Return the weights of outputs that give the difference of means of left-out residuals.

        They are ``difference · B(I − H)``; both factors are symmetric, so the transpose is applied from the left. Since
        the correction is this weighted sum, its squared standard error is the squared length of the weights times the
        variance of an output's noise.
        """
        penalty = self.penalty[group]
        return self.residual_maker(self.unblock(difference.T, penalty), penalty).T

    def _own_correction(self, group: int, where: Tensor) -> OwnCorrection:
        train = where < self.pool.masks.shape[1]
        weights = self.correction_weights(self.weights[where[train]], group)
        raw = torch.einsum("pm,mpc->pc", weights, self.outputs[:, where[train]])
        noise = self.noise[group]
        shrunken = self._shrink(raw, weights.square().sum(1)[:, None], Noise(noise.variance[train], noise.dimension))
        return OwnCorrection(train, weights, raw, shrunken)

    def _noise(self, group: int, where: Tensor) -> Noise:
        """Return the noise of outputs that no mask explains, from an even sample of blocks.

        Its variance is the mean product of a residual and its left-out version, in which the degrees of freedom that
        the fit took cancel. Weights of complementary members differ in sign: the difference of two of them counts.
        """
        block, blocks = self.pool.block, len(self.pool) // self.pool.block
        chosen = torch.arange(0, blocks, max(1, blocks // NOISE_BLOCKS))
        contrast = torch.zeros(len(chosen), len(self.pool))
        contrast[torch.arange(len(chosen)), chosen * block] = block**-0.5
        if block > 1:
            contrast[torch.arange(len(chosen)), chosen * block + 1] = -(block**-0.5)
        residual = self.residual_maker(contrast.T, self.penalty[group]).T
        left_out = self.correction_weights(contrast, group)
        seen, unseen = self.weigh(residual, where), self.weigh(left_out, where)
        gram = unseen.flatten(1) @ unseen.flatten(1).T
        apart = gram[~torch.eye(len(gram), dtype=torch.bool)]
        dimension = float(gram.diagonal().mean().square() / apart.square().mean().clamp(min=1e-30))
        return Noise(((seen * unseen).sum(0) / (residual * left_out).sum()).clamp(min=0), max(1.0, dimension))

    def _shrink(self, correction: Tensor, length: Tensor, noise: Noise) -> Tensor:
        """Return shrunken corrections ``[..., points, classes]``; their variance is ``length`` times the noise's."""
        if self.shrinkage == "none" or not correction.numel():
            return correction
        size, expected = correction.square(), length * noise.variance
        if self.shrinkage == "james_stein":
            size, expected = (values.sum((-2, -1), keepdim=True) for values in (size, expected))
            expected = expected * (1 + self.caution * (2 / noise.dimension) ** 0.5)
        return (1 - expected / size.clamp(min=1e-30)).clamp(min=0) * correction
