"""Averages of members' outputs on their own training points during training.

These are the proxies of memorization that Zhao et al., "Scalability of memorization-based machine unlearning", arXiv
2410.16516, average over the epochs of training. The logits are those from which the loss is computed, so that no extra
evaluation is needed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PROXIES = ("confidence", "max_confidence", "entropy", "binary_accuracy")


class Trajectory:
    """Averages the proxies of every member over its visits to every training point; no logits are kept.

    Args:
        members: how many are trained together.
        n_train: number of training points.
    """

    def __init__(self, members: int, n_train: int) -> None:
        self._sums = torch.zeros(len(PROXIES) + 1, members, n_train)  # the last counts visits

    def update(self, indices: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a training step: point indices and labels ``[members, batch]``, logits ``[members, batch, classes]``."""
        self._sums = self._sums.to(logits.device)
        log_p = logits.log_softmax(2)
        p = log_p.exp()
        largest, answer = p.max(2)
        values = [
            p.gather(2, labels[..., None]).squeeze(2),
            largest,
            -(p * log_p).sum(2),
            (answer == labels).float(),
            torch.ones_like(largest),
        ]
        self._sums.scatter_add_(2, indices.expand(len(values), -1, -1), torch.stack(values))

    def join(self, total: Callable[[Tensor], Tensor]) -> None:
        """Add up the values of several processes; ``total`` returns the sum of a tensor over processes."""
        self._sums = total(self._sums)

    def mean(self) -> dict[str, Tensor]:
        """Return the mean over visits of each of ``PROXIES``: ``[members, n_train]``, NaN where there was no visit.

        ``confidence`` is the probability of the true class, ``max_confidence`` the largest probability, ``entropy`` is
        in nats, ``binary_accuracy`` is the share of visits with the right answer.
        """
        *sums, visits = self._sums.cpu()
        return {name: total / visits for name, total in zip(PROXIES, sums, strict=True)}
