"""Sums of single effects over sets of rows, and how far they hold at the size of the whole training set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dmm_exp.attribution.empirical_bayes import PosteriorMeans
from dmm_exp.attribution.evidence import SubsetModels
from dmm_exp.attribution.priors import BLOCK_VALUES
from dmm_exp.models import margin

HARD = 0.1  # memorization above which an example's own effect has a slope of its own
RIDGE = 1e-4
LABEL, OTHER = 0, 1  # kinds of logits: of the point's label, and the others


@dataclass(frozen=True)
class Sums:
    """Sums of single effects of the rows of a set, in standard deviations over the originals.

    Attributes:
        singles: effects at the size of the pool's subsets.
        mean: of the originals' logits, ``[points, classes]``.
        deviation: of the originals' logits over members, ``[points, classes]``.
        margin_deviation: of the originals' margins over members, ``[points]``.
        memorization: of the training rows, ``[n_train]``.
        slopes: by kind of logit, what to multiply parts with, ``[kinds, parts]``.
    """

    singles: PosteriorMeans
    mean: Tensor
    deviation: Tensor
    margin_deviation: Tensor
    memorization: Tensor
    slopes: Tensor

    @classmethod
    def of(cls, singles: PosteriorMeans, originals: Tensor, memorization: Tensor) -> Sums:
        """Return sums whose slopes are not known yet."""
        deviation = originals.std(0)
        deviation = deviation.clamp(min=1e-3 * float(deviation.mean()) + 1e-12)
        of_margins = margin(originals, singles.priors.estimates.labels).std(0).clamp(min=1e-12)
        return cls(singles, originals.mean(0), deviation, of_margins, memorization, torch.empty(0))

    @cached_property
    def labels(self) -> Tensor:
        """Of all points."""
        return self.singles.priors.estimates.labels

    def kinds(self, points: Tensor) -> Tensor:
        """Return the kind of each logit of some points, ``[points, classes]``."""
        return (torch.arange(self.mean.shape[1]) != self.labels[points, None]).long()

    def hard(self, points: Tensor) -> Tensor:
        """Return which points are training rows that are memorized, ``[points]``."""
        n_train = len(self.memorization)
        return (points < n_train) & (self.memorization[points.clamp(max=n_train - 1)] > HARD)

    def observed(self, models: SubsetModels, points: Tensor) -> Tensor:
        """Return by how much models' logits lie below the originals' mean, ``[models, points, classes]``."""
        return (self.mean[points] - models.logits[:, points].float()) / self.deviation[points]

    def parts(self, sets: Tensor, points: Tensor) -> Tensor:
        """Return what sets of rows do, ``[parts, sets, points, classes]``.

        Parts are effects of other rows on points that stay and on points that go themselves, and points' effects on
        themselves, of those that are hardly memorized and the others.

        Args:
            sets: ``[sets, n_train]``, 1 where a row is left out.
            points: where.
        """
        others = self._of_others(sets, points) / self.deviation[points]
        goes, (easy, memorized) = leaves_out(sets, points)[..., None], self._own(points)
        return torch.stack([others * (1 - goes), others * goes, easy * goes, memorized * goes])

    def combined(self, sets: Tensor, points: Tensor) -> Tensor:
        """Return the sum of :meth:`parts`, each times its slope, ``[sets, points, classes]``.

        Few points go themselves. So effects are multiplied as if all stayed, and these are put right.
        """
        stays, goes, easy, memorized = self.slopes[self.kinds(points)].unbind(-1)
        total, (own_easy, own_memorized) = self._of_others(sets, points), self._own(points)
        deviation, own = self.deviation[points], own_easy * easy + own_memorized * memorized
        of_set, at = leaves_out(sets, points).nonzero(as_tuple=True)
        theirs = torch.addcmul(own[at], total[of_set, at], (goes / deviation)[at])
        total.mul_(stays / deviation)[of_set, at] = theirs
        return total

    def _of_others(self, sets: Tensor, points: Tensor) -> Tensor:
        """Return the sums of other rows' effects, in logits, ``[sets, points, classes]``."""
        rows, priors = sets.any(0).nonzero().squeeze(1), self.singles.priors
        moved = sets if len(rows) == sets.shape[1] else sets[:, rows]
        sums = [moved @ priors.means(rows, part).flatten(1) for part in priors.parts(points, len(rows))]
        return (sums[0] if len(sums) == 1 else torch.cat(sums, 1)).view(len(sets), len(points), -1)

    def _own(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return points' effects on themselves, of those that are hardly memorized and the others.

        Each is ``[points, classes]``, zero for the other points.
        """
        at, hard = points.clamp(max=len(self.memorization) - 1), self.hard(points)[:, None]
        own = self.singles.near[0][at] / self.deviation[points]
        return own.masked_fill(hard, 0), own.masked_fill(~hard, 0)

    def unexplained(self, models: SubsetModels, sets: Tensor, points: Tensor) -> Tensor:
        """Return what sums leave to explain of models' logits, in standard deviations, ``[models, points, classes]``.

        Args:
            models: observed.
            sets: what each was trained without, ``[models, n_train]``.
            points: where.
        """
        at_once = max(1, BLOCK_VALUES // (len(sets) * self.mean.shape[1]))
        found = [self.observed(models, part).sub_(self.combined(sets, part)) for part in points.split(at_once)]
        return torch.cat(found, 1)

    def sizes(self, points: Tensor) -> Tensor:
        """Return the mean squared effect of every row on the logits of a class's points, ``[kinds, classes, n_train]``.

        A tenth of the mean over rows is added.
        """
        n_train, classes = len(self.memorization), self.mean.shape[1]
        totals, counts = torch.zeros(2, classes, n_train), torch.zeros(2, classes, 1)
        kinds, labels, rows = self.kinds(points), self.labels[points], torch.arange(n_train)
        for at in torch.arange(len(points)).split(self.singles.priors.points_beside(n_train)):
            means = self.singles.priors.means(rows, points[at])
            squares = (means / self.deviation[points[at]]).square().clamp(max=4)
            for kind in (LABEL, OTHER):
                totals[kind].index_add_(0, labels[at], (squares * (kinds[at] == kind)).sum(2).T)
        for kind in (LABEL, OTHER):
            counts[kind, :, 0].index_add_(0, labels, (kinds == kind).sum(1).float())
        sizes = totals / counts.clamp(min=1)
        return sizes + 0.1 * sizes.mean(2, keepdim=True)


def leaves_out(sets: Tensor, points: Tensor) -> Tensor:
    """Return whether sets leave out the points themselves, ``[sets, points]`` float32."""
    n_train = sets.shape[1]
    return sets.index_select(1, points.clamp(max=n_train - 1)) * (points < n_train)


def slopes(parts: Tensor, observed: Tensor, kinds: Tensor) -> Tensor:
    """Return what parts of sums have to be multiplied with to predict models best, ``[kinds, parts]``.

    Least squares over models and logits; where the models tell little, a slope is close to .6.

    Args:
        parts: ``[parts, models, points, classes]``.
        observed: ``[models, points, classes]``.
        kinds: of the logits, ``[points, classes]``.
    """
    found = []
    for kind in (LABEL, OTHER):
        design, target = parts[:, :, kinds == kind].flatten(1), observed[:, kinds == kind].flatten()
        ridge = RIDGE * design.shape[1]
        moments = design @ design.T + ridge * torch.eye(len(design))
        found.append(torch.linalg.solve(moments, design @ target + 0.6 * ridge))
    return torch.stack(found)
