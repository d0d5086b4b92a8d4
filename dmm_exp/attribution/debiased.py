"""Ridge as a control variate for the difference of means: unbiased like the second, precise like the first."""

from __future__ import annotations

from typing import Any, Literal

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
    correction c with standard error se is then shrunk towards ridge:

    * ``james_stein``: by ``max(0, 1 − Σse²/Σc²)``, one factor for each group of outputs;
    * ``elementwise``: each output by ``max(0, 1 − se²/c²)``;
    * ``none``: not at all.

    Args:
        shrinkage: one of the three.
        penalties: see :class:`Datamodel`.
        tuning_outputs: see :class:`Datamodel`.
    """

    def __init__(
        self,
        shrinkage: Shrinkage = "james_stein",
        penalties: list[float] | None = None,
        tuning_outputs: int = 200,
    ) -> None:
        super().__init__(penalties, tuning_outputs)
        self.shrinkage = shrinkage
        self.factors: dict[int, float] = {}

    def predict_group(self, directions: Tensor, group: int, outputs: Tensor) -> Tensor:
        """Return ridge plus the shrunken correction."""
        penalty = self.penalty[group]
        difference = directions @ difference_weights(self.pool.masks)
        correction = self.correction_weights(difference, penalty) @ outputs
        factor = self._factor(correction, self._squared_error(difference, outputs, penalty))
        self.factors[group] = float(factor.mean())
        return self.member_weights(directions, penalty) @ outputs + factor * correction

    def correction_weights(self, difference: Tensor, penalty: float) -> Tensor:
        """Return the weights of outputs that give the difference of means of left-out residuals.

        They are ``difference · B(I − H)``; both factors are symmetric, so the transpose is applied from the left.
        """
        return self.residual_maker(self.unblock(difference.T, penalty), penalty).T

    def _squared_error(self, difference: Tensor, outputs: Tensor, penalty: float) -> Tensor:
        """Return the squared standard error of the correction, ``[directions, outputs]``.

        Blocks of members are independent: the variance is that of the block's contribution, summed over blocks. In a
        complementary pair the two weights are opposite, and so the difference of the two residuals is what matters.
        """
        block, blocks = self.pool.block, len(self.pool) // self.pool.block
        chosen = torch.arange(0, blocks, max(1, blocks // ERROR_BLOCKS))
        members = (chosen[:, None] * block + torch.arange(block)).flatten()
        selection = torch.zeros(len(members), len(self.pool))
        selection[torch.arange(len(members)), members] = 1
        residuals = self.correction_weights(selection, penalty) @ outputs
        by_block = residuals.view(len(chosen), block, -1)
        contrast = by_block[:, 0] - by_block[:, 1] if block == 2 else by_block[:, 0]
        weight = difference.view(len(difference), blocks, block)[:, :, 0].square().sum(1)
        return weight[:, None] * contrast.square().mean(0)

    def _factor(self, correction: Tensor, squared_error: Tensor) -> Tensor:
        if self.shrinkage == "none":
            return torch.ones(1, 1)
        if self.shrinkage == "elementwise":
            return (1 - squared_error / correction.square().clamp(min=1e-30)).clamp(min=0)
        total = correction.square().sum(1, keepdim=True).clamp(min=1e-30)
        return (1 - squared_error.sum(1, keepdim=True) / total).clamp(min=0)

    def facts(self) -> dict[str, Any]:
        """Return the chosen λ and the shrinkage factor of every group."""
        return super().facts() | {"shrinkage": {str(group): value for group, value in self.factors.items()}}
