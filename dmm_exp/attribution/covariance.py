"""Covariances of what sets of rows do: sums of terms, and the amplitudes of these that data make likely."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from dmm_exp.attribution.shared_rows import CLASS_POWERS, SINGLE_TERMS, SharedRows
from dmm_exp.attribution.sums import LABEL, OTHER

BETAS = (0.9, 0.999)  # of Adam's moments
CONSTANT = 0.01  # covariance that all effects share: the sampling error of the originals' mean


def fitted_amplitudes(tasks: Sequence[tuple[Tensor, Tensor]], iterations: int) -> Tensor:
    """Return the amplitudes of terms and, last, of noise, ``[terms + 1]``, that maximise the likelihood of residuals.

    Args:
        tasks: terms ``[terms, members, members]`` and residuals ``[members, logits]`` of some points each; they take
            turns.
        iterations: steps of Adam (Kingma and Ba, ICLR 2015, algorithm 1), of falling size; torch's own would import
            torch's compiler, which takes longer than all steps.
    """
    count, members = tasks[0][0].shape[:2]
    logs = torch.full((count + 1,), -3.0)
    logs[-1] = 0
    first, second = torch.zeros_like(logs), torch.zeros_like(logs)  # moments of gradients
    for iteration in range(iterations):
        terms, residuals = tasks[iteration % len(tasks)]
        amplitudes = logs.exp()
        covariance = (amplitudes[:-1] @ terms.flatten(1)).view(members, members) + CONSTANT
        covariance.diagonal().add_(amplitudes[-1])
        precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
        white = precision @ residuals
        by_covariance = precision.addmm(white, white.T, alpha=-1 / residuals.shape[1])  # of twice the misfit
        slopes_of = torch.cat([terms.flatten(1) @ by_covariance.flatten(), by_covariance.trace()[None]])
        gradient = 0.5 * amplitudes * slopes_of / members + 2e-3 * logs / len(logs)
        first.lerp_(gradient, 1 - BETAS[0])
        second.lerp_(gradient.square(), 1 - BETAS[1])
        size = 0.4 * (1 - max(0, iteration - 1) / iterations) + (0.01 if iteration else 0)
        unbiased, squared = (
            moment / (1 - beta ** (iteration + 1)) for moment, beta in zip((first, second), BETAS, strict=True)
        )
        logs -= size * unbiased / (squared.sqrt() + 1e-8)
    return logs.exp()


class Terms:
    """Covariances of what two lists of sets do, as the points of one cluster after another see them.

    Args:
        shared: terms of the covariance.
        amplitudes: of all terms, first those that are the same anywhere, then those of single rows and of the cluster's
            neighbours, and last of noise, ``[kinds, terms + 1]``.
        first: sets of rows, ``[first, n_train]``.
        second: others, ``[second, n_train]``.
    """

    def __init__(self, shared: SharedRows, amplitudes: Tensor, first: Tensor, second: Tensor) -> None:
        self.shared, self.amplitudes, self.first, self.second = shared, amplitudes.tolist(), first, second
        self._common = len(CLASS_POWERS) + 1
        self._anywhere = [total + CONSTANT for total in self._sums(shared.anywhere(first, second), 0)]

    def of_class(self, label: int) -> Iterator[tuple[int, list[Tensor]]]:
        """Yield the clusters of a class, each with covariances by kind of logit, ``[first, second]``, without noise."""
        of_class = [
            common + self._sums(self.shared.single(label, kind, self.first, self.second), self._common)[kind]
            for kind, common in enumerate(self._anywhere)
        ]
        before = self._common + SINGLE_TERMS
        for cluster in self.shared.neighbourhoods.of_class(label):
            near = self._sums(self.shared.near(cluster, self.first, self.second), before)
            yield cluster, [own.add_(common) for own, common in zip(near, of_class, strict=True)]

    def _sums(self, terms: Iterable[Tensor], start: int) -> list[Tensor]:
        """Return the sum of terms times their amplitudes, for each kind of logit; one term at a time is in memory.

        Args:
            terms: each ``[first, second]``.
            start: number of the first one's amplitude.
        """
        totals = [torch.zeros(len(self.first), len(self.second)) for _ in (LABEL, OTHER)]
        for number, term in enumerate(terms, start):
            for total, amplitudes in zip(totals, self.amplitudes, strict=True):
                total.add_(term, alpha=amplitudes[number])
        return totals
