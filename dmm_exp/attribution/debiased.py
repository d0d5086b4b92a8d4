"""Ridge as a control variate for the difference of means: unbiased like the second, precise like the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dmm_exp.attribution.datamodel import Datamodel
from dmm_exp.attribution.feldman_zhang import difference_weights

Shrinkage = Literal["james_stein", "elementwise", "none"]

NOISE_BLOCKS = 128  # blocks of members from which the variance of noise is estimated


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

    * ``james_stein``: by ``max(0, 1 − Σse²/Σc²)``, one factor for each group of outputs;
    * ``elementwise``: each output by ``max(0, 1 − se²/c²)``;
    * ``none``: not at all;

    and no output is moved by more than ``limit`` standard errors: the few that are truly large are not dragged along
    with the many that are not (limited translation: Efron and Morris, JASA 1972).

    Args:
        shrinkage: one of the three.
        limit: largest shift of an output by shrinkage, in standard errors; None for no limit.
        penalties: see :class:`Datamodel`.
        tuning_outputs: see :class:`Datamodel`.
    """

    def __init__(
        self,
        shrinkage: Shrinkage = "james_stein",
        limit: float | None = 1.5,
        penalties: list[float] | None = None,
        tuning_outputs: int = 200,
    ) -> None:
        super().__init__(penalties, tuning_outputs)
        self.shrinkage = shrinkage
        self.limit = limit

    def prepare(self) -> None:
        """Fit ridge, and correct what each training example does to itself."""
        super().prepare()
        self.weights = difference_weights(self.pool.masks)
        self.variance = {group: self._noise_variance(group, where) for group, where in self.group_points()}
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
        corrected = self._shrink(of_others, length.clamp(min=0)[..., None] * self.variance[group])
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
        squared_error = weights.square().sum(1)[:, None] * self.variance[group][train]
        return OwnCorrection(train, weights, raw, self._shrink(raw[None], squared_error[None])[0])

    def _noise_variance(self, group: int, where: Tensor) -> Tensor:
        """Return the variance of outputs that no mask explains, ``[points, classes]``, from an even sample of blocks.

        It is the mean product of a residual and its left-out version, in which the degrees of freedom that the fit took
        cancel. In a complementary pair weights are opposite, so the difference of the two members is what counts.
        """
        block, blocks = self.pool.block, len(self.pool) // self.pool.block
        chosen = torch.arange(0, blocks, max(1, blocks // NOISE_BLOCKS))
        contrast = torch.zeros(len(chosen), len(self.pool))
        contrast[torch.arange(len(chosen)), chosen * block] = block**-0.5
        if block == 2:
            contrast[torch.arange(len(chosen)), chosen * block + 1] = -(block**-0.5)
        residual = self.residual_maker(contrast.T, self.penalty[group]).T
        left_out = self.correction_weights(contrast, group)
        return (self.weigh(residual, where) * self.weigh(left_out, where)).mean(0).clamp(min=0)

    def _shrink(self, correction: Tensor, squared_error: Tensor) -> Tensor:
        """Return shrunken corrections ``[rows, points, classes]``."""
        if self.shrinkage == "none" or not correction.numel():
            return correction
        size, noise = correction.square().clamp(min=1e-30), squared_error
        if self.shrinkage == "james_stein":
            size, noise = size.sum((1, 2), keepdim=True), noise.sum((1, 2), keepdim=True)
        shrunken = (1 - noise / size).clamp(min=0) * correction
        if self.limit is None:
            return shrunken
        reach = self.limit * squared_error.sqrt()
        return shrunken.clamp(correction - reach, correction + reach)
