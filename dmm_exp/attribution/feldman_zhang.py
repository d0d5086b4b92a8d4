"""The difference of means (Feldman and Zhang, NeurIPS 2020, arXiv 2008.03703, equation 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dmm_exp.attribution.estimator import Effect, Estimator, Learned, towards
from dmm_exp.attribution.evidence import CentredLogits, Evidence, SubsetModels
from dmm_exp.errors import UserError
from dmm_exp.store import blocks, points_at_once


def difference_weights(masks: Tensor) -> Tensor:
    """Return ``[examples, members]`` float32 weights that turn outputs into ``mean(i in) - mean(i out)``.

    Args:
        masks: ``[members, examples]`` bool.

    Raises:
        UserError: an example is in all members, or in none.
    """
    inside = masks.float().sum(0)
    check_in_and_out(inside, len(masks))
    weights = torch.where(masks, 1 / inside, -1 / (len(masks) - inside))
    return weights.T.contiguous().float()


def check_in_and_out(inside: Tensor, members: int) -> None:
    """Check that there are members with and without every example; ``inside`` counts the first.

    Raises:
        UserError: an example is in all members, or in none.
    """
    if bool((inside == 0).any() or (inside == members).any()):
        raise UserError(
            f"pool.size: with {members} members some training examples are in all of them or in none; ask for more"
        )


def summed_differences(pool: SubsetModels, directions: Tensor) -> Tensor:
    """Return ``[directions, members]`` weights of outputs: those of examples' differences of means, times directions.

    Args:
        pool: its masks are read only where a direction moves an example.
        directions: ``[directions, n_train]``.
    """
    total = torch.zeros(len(directions), len(pool))
    for examples in blocks(pool.n_train, points_at_once(pool.masks)):
        moved = directions[:, examples]
        if moved.any():
            total += moved @ difference_weights(pool.masks[:, examples])
    return total


class FeldmanZhang(Estimator):
    """``Σ_{i∈F} (mean(Y, i in) − mean(Y, i out))``.

    Unbiased for the effect at the pool's training-set size, and noisy: its standard error is about ``2 s √(|F|/M)`` at
    α = 0.5, where s is the standard deviation of the output. Needs no more memory than a block of the pool.
    """

    def learn(self, evidence: Evidence) -> Differences:
        """Check that every example has been left out, and left in.

        Raises:
            UserError: an example is in all members, or in none.
        """
        pool = evidence.subset_models
        check_in_and_out(pool.inside, len(pool))
        return Differences(CentredLogits.of(pool), evidence.points_of_groups)


@dataclass(frozen=True)
class Differences(Learned):
    """Differences of means.

    Attributes:
        logits: of the pool.
        points: of every group; points of one group are predicted together, since rounding may depend on it.
    """

    logits: CentredLogits
    points: Mapping[int, Tensor]

    def effect(self, rows: Tensor) -> Effect:
        """Return the summed differences of means, and their sampling error."""
        pool = self.logits.pool
        weights = difference_weights(pool.masks[:, rows]).sum(0)
        return Effect(self.predict(towards(rows, pool.n_train))[0], self.logits.sampling_error(weights))

    def predict(self, directions: Tensor) -> Tensor:
        """Return the summed differences of means, ``[directions, points, classes]``."""
        changes = torch.empty(len(directions), *self.logits.means.shape)
        weights = summed_differences(self.logits.pool, directions)
        for where in self.points.values():
            changes[:, where] = self.logits.weigh(weights, where)
        return changes
