"""Designs: what the members of a part of the pool are trained without.

Effects of single rows come from models on random halves. What a *group* does when all of it goes cannot be told from
these: the logit of a class changes little while half of the class goes, and collapses when the last of it goes. So
other members of the pool are trained on almost everything, without sets of rows that belong together.

A member's set depends on the run's seed, the design's name, the member's number and what is known of the training rows
(:class:`Known`), so that a part of the pool can grow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import sqrt

import torch
from torch import Tensor

from dmm_exp.ensembles import member_generator
from dmm_exp.errors import UserError
from dmm_exp.pools.known import Known

GOLDEN = 0.6180339887498949
TOGETHER = 10  # members in a row whose sets are of one size, so that many can be trained together
SIZES = 64  # kept rows are a multiple of about 1/64 of the training set, so that many members train together


class Design(ABC):
    """A rule for the rows that members are trained without.

    Attributes:
        about: share of the rows that a member is trained without, roughly, as costs are estimated before there is a
            pool.
        column: of the dataset that tells which rows belong together; None for rules that look at none.

    Args:
        members: number of models.

    Raises:
        UserError: the number is negative.
    """

    about: float = 0.1
    column: str | None = None

    def __init__(self, members: int) -> None:
        if members < 0:
            raise UserError(f"members={members}: expected a whole number of at least 0")
        self.members = members

    @abstractmethod
    def chosen(self, index: int, known: Known, generator: torch.Generator) -> Tensor:
        """Return the rows that a member is trained without, ``[n_train]`` bool."""

    def masks(self, name: str, seed: int, known: Known) -> Tensor:
        """Return the rows that every member is trained on, ``[members, n_train]`` bool.

        A few further rows are left out at random, so that the number of those that are kept is a multiple of a
        sixty-fourth of the training set.

        Args:
            name: of this part of the pool.
            seed: the run's seed.
            known: of the training rows.

        Raises:
            UserError: a member would be trained on nothing.
        """
        masks = torch.empty(self.members, known.n_train, dtype=torch.bool)
        for index in range(self.members):
            generator = member_generator(seed, role_of(name), index, "subset")
            masks[index] = rounded(~self.chosen(index, known, generator), generator)
            if not masks[index].any():
                raise UserError(f"pool.designs.{name}: member {index} would be trained without all rows")
        return masks


class WithoutShare(Design):
    """Every member is trained without a random share of the rows.

    Args:
        members: see :class:`Design`.
        share: of the rows.

    Raises:
        UserError: the share is not between 0 and 1.
    """

    def __init__(self, members: int, share: float = 0.12) -> None:
        super().__init__(members)
        self.share = self.about = fraction("share", share)

    def chosen(self, index: int, known: Known, generator: torch.Generator) -> Tensor:
        """Return a random share."""
        return torch.rand(known.n_train, generator=generator).argsort() < round(self.share * known.n_train)


class WithoutClass(Design):
    """Every member is trained without one class, each class in turn.

    Args:
        members: see :class:`Design`.
    """

    def chosen(self, index: int, known: Known, generator: torch.Generator) -> Tensor:
        """Return all rows of a class."""
        out = torch.zeros(known.n_train, dtype=torch.bool)
        out[known.classes[index % len(known.classes)]] = True
        return out


class WithoutPart(Design):
    """Every member is trained without a part of one class that belongs together, each class in turn.

    The part are the rows on which ``sqrt(smooth) l + sqrt(1 − smooth) ε`` is largest. l is the likeness to a random row
    of the class, ε white noise, both standardised.

    Args:
        members: see :class:`Design`.
        alike: which rows are alike: those that models ``answer`` alike, or whose ``inputs`` are.
        smooth: 1 for the rows that are most alike, 0 for random parts of a class.
        least: the smallest share of the class.
        most: the largest share.

    Raises:
        UserError: a number is not between 0 and 1.
    """

    about = 0.05

    def __init__(
        self, members: int, alike: str = "answers", smooth: float = 0.5, least: float = 0.15, most: float = 0.95
    ) -> None:
        super().__init__(members)
        self.alike = alike
        self.smooth, self.least, self.most = (
            fraction("smooth", smooth),
            fraction("least", least),
            fraction("most", most),
        )

    def chosen(self, index: int, known: Known, generator: torch.Generator) -> Tensor:
        """Return a part of a class; members in a row take equal shares of theirs, one for each class."""
        turn, place = divmod(index, len(known.classes))
        rows = known.classes[place]
        share = self.least + (self.most - self.least) * ((turn + 0.5) * GOLDEN % 1)
        representation = known.representation(self.alike)[rows]
        likeness = representation @ representation[torch.randint(len(rows), (), generator=generator)]
        likeness = (likeness - likeness.mean()) / likeness.std(correction=0).clamp(min=1e-12)
        noise = torch.randn(len(rows), generator=generator)
        order = (sqrt(self.smooth) * likeness + sqrt(1 - self.smooth) * noise).argsort(descending=True)
        out = torch.zeros(known.n_train, dtype=torch.bool)
        out[rows[order[: max(1, round(share * len(rows)))]]] = True
        return out


class WithoutLevelSet(Design):
    """Every member is trained without rows that are about as memorized as each other, those that are alike together.

    Rows stand on a line from 0 to 1 (:func:`standing`). A member looks at one place c of it, and row i is left out the
    sooner, the smaller ``Φ(z_i) / (least + (1 − least)·exp(−(standing_i − c)² / 2 width²))`` is. z is a random function
    that is smooth within classes.

    Args:
        members: see :class:`Design`.
        alike: see :class:`WithoutPart`.
        smooth: how much of z is the same for rows that are alike; the rest is white noise.
        least: how often rows far from a member's place are left out, relative to those at it.
        width: of a place.
        lean: places are u^lean, u uniform: below 1 more members look at memorized rows.
        shares: smallest and largest share of the rows that a member is trained without.

    Raises:
        UserError: a number is not between 0 and 1, or the shares are not two that rise from above 0.
    """

    about = 0.05

    def __init__(
        self,
        members: int,
        alike: str = "answers",
        smooth: float = 0.7,
        least: float = 0.03,
        width: float = 0.12,
        lean: float = 0.6,
        shares: list[float] | None = None,
    ) -> None:
        super().__init__(members)
        self.alike, self.smooth, self.least = alike, fraction("smooth", smooth), fraction("least", least)
        self.width, self.lean = max(fraction("width", width), 1e-6), fraction("lean", lean)
        self.shares = [0.015, 0.12] if shares is None else shares
        if len(self.shares) != 2 or not 0 < self.shares[0] <= self.shares[1] < 1:
            raise UserError(f"shares={self.shares}: expected two numbers between 0 and 1, the smaller first")

    def chosen(self, index: int, known: Known, generator: torch.Generator) -> Tensor:
        """Return a level set; members in a row leave out equally many rows."""
        least, most = self.shares
        share = least * (most / least) ** ((index // TOGETHER + 0.5) * GOLDEN % 1)
        place = torch.rand((), generator=generator) ** self.lean
        near = (-0.5 * ((standing(known.memorization) - place) / self.width).square()).exp()
        representation, values = known.representation(self.alike), torch.empty(known.n_train)
        for rows in known.classes:
            values[rows] = smooth_values(representation[rows], self.smooth, generator)
        order = (torch.special.ndtr(values) / (self.least + (1 - self.least) * near)).argsort()
        unit = max(1, known.n_train // SIZES)
        out = torch.zeros(known.n_train, dtype=torch.bool)
        out[order[: max(1, round(share * known.n_train / unit)) * unit]] = True
        return out


class WithoutGroup(Design):
    """Every member is trained without all rows of one value of a column: a user, a source, a session; each in turn.

    Args:
        members: see :class:`Design`.
        column: of the dataset.
    """

    def __init__(self, members: int, column: str) -> None:
        super().__init__(members)
        self.column = column

    def chosen(self, index: int, known: Known, generator: torch.Generator) -> Tensor:
        """Return all rows of a group."""
        assert self.column is not None
        values = known.values(self.column)
        groups = sorted(set(values))
        return torch.tensor([value == groups[index % len(groups)] for value in values])


def role_of(name: str) -> str:
    """Return the role of the models of a design."""
    return f"design/{name}"


def standing(memorization: Tensor) -> Tensor:
    """Return where rows stand from least to most memorized, ``[n_train]`` from 0 to 1.

    It is the mean of a row's rank and of the share of all memorization up to it, so that few memorized rows do not
    stand in one place.
    """
    order = memorization.argsort(stable=True)
    ranks, mass = torch.empty_like(memorization), torch.empty_like(memorization)
    ranks[order] = torch.linspace(0, 1, len(order))
    mass[order] = memorization[order].cumsum(0) / memorization.sum().clamp(min=1e-12)
    return (ranks + mass) / 2


def smooth_values(representation: Tensor, smooth: float, generator: torch.Generator) -> Tensor:
    """Return standard normal numbers ``[rows]`` whose correlation is that of a representation, as far as smooth."""
    rows, width = representation.shape
    along = representation @ torch.randn(width, generator=generator)
    return sqrt(smooth) * along + sqrt(1 - smooth) * torch.randn(rows, generator=generator)


def rounded(kept: Tensor, generator: torch.Generator) -> Tensor:
    """Return a mask with a few rows less, so that it keeps a multiple of a sixty-fourth of the rows."""
    rows = kept.nonzero().squeeze(1)
    surplus = len(rows) % max(1, len(kept) // SIZES)
    if surplus == len(rows):
        return kept
    fewer = kept.clone()
    fewer[rows[torch.randperm(len(rows), generator=generator)[:surplus]]] = False
    return fewer


def fraction(name: str, value: float) -> float:
    """Return a number from 0 to 1. Raises ``UserError`` for others."""
    if not 0 <= value <= 1:
        raise UserError(f"{name}={value}: expected a number from 0 to 1")
    return value
