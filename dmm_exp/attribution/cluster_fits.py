"""What members by design tell of one cluster of points after another; classes are computed by several threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from dmm_exp.attribution.covariance import Terms
from dmm_exp.attribution.evidence import SubsetModels
from dmm_exp.attribution.shared_rows import SharedRows
from dmm_exp.attribution.spread import Residuals, Spread, margin_errors
from dmm_exp.attribution.sums import LABEL, Sums, leaves_out
from dmm_exp.ensembles.memory import return_free_memory

THREADS = 4  # at most: each holds matrices [members, members] of all terms
SPREAD_POINTS = 15  # of a cluster, from which it is learnt how much models vary
SPREAD_CLUSTERS = 2  # of each class's clusters every second one: half of them tell as much

Part = TypeVar("Part")
Found = TypeVar("Found")


def in_threads(function: Callable[[Part], Found], parts: Iterable[Part]) -> list[Found]:
    """Return what a function finds for each part; threads compute on one core each, as many as torch would use."""
    before = torch.get_num_threads()
    return_free_memory()
    torch.set_num_threads(1)
    threads = ThreadPoolExecutor(min(before, THREADS))
    try:
        return list(threads.map(function, parts))
    finally:
        threads.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
        return_free_memory()


def factor_of(triangles: Tensor, kind: int) -> Tensor:
    """Return the part of two triangles ``[members + 1, members]`` whose lower triangle is the factor of a kind.

    What is above its diagonal belongs to the factor of the other kind of logit.
    """
    return triangles[1:] if kind == LABEL else triangles[:-1].mT


@dataclass(frozen=True)
class ClusterFits:
    """Factors of the members' covariance, what members leave to explain, and their errors, cluster by cluster.

    Attributes:
        sums: of single effects.
        shared: terms of the covariance.
        amplitudes: of terms and, last, of noise, ``[kinds, terms + 1]``.
        spread: gives features of sets.
        designs: the members.
        left_out: what they were trained without, ``[members, n_train]``.
        factors: two triangles a cluster, see :func:`factor_of`, ``[clusters, members + 1, members]``; made by
            :meth:`learn`, as are all others.
        residuals: what members leave to explain, in standard deviations, ``[members, points, classes]`` float16, with
            points in the order of clusters.
        weighed: of each point's effect on itself, ``Σ o K⁻¹ residuals`` over members, ``[points, classes]``.
        known: its precision ``o K⁻¹ o``.
    """

    sums: Sums
    shared: SharedRows
    amplitudes: Tensor
    spread: Spread
    designs: SubsetModels
    left_out: Tensor
    factors: Tensor
    residuals: Tensor
    weighed: Tensor
    known: Tensor

    @classmethod
    def of(
        cls, sums: Sums, shared: SharedRows, amplitudes: Tensor, spread: Spread, designs: SubsetModels, left_out: Tensor
    ) -> ClusterFits:
        """Return room for what is to be learnt."""
        clusters, members, shape = len(shared.neighbourhoods.label), len(left_out), sums.mean.shape
        return cls(
            sums,
            shared,
            amplitudes,
            spread,
            designs,
            left_out,
            factors=torch.zeros(clusters, members + 1, members),
            residuals=torch.empty(members, *shape, dtype=torch.float16),
            weighed=torch.zeros(shape),
            known=torch.zeros(shape),
        )

    def learn(self) -> tuple[Residuals, Residuals]:
        """Learn from all clusters; return what tells how much models vary, see :meth:`Spread.learnt`."""
        terms = Terms(self.shared, self.amplitudes, self.left_out, self.left_out)
        found = in_threads(lambda label: self._of_class(terms, label), self.shared.neighbourhoods.labels)
        samples, gone = zip(*(of_cluster for of_class in found for of_cluster in of_class), strict=True)
        return Residuals.joined(samples), Residuals.joined(gone)

    def _of_class(self, terms: Terms, label: int) -> list[tuple[Residuals, Residuals]]:
        """Learn from the clusters of a class; return what members tell of models' variance."""
        found = []
        for number, (cluster, covariances) in enumerate(terms.of_class(label)):
            points = self.shared.neighbourhoods.points(cluster)
            rest = self.sums.unexplained(self.designs, self.left_out, points)
            self.residuals[:, self.shared.neighbourhoods.span(cluster)] = rest.clamp(-60000, 60000)
            for kind, covariance in enumerate(covariances):
                covariance.diagonal().add_(self.amplitudes[kind, -1])
                factor_of(self.factors[cluster], kind).add_(torch.linalg.cholesky(covariance))
                self._weigh(cluster, kind, points, rest)
            sampled = torch.zeros(len(points), dtype=torch.bool)
            if number % SPREAD_CLUSTERS == 0:
                sampled[:: max(1, len(points) // SPREAD_POINTS)] = True
            found.append(self._of_margins(cluster, points, rest, sampled))
        return found

    def _weigh(self, cluster: int, kind: int, points: Tensor, rest: Tensor) -> None:
        """Find what members tell of the effects of a cluster's points on themselves."""
        goes, ours = leaves_out(self.left_out, points), self.sums.kinds(points) == kind
        solved = torch.cholesky_solve(goes, factor_of(self.factors[cluster], kind))
        own = torch.einsum("mp,mpc->pc", solved, rest)
        seen = (goes * solved).sum(0)[:, None].expand_as(own)
        self.weighed[points] = torch.where(ours, own, self.weighed[points])
        self.known[points] = torch.where(ours, seen, self.known[points])

    def _of_margins(self, cluster: int, points: Tensor, rest: Tensor, sampled: Tensor) -> tuple[Residuals, Residuals]:
        """Return how far margins are from what all other members predict.

        Args:
            cluster: which.
            points: of the cluster.
            rest: what members leave to explain, ``[members, points, classes]``.
            sampled: the points at which all members are looked at; at memorized ones, only members without them.
        """
        hard, sums = self.sums.hard(points), self.sums
        some = sampled | hard
        points, rest, sampled, hard = points[some], rest[:, some], sampled[some], hard[some]
        kinds, labels, deviation = sums.kinds(points), sums.labels[points], sums.deviation[points]
        errors, doubt = torch.empty_like(rest), torch.empty(2, len(rest))
        for kind in range(len(doubt)):
            ours, factor = kinds == kind, factor_of(self.factors[cluster], kind)
            errors[:, ours], doubt[kind] = _left_out(factor, rest[:, ours], self.amplitudes[kind, -1])
        of_margins = margin_errors(errors * deviation, self.designs.logits[:, points].float(), labels)
        scale = sums.margin_deviation[points]
        known = doubt[LABEL][:, None] * (deviation.gather(1, labels[:, None])[:, 0] / scale).square()
        features = self.spread.features(cluster, points, self.left_out)
        squares, goes = (of_margins / scale).square(), leaves_out(self.left_out, points) > 0

        def where(chosen: Tensor) -> Residuals:
            at = points.expand_as(chosen)[chosen]
            return Residuals(at, features[chosen], squares[chosen], known[chosen])

        return where(sampled.expand_as(goes)), where(hard & goes)


def _left_out(factor: Tensor, residuals: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return errors of predicting every member from the others, and the variance that these predictions have.

    They are ``[members, logits]`` and ``[members]``, in closed form: ``K⁻¹r / diag K⁻¹``, and ``1 / diag K⁻¹`` less the
    noise.
    """
    precision = torch.cholesky_inverse(factor)
    alone = precision.diagonal()
    return precision @ residuals / alone[:, None], (1 / alone - noise).clamp(min=0)
