"""The difference of means (Feldman and Zhang, NeurIPS 2020, arXiv 2008.03703, equation 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from dmm_exp.attribution.estimator import LinearEstimator, SubsetModels
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
        pool: whose masks are looked at where a direction moves an example.
        directions: ``[directions, n_train]``.
    """
    total = torch.zeros(len(directions), len(pool))
    for examples in blocks(pool.n_train, points_at_once(pool.masks)):
        moved = directions[:, examples]
        if moved.any():
            total += moved @ difference_weights(pool.masks[:, examples])
    return total


class FeldmanZhang(LinearEstimator):
    """``Σ_{i∈F} (mean(Y, i in) − mean(Y, i out))``.

    Unbiased for the effect at the pool's training-set size, and noisy: its standard error is about ``2 s √(|F|/M)`` at
    α = 0.5, where s is the standard deviation of the output. Needs no more memory than a block of the pool.

    Raises:
        UserError: in ``fit``, an example is in all members, or in none.
    """

    tuned_by_group = False

    def prepare(self) -> None:
        """Check that every example has been left out, and left in."""
        check_in_and_out(self.pool.inside, len(self.pool))

    def predict_group(self, directions: Tensor, group: int, where: Tensor) -> Tensor:
        """Return the summed differences of means."""
        return self.weigh(summed_differences(self.pool, directions), where)

    def standard_error(self, forget: Tensor) -> Tensor:
        """Return the sampling error."""
        weights = difference_weights(self.pool.masks[:, forget]).sum(0)
        return self.sampling_error(weights, torch.arange(len(self.groups)))
