"""Adaptive shrinkage: posterior means under priors that are learned from many noisy numbers of one kind.

The difference between an estimate and its expectation, in standard errors z, is normal around the true difference, for
which each cell (a kind of number) has a distribution of its own: a mixture of normals of fixed widths, all centred at
the cell's mean (Stephens, Biostatistics 2017, with α = 1). Its weights are fitted by expectation–maximisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

REACH = 40.0  # end of the grid, in standard errors; beyond it shrinkage does not increase
STEP = 0.05
WIDTHS = (0.0, *(0.1 * 2 ** (0.75 * step) for step in range(12)))  # of the normals: 0, 0.1 ... 30
ROUNDS = 100
NULL_COUNT = 10.0  # numbers without effect that are added to every cell, so that small cells shrink


@dataclass(frozen=True)
class AdaptiveShrinkage:
    """Posterior means and variances of numbers in cells, in tables on a grid.

    Attributes:
        means: the mean of every cell, ``[cells]``.
        mixture: weights of the normals of :data:`WIDTHS`, ``[cells, widths]``.
        posterior_means: at every point of the grid, ``[cells, grid]``.
        posterior_variances: the same.
    """

    means: Tensor
    mixture: Tensor
    posterior_means: Tensor
    posterior_variances: Tensor

    @classmethod
    def of(cls, numbers: Tensor, cells: Tensor, count: int) -> AdaptiveShrinkage:
        """Return the tables that many numbers lead to.

        Args:
            numbers: estimates less their expectations, in standard errors, ``[numbers]``.
            cells: the cell of each. A cell without numbers has a prior of nothing but zeros.
            count: number of cells.
        """
        grid = torch.arange(-REACH, REACH + STEP / 2, STEP, dtype=torch.double)
        nearest = ((numbers.clamp(-REACH, REACH) + REACH) / STEP).round().long()
        seen = (cells * len(grid) + nearest).bincount(minlength=count * len(grid)).view(count, -1).double()
        means = (seen @ grid) / (seen.sum(1) + NULL_COUNT)
        apart = (grid - means[:, None])[..., None]
        widths = torch.tensor(WIDTHS, dtype=torch.double)
        total = 1 + widths.square()
        log_density = -0.5 * total.log() - 0.5 * apart.square() / total
        mixture = torch.full((count, len(widths)), 1 / len(widths), dtype=torch.double)
        density = (log_density - log_density.amax(-1, keepdim=True)).exp()
        for _ in range(ROUNDS):
            together = (density @ mixture[..., None]).squeeze(-1).clamp(min=1e-300)
            counts = mixture * ((seen / together)[:, None] @ density).squeeze(1)
            counts[:, 0] += NULL_COUNT
            mixture = (counts / counts.sum(1, keepdim=True)).clamp(min=1e-12)
        shares = torch.softmax(log_density + mixture.log()[:, None], -1)
        kept = widths.square() / total
        centre = (shares * kept * apart).sum(-1)
        second = (shares * (kept + (kept * apart).square())).sum(-1)
        posterior, variance = means[:, None] + centre, (second - centre.square()).clamp(min=0)
        return cls(means.float(), mixture.float(), posterior.float(), variance.float())

    def posterior(self, numbers: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Return posterior means, in standard errors, and variances, in their squares; see :meth:`expected`."""
        return self.expected(numbers, cells), self._interpolated(self.posterior_variances, numbers, cells)

    def expected(self, numbers: Tensor, cells: Tensor) -> Tensor:
        """Return posterior means alone, in standard errors.

        Values between two points of the grid are interpolated linearly; for a number beyond the grid the excess is
        added to the mean.

        Args:
            numbers: of any shape.
            cells: the cell of each, of the same shape.
        """
        means = self._interpolated(self.posterior_means, numbers, cells)
        return means + (numbers - numbers.clamp(-REACH, REACH))

    def _interpolated(self, table: Tensor, numbers: Tensor, cells: Tensor) -> Tensor:
        length, table = table.shape[1], table.view(-1)
        steps = (numbers.clamp(-REACH, REACH) + REACH) / STEP
        lower = steps.long().clamp_(max=length - 2)
        place, share = cells * length + lower, steps - lower
        return torch.lerp(table[place], table[place + 1], share)
