"""The evidence for effects: subset models, features of gradients, originals and oracles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from dmm_exp.pools import Known
from dmm_exp.store import Stacked, blocks, points_at_once

FEW_ROWS = 512  # of weights: with so few, reading the logits takes longer than their product
COUNTED_AT_ONCE = 1 << 24  # entries of masks in one block; PyTorch copies them as 8-byte integers to count them


@dataclass(frozen=True)
class SubsetModels:
    """Models trained on known random subsets.

    Masks and logits may be on disk. ``[:, points]`` reads a part into memory, and the caller limits its size
    (:func:`dmm_exp.store.points_at_once`).

    Attributes:
        masks: ``[members, n_train]`` bool.
        logits: ``[members, points, classes]`` float32.
        block: number of consecutive members that depend on each other (1: all are independent); see
            :class:`RandomSubsets`.
        labels: ``[points]``, if known.
        margins: ``[members, points]`` float32, if they were stored because logits are rounded.
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

    @property
    def known_labels(self) -> Tensor:
        """The points' labels. Raises ``TypeError`` where they are not known."""
        if self.labels is None:
            raise TypeError("this estimator needs subset models with labels")
        return self.labels

    @cached_property
    def inside(self) -> Tensor:
        """Number of members that were trained on each example, ``[n_train]``."""
        parts = blocks(self.n_train, max(1, COUNTED_AT_ONCE // len(self)))
        return torch.cat([self.masks[:, part].sum(0) for part in parts])

    @property
    def inclusion(self) -> Tensor:
        """Share of members that were trained on each example, ``[n_train]`` float32."""
        return self.inside.float() / len(self)

    def centred(self, examples: slice | Tensor) -> Tensor:
        """Return masks of some examples less their inclusion, ``[members, examples]`` float32."""
        return self.masks[:, examples].float().sub_(self.inclusion[examples])

    def mean_logits(self, points: Tensor) -> Tensor:
        """Return the mean over members of some points' logits, ``[len(points), classes]``."""
        parts = points.split(points_at_once(self.logits))
        return torch.cat([self.logits[:, part].mean(0) for part in parts])


@dataclass(frozen=True)
class CentredLogits:
    """Logits of subset models less their means over members, and weighted sums of them over members.

    Attributes:
        pool: the subset models.
        means: over members, ``[points, classes]``.
    """

    pool: SubsetModels
    means: Tensor

    @classmethod
    def of(cls, pool: SubsetModels) -> CentredLogits:
        """Return the centred logits of all points."""
        return cls(pool, pool.mean_logits(torch.arange(pool.logits.shape[1])))

    def at(self, points: Tensor) -> Tensor:
        """Return the centred logits of some points, ``[members, len(points), classes]``, as a copy in memory."""
        return self.pool.logits[:, points].sub_(self.means[points])

    def parts(self, points: Tensor) -> tuple[Tensor, ...]:
        """Divide some points into parts that are read together; a small pool is read in one part."""
        return points.split(points_at_once(self.pool.logits))

    def weigh(self, weights: Tensor, points: Tensor) -> Tensor:
        """Return weighted sums over members, ``[rows, members] → [rows, len(points), classes]``."""
        return self.weigh_each([weights], points)[0]

    def weigh_each(self, weights: Sequence[Tensor], points: Tensor) -> list[Tensor]:
        """Return the results of :meth:`weigh` for several weights; logits are read once.

        Means are subtracted from the sums, so that logits of consecutive points need not be copied.
        """
        sums: list[list[Tensor]] = [[] for _ in weights]
        for part in self.parts(points):
            logits = self.pool.logits[:, consecutive(part)].flatten(1)
            few = sum(map(len, weights)) <= FEW_ROWS
            products = (torch.cat(list(weights)) @ logits).split([len(rows) for rows in weights]) if few else None
            for place, (found, rows) in enumerate(zip(sums, weights, strict=True)):
                product = rows @ logits if products is None else products[place]
                found.append(product.view(len(rows), len(part), -1))
        off = (rows.sum(1)[:, None, None] * self.means[points] for rows in weights)
        return [torch.cat(found, 1).sub_(means) for found, means in zip(sums, off, strict=True)]

    def sampling_error(self, weights: Tensor) -> Tensor:
        """Return the standard error ``[points, classes]`` of one weighted sum over members, ``weights [members]``.

        Members of a block depend on each other, blocks do not: the error is the root of the sum of the squares of the
        blocks' contributions.
        """
        errors = []
        for part in self.parts(torch.arange(len(self.means))):
            added = (weights[:, None] * self.at(part).flatten(1)).unflatten(0, (-1, self.pool.block)).sum(1)
            errors.append((added - added.mean(0)).square().sum(0).sqrt().view(len(part), -1))
        return torch.cat(errors)


def consecutive(points: Tensor) -> slice | Tensor:
    """Return points as a slice if they are consecutive, so that indexing gives a view."""
    if len(points) == 0 or not torch.equal(points, torch.arange(int(points[0]), int(points[0]) + len(points))):
        return points
    return slice(int(points[0]), int(points[-1]) + 1)


@dataclass(frozen=True)
class Gradients:
    """Features of trained models' gradients; the first dimension is the models (checkpoints).

    The change of logit c of point x when example i is included is, up to one factor, the product of
    ``targets[:, x, c]`` with the features of i, once an estimator has preconditioned these.

    Attributes:
        train: features of the quantity that training on an example increases (its margin, or minus its loss),
            ``[checkpoints, n_train, width]``.
        weights: how strongly training increases it, ``[checkpoints, n_train]`` (ones for minus the loss).
        targets: of every logit, ``[checkpoints, points, classes, width]`` float32.
    """

    train: Tensor
    weights: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.train)


@dataclass(frozen=True)
class Evidence:
    """The evidence for an effect; it holds only what the estimator's ``source`` names.

    Attributes:
        groups: ``[points]`` int, outputs of one group share tuned numbers (0 forget, 1 retain, 2 validation).
        n_train: size of the training set.
        pool: subset models; estimators from gradients fit their scale to them.
        larger: models trained on larger random subsets, for estimators that extrapolate.
        designs: gives models trained on almost everything, without rows that belong together, for estimators of groups.
        known: gives what the designs knew of the training rows. Neither is read before it is asked for.
        gradients: features of gradients of some originals.
        originals: logits of models trained on everything, ``[members, points, classes]``.
        oracles: logits of models retrained without the forget set, ``[members, points, classes]``.
        labels: ``[points]``, for estimators from gradients that have no pool.
    """

    groups: Tensor
    n_train: int
    pool: SubsetModels | None = None
    larger: SubsetModels | None = None
    designs: Callable[[], SubsetModels] | None = None
    known: Callable[[], Known] | None = None
    gradients: Gradients | None = None
    originals: Tensor | None = None
    oracles: Tensor | None = None
    labels: Tensor | None = None

    @property
    def subset_models(self) -> SubsetModels:
        """The pool. Raises ``TypeError`` where there is none."""
        if self.pool is None:
            raise TypeError("an estimator of the pool needs a pool")
        return self.pool

    @property
    def points_of_groups(self) -> dict[int, Tensor]:
        """The points of every group."""
        return {group: (self.groups == group).nonzero().squeeze(1) for group in self.groups.unique().tolist()}
