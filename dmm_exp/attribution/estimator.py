"""Estimators of the effect: what *including* F does to every logit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dmm_exp.store import Stacked, blocks, points_at_once

COUNTED_AT_ONCE = 1 << 24  # entries of masks, which PyTorch copies as 8-byte integers to count them

Source = Literal["pool", "gradients", "oracles"]


@dataclass(frozen=True)
class SubsetModels:
    """What an estimator learns from: models trained on known random subsets.

    Masks and logits may be on disk: ``[:, points]`` of either is in memory, and what is in memory at a time is up to
    whoever asks (:func:`dmm_exp.store.points_at_once`).

    Attributes:
        masks: ``[members, n_train]`` bool.
        logits: ``[members, points, classes]`` float32.
        block: members come in blocks of this many that are not independent (1: all are); see :class:`RandomSubsets`.
        labels: ``[points]``, where known.
        margins: ``[members, points]`` float32, where they were kept since logits are rounded.
    """

    masks: Tensor | Stacked
    logits: Tensor | Stacked
    block: int = 1
    labels: Tensor | None = None
    margins: Tensor | Stacked | None = None

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, members: slice) -> SubsetModels:
        """Return some members; views, not copies."""
        margins = None if self.margins is None else self.margins[members]
        return replace(self, masks=self.masks[members], logits=self.logits[members], margins=margins)

    @property
    def n_train(self) -> int:
        """Number of training examples."""
        return self.masks.shape[1]

    @cached_property
    def inside(self) -> Tensor:
        """Number of members that were trained on each example, ``[n_train]``."""
        parts = blocks(self.n_train, max(1, COUNTED_AT_ONCE // len(self)))
        return torch.cat([self.masks[:, part].sum(0) for part in parts])

    @property
    def inclusion(self) -> Tensor:
        """Share of members that were trained on each example, ``[n_train]`` float32."""
        return self.inside.float() / len(self)

    def mean_logits(self, points: Tensor) -> Tensor:
        """Return the mean over members of some points' logits, ``[len(points), classes]``."""
        parts = points.split(points_at_once(self.logits))
        return torch.cat([self.logits[:, part].mean(0) for part in parts])


@dataclass(frozen=True)
class Gradients:
    """Features of trained models' gradients; the first dimension is the models (checkpoints).

    The change of logit c of point x when example i is included is, up to one factor, the product of
    ``targets[:, x, c]`` with the features of i, once an estimator has preconditioned these.

    Attributes:
        train: of what training on an example raises (its margin, or minus its loss), ``[checkpoints, n_train, width]``.
        weights: how strongly training raises it, ``[checkpoints, n_train]`` (ones for minus the loss).
        targets: of every logit, ``[checkpoints, points, classes, width]`` float32.
    """

    train: Tensor
    weights: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.train)


@dataclass(frozen=True)
class Evidence:
    """What the effect is estimated from; only what the estimator's ``source`` names is there.

    Attributes:
        groups: ``[points]`` int, outputs of one group share what is tuned (0 forget, 1 retain, 2 validation).
        n_train: size of the training set.
        pool: subset models; for estimators from gradients, those that the scale is fitted to.
        larger: models trained on larger random subsets, for estimators that extrapolate.
        gradients: features of gradients of some originals.
        originals: logits of models trained on everything, ``[members, points, classes]``.
        oracles: logits of models retrained without the forget set, ``[members, points, classes]``.
        labels: ``[points]``, for estimators from gradients that have no pool.
    """

    groups: Tensor
    n_train: int
    pool: SubsetModels | None = None
    larger: SubsetModels | None = None
    gradients: Gradients | None = None
    originals: Tensor | None = None
    oracles: Tensor | None = None
    labels: Tensor | None = None


class Estimator(ABC):
    """Estimates how including the forget set changes every logit.

    All estimators speak of one scale: the change of a logit when examples are included.

    Attributes:
        source: the evidence it needs: the pool, gradients of the originals (and the pool, for their scale), or real
            retrained models (which is not unlearning).
        posterior: whether standard errors are posterior standard deviations, of the effect given the evidence, which
            include what shrinking towards the prior leaves out.
        extrapolates: whether it looks at models trained on larger subsets, and at the originals, where there are any,
            to tell effects at the size of the whole training set from those at the size of the pool's subsets.
    """

    source: ClassVar[Source] = "pool"
    posterior: ClassVar[bool] = False
    extrapolates: ClassVar[bool] = False

    @abstractmethod
    def estimate(self, evidence: Evidence, forget: Tensor) -> Tensor:
        """Return the effect of including ``forget`` (training indices) on every logit, ``[points, classes]``."""

    def standard_error(self, forget: Tensor) -> Tensor | None:  # noqa: B027  (some cannot tell)
        """Return the standard error of the effect of ``forget`` just estimated, ``[points, classes]``.

        It is the sampling error unless the estimator says otherwise (``posterior``), and None if it cannot be told.
        """

    def check(self, model: nn.Module) -> None:  # noqa: B027  (most take any architecture)
        """Raise ``UserError`` for an architecture that the estimator cannot work with."""

    def facts(self) -> dict[str, Any]:
        """Return what was chosen on the way (plain numbers), for manifests and reports."""
        return {}


class DirectionalEstimator(Estimator):
    """Predicts how logits change with the training set, whichever way it changes.

    Attributes:
        tuned_by_group: whether what is learnt depends on the groups of outputs, and so on the forget set.
        remembers: whether what is learnt can be kept (:meth:`learnt`) and taken up again (:meth:`recall`).
    """

    tuned_by_group: ClassVar[bool] = True
    remembers: ClassVar[bool] = False

    @abstractmethod
    def learn(self, evidence: Evidence) -> None:
        """Learn from the evidence, without being told the forget set."""

    def learnt(self) -> dict[str, Tensor]:
        """Return what was learnt, as tensors that :meth:`recall` takes, for those that remember."""
        raise NotImplementedError(f"{type(self).__name__} does not remember")

    def recall(self, evidence: Evidence, learnt: Mapping[str, Tensor]) -> None:
        """Take up what was learnt from this very evidence, as :meth:`learn` would again."""
        raise NotImplementedError(f"{type(self).__name__} does not remember")

    @abstractmethod
    def predict(self, directions: Tensor) -> Tensor:
        """Return predicted changes of all logits, ``[directions, points, classes]``.

        Args:
            directions: ``[directions, n_train]`` changes of the inclusion mask; the effect of F is asked for with ones
                at F and zeros elsewhere.
        """

    def predict_at(self, directions: Tensor, points: Tensor) -> Tensor:
        """Return predicted changes of some points' logits, ``[directions, len(points), classes]``."""
        return self.predict(directions)[:, points]

    def estimate(self, evidence: Evidence, forget: Tensor) -> Tensor:
        """Learn from the evidence and return the effect of including ``forget``, ``[points, classes]``."""
        self.learn(evidence)
        return self.predict(towards(forget, evidence.n_train))[0]


def towards(forget: Tensor, n_train: int) -> Tensor:
    """Return the direction ``[1, n_train]`` of including some training examples."""
    direction = torch.zeros(1, n_train)
    direction[0, forget] = 1
    return direction


class PoolEstimator(DirectionalEstimator):
    """Learns from models trained on random subsets."""

    @abstractmethod
    def fit(self, pool: SubsetModels, groups: Tensor) -> None:
        """Learn from subset models; ``groups`` as in :class:`Evidence`."""

    def learn(self, evidence: Evidence) -> None:
        """Fit to the pool."""
        if evidence.pool is None:
            raise TypeError(f"{type(self).__name__} needs a pool")
        self.fit(evidence.pool, evidence.groups)


class LinearEstimator(PoolEstimator):
    """An estimator whose predictions are weighted sums of the members' logits.

    Fitting centres logits and cuts outputs into groups; a subclass gives the weights of members for each group.
    """

    def fit(self, pool: SubsetModels, groups: Tensor) -> None:
        """Keep the pool and the means of its logits, and prepare each group of outputs."""
        self.pool = pool
        self.groups = groups
        self.means = pool.mean_logits(torch.arange(len(groups)))
        self.prepare()

    def prepare(self) -> None:
        """Do what does not depend on a direction."""

    @abstractmethod
    def predict_group(self, directions: Tensor, group: int, where: Tensor) -> Tensor:
        """Return predicted changes ``[directions, len(where), classes]`` of one group's points."""

    def predict(self, directions: Tensor) -> Tensor:
        """Return predicted changes of all logits, ``[directions, points, classes]``."""
        changes = torch.empty(len(directions), *self.means.shape)
        for group, where in self.group_points():
            changes[:, where] = self.predict_group(directions, group, where)
        return changes

    def weigh(self, weights: Tensor, where: Tensor) -> Tensor:
        """Return weighted sums over members ``[rows, members] → [rows, len(where), classes]`` of centred logits."""
        return self.weigh_each([weights], where)[0]

    def weigh_each(self, weights: Sequence[Tensor], where: Tensor) -> list[Tensor]:
        """Return what :meth:`weigh` does, by several weights; logits are looked at once.

        Means are taken off the sums, so that logits of consecutive points need not be copied.
        """
        sums: list[list[Tensor]] = [[] for _ in weights]
        for part in self.parts(where):
            logits = self.pool.logits[:, consecutive(part)].flatten(1)
            for found, rows in zip(sums, weights, strict=True):
                found.append((rows @ logits).view(len(rows), len(part), -1))
        off = (rows.sum(1)[:, None, None] * self.means[where] for rows in weights)
        return [torch.cat(found, 1).sub_(means) for found, means in zip(sums, off, strict=True)]

    def sampling_error(self, weights: Tensor, where: Tensor) -> Tensor:
        """Return the standard error ``[len(where), classes]`` of one weighted sum over members, ``weights [members]``.

        Members of a block depend on each other, blocks do not: it is the root of the sum of the squares of what every
        block adds.
        """
        errors = []
        for part in self.parts(where):
            added = (weights[:, None] * self.outputs(part).flatten(1)).unflatten(0, (-1, self.pool.block)).sum(1)
            errors.append((added - added.mean(0)).square().sum(0).sqrt().view(len(part), -1))
        return torch.cat(errors)

    def group_points(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (group, indices of its points)."""
        for group in self.groups.unique().tolist():
            yield group, (self.groups == group).nonzero().squeeze(1)

    def parts(self, where: Tensor) -> tuple[Tensor, ...]:
        """Cut some points into as many as are looked at together: all of them where the pool is small."""
        return where.split(points_at_once(self.pool.logits))

    def outputs(self, where: Tensor) -> Tensor:
        """Return the centred logits ``[members, len(where), classes]`` of some points, a copy in memory."""
        return self.pool.logits[:, where].sub_(self.means[where])


def consecutive(where: Tensor) -> slice | Tensor:
    """Return the slice that some points make up, if they do, so that they are a view."""
    if len(where) == 0 or not torch.equal(where, torch.arange(int(where[0]), int(where[0]) + len(where))):
        return where
    return slice(int(where[0]), int(where[-1]) + 1)
