"""What two sets of rows have in common, as seen from some points: the covariance of what leaving them out does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmm_exp.pools import Known

POWERS = (1, 4, 24)  # of what is shared: the higher, the more has to go before anything happens
CLASS_POWERS = (2, 24)
SINGLE_TERMS = 2  # what single rows do, and its square


@dataclass(frozen=True)
class Neighbourhoods:
    """Points in clusters, and which training rows lie near each cluster.

    Attributes:
        cluster: number of every point's cluster, ``[points]``.
        label: the class of every cluster's points, ``[clusters]``.
        near: weights of the training rows for each sense of likeness, ``[senses, clusters, n_train]``: rows of the
            cluster's class by their mean squared likeness to its points. They sum to 1.
    """

    cluster: Tensor
    label: Tensor
    near: Tensor

    @classmethod
    def of(cls, known: Known, per_class: int, alike: Sequence[str]) -> Neighbourhoods:
        """Cut the points of every class into clusters of those that are near the same training rows (k-means).

        Args:
            known: of the data.
            per_class: number of clusters of a class, at most its number of points.
            alike: senses of likeness, see :meth:`Known.representation`.
        """
        from sklearn.cluster import KMeans

        cluster, label, near = torch.zeros(len(known.labels), dtype=torch.long), [], []  # 0 for classes without rows
        for rows in known.classes:
            this = int(known.labels[rows[0]])
            points = (known.labels == this).nonzero().squeeze(1)
            likeness = torch.stack([_likeness(known.representation(sense), points, rows) for sense in alike])
            found = KMeans(min(per_class, len(points)), random_state=0).fit_predict(
                torch.cat([values - values.mean(0) for values in likeness], 1).numpy()
            )
            for number in sorted(set(found.tolist())):
                inside = torch.from_numpy(found == number)
                weights = torch.zeros(len(alike), known.n_train)
                weights[:, rows] = likeness[:, inside].square().mean(1)
                cluster[points[inside]] = len(label)
                label.append(this)
                near.append(weights / weights.sum(1, keepdim=True).clamp(min=1e-12))
        return cls(cluster, torch.tensor(label), torch.stack(near, 1))

    @property
    def labels(self) -> list[int]:
        """Classes that have clusters, in order."""
        return self.label.unique().tolist()

    def of_class(self, label: int) -> list[int]:
        """Return the clusters of a class."""
        return (self.label == label).nonzero().squeeze(1).tolist()

    def points(self, cluster: int) -> Tensor:
        """Return the points of a cluster."""
        return (self.cluster == cluster).nonzero().squeeze(1)

    def span(self, cluster: int) -> slice:
        """Return where a cluster's points stand among all points in the order of clusters."""
        before, own = int((self.cluster < cluster).sum()), int((self.cluster == cluster).sum())
        return slice(before, before + own)


def _likeness(representation: Tensor, points: Tensor, rows: Tensor) -> Tensor:
    return (representation[points] @ representation[rows].T).clamp(min=0)


@dataclass(frozen=True)
class SharedRows:
    """Terms of the covariance of two sets' effects, each a matrix ``[first, second]`` that is positive semidefinite.

    Attributes:
        neighbourhoods: of the points.
        sizes: mean squared effects of single rows on the points of a class, ``[kinds, classes, n_train]``.
        memorization: of the rows, ``[n_train]``.
        classes: training rows of every class.
    """

    neighbourhoods: Neighbourhoods
    sizes: Tensor
    memorization: Tensor
    classes: Sequence[Tensor]

    def single(self, label: int, kind: int, first: Tensor, second: Tensor) -> list[Tensor]:
        """Return the terms of what single rows do to the points of a class: ``Σ v_j a_j b_j`` and its square.

        Args:
            label: of the points.
            kind: of the logit: 0 for the label's, 1 for others.
            first: sets of rows, ``[first, n_train]`` float32: 1 where a row is left out.
            second: others, ``[second, n_train]``.
        """
        rows = first.any(0).nonzero().squeeze(1)  # others add nothing
        shared = (first[:, rows] * self.sizes[kind, label, rows]) @ second[:, rows].T
        return [shared, shared.square()]

    def near(self, cluster: int, first: Tensor, second: Tensor) -> Iterator[Tensor]:
        """Yield the shares of a cluster's neighbours that both sets leave out, in each sense, to several powers."""
        held = first.any(0)
        for weights in self.neighbourhoods.near[:, cluster]:
            rows = (weights * held).nonzero().squeeze(1)  # others add nothing
            yield from _powers((first[:, rows] * weights[rows]) @ second[:, rows].T, POWERS)

    def anywhere(self, first: Tensor, second: Tensor) -> Iterator[Tensor]:
        """Yield the terms that are the same for all points: shares of classes, numbers of rows."""
        shares = [first.new_zeros(len(first), len(second)) for _ in CLASS_POWERS]
        for rows in self.classes:
            held = rows[first[:, rows].any(0)]  # others add nothing
            share = first[:, held] @ second[:, held].T / len(rows)
            for total, values in zip(shares, _powers(share, CLASS_POWERS), strict=True):
                total += values
        yield from shares
        yield (first.mean(1) * 10)[:, None] * (second.mean(1) * 10)


def _powers(values: Tensor, powers: Sequence[int]) -> Iterator[Tensor]:
    """Yield rising powers of some values, by products of those before: a general power takes ten times as long."""
    known = {1: values}
    for power in powers:
        yield _power(known, power)


def _power(known: dict[int, Tensor], power: int) -> Tensor:
    if power not in known:
        largest = max(below for below in known if below <= power / 2 or below == 1)
        known[power] = _power(known, power - largest) * known[largest]
    return known[power]
