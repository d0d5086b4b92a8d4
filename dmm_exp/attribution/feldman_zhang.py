"""The difference of means (Feldman and Zhang, NeurIPS 2020, arXiv 2008.03703, equation 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from dmm_exp.attribution.estimator import LinearEstimator
from dmm_exp.errors import UserError


def difference_weights(masks: Tensor) -> Tensor:
    """Return ``[n_train, members]`` float32 weights that turn outputs into ``mean(i in) - mean(i out)``.

    Raises:
        UserError: an example is in all members, or in none.
    """
    inside = masks.sum(0)
    if bool((inside == 0).any() or (inside == len(masks)).any()):
        raise UserError(
            f"pool.size: with {len(masks)} members some training examples are in all of them or in none; ask for more"
        )
    weights = torch.where(masks, 1 / inside, -1 / (len(masks) - inside))
    return weights.T.contiguous().float()


class FeldmanZhang(LinearEstimator):
    """``Σ_{i∈F} (mean(Y, i in) − mean(Y, i out))``.

    Unbiased for the effect at the pool's training-set size, and noisy: its standard error is about ``2 s √(|F|/M)`` at
    α = 0.5, where s is the standard deviation of the output.
    """

    tuned_by_group = False

    def prepare(self) -> None:
        """Compute the weights of members."""
        self.weights = difference_weights(self.pool.masks)

    def predict_group(self, directions: Tensor, group: int, where: Tensor) -> Tensor:
        """Return the summed differences of means."""
        return self.weigh(directions @ self.weights, where)

    def standard_error(self, forget: Tensor) -> Tensor:
        """Return the sampling error."""
        return self.sampling_error(self.weights[forget].sum(0), torch.arange(len(self.groups)))
