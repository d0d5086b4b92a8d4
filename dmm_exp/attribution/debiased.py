"""Ridge as a control variate for the difference of means: unbiased like the second, precise like the first."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dmm_exp.attribution.datamodel import Datamodel
from dmm_exp.attribution.feldman_zhang import difference_weights

Shrinkage = Literal["james_stein", "elementwise", "none"]

ERROR_BLOCKS = 128  # blocks of members from which the variance of residuals is estimated


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
        self.variance = {group: self._residual_variance(group, where) for group, where in self.group_points()}
        self.own = {group: self._own_correction(group, where) for group, where in self.group_points()}

    def predict_group(self, directions: Tensor, group: int, where: Tensor) -> Tensor:
        """Return ridge plus both shrunken parts of the correction."""
        difference = directions @ self.weights
        total = self.weigh(self.correction_weights(difference, group), where)
        squared_error = self._squared_error(difference, group)
        train, own, own_squared_error, shrunken = self.own[group]
        share = directions[:, where[train], None]
        squared_error[:, train] = (squared_error[:, train] - share.square() * own_squared_error).clamp(min=0)
        total[:, train] -= share * own
        corrected = super().predict_group(directions, group, where) + self._shrink(total, squared_error)
        corrected[:, train] += share * shrunken
        return corrected

    def correction_weights(self, difference: Tensor, group: int) -> Tensor:
        """Return the weights of outputs that give the difference of means of left-out residuals.

        They are ``difference · B(I − H)``; both factors are symmetric, so the transpose is applied from the left.
        """
        penalty = self.penalty[group]
        return self.residual_maker(self.unblock(difference.T, penalty), penalty).T

    def _own_correction(self, group: int, where: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Correct each training example's effect on its own logits.

        Returns:
            Which of the group's points are training examples ``[points]`` bool, their corrections
            ``[examples, classes]``, their squared standard errors and their shrunken values, of the same shape.
        """
        train = where < self.pool.masks.shape[1]
        difference = self.weights[where[train]]
        own = torch.einsum("pm,mpc->pc", self.correction_weights(difference, group), self.outputs[:, where[train]])
        rows = torch.arange(len(own))
        squared_error = self._squared_error(difference, group)[rows, train.nonzero().squeeze(1)]
        return train, own, squared_error, self._shrink(own[None], squared_error[None])[0]

    def _residual_variance(self, group: int, where: Tensor) -> Tensor:
        """Return the variance of a block's left-out residual, ``[points, classes]``, from an even sample of blocks.

        In a complementary pair the two weights are opposite, and so the difference of the two residuals is what counts.
        """
        block, blocks = self.pool.block, len(self.pool) // self.pool.block
        chosen = torch.arange(0, blocks, max(1, blocks // ERROR_BLOCKS))
        members = (chosen[:, None] * block + torch.arange(block)).flatten()
        selection = torch.zeros(len(members), len(self.pool))
        selection[torch.arange(len(members)), members] = 1
        residuals = self.weigh(self.correction_weights(selection, group), where).unflatten(0, (len(chosen), block))
        contrast = residuals[:, 0] - residuals[:, 1] if block == 2 else residuals[:, 0]
        return contrast.square().mean(0)

    def _squared_error(self, difference: Tensor, group: int) -> Tensor:
        """Return the squared standard error ``[rows, points, classes]`` of corrections; blocks are independent."""
        weight = difference.unflatten(1, (-1, self.pool.block))[:, :, 0].square().sum(1)
        return weight[:, None, None] * self.variance[group]

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
