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
TOGETHER = 10  # members in a row with one rate: their sets are of similar size, so that many can be trained together
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

    The part are the rows on which ``sqrt(smooth) g + sqrt(1 − smooth) ε`` is smallest. g is a random linear function of
    a representation, so rows that are alike go together; ε is white noise.

    Args:
        members: see :class:`Design`.
        alike: which rows are alike: those that models ``answer`` alike, or whose ``inputs`` are.
        smooth: 1 for parts that are connected, 0 for random parts of a class.
        least: the smallest share of the class.
        most: the largest share.

    Raises:
        UserError: a number is not between 0 and 1.
    """

    about = 0.05

    def __init__(
        self, members: int, alike: str = "answers", smooth: float = 0.9, least: float = 0.15, most: float = 0.95
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
        values = smooth_values(known.representation(self.alike)[rows], self.smooth, generator)
        out = torch.zeros(known.n_train, dtype=torch.bool)
        out[rows[values.argsort()[: max(1, round(share * len(rows)))]]] = True
        return out


class WithoutLevelSet(Design):
    """Every member is trained without rows of all classes: memorized ones more often, those that are alike together.

    Row i is left out where ``Φ(z_i) < r·q_i``: z is a random function that is smooth within classes, r the member's
    rate, and ``q = least + (1 − least)·sqrt(memorization)``.

    Args:
        members: see :class:`Design`.
        alike: see :class:`WithoutPart`.
        smooth: see :class:`WithoutPart`.
        least: how often rows are left out that are not memorized at all, relative to those that are entirely.
        rates: smallest and largest r.

    Raises:
        UserError: a number is not between 0 and 1, or the rates are not two that rise from above 0.
    """

    def __init__(
        self,
        members: int,
        alike: str = "answers",
        smooth: float = 0.7,
        least: float = 0.03,
        rates: list[float] | None = None,
    ) -> None:
        super().__init__(members)
        self.alike, self.smooth, self.least = alike, fraction("smooth", smooth), fraction("least", least)
        self.rates = [0.2, 1.5] if rates is None else rates
        if len(self.rates) != 2 or not 0 < self.rates[0] <= self.rates[1]:
            raise UserError(f"rates={self.rates}: expected two numbers above 0, the smaller first")

    def chosen(self, index: int, known: Known, generator: torch.Generator) -> Tensor:
        """Return a level set."""
        rate = self.rates[0] + (self.rates[1] - self.rates[0]) * ((index // TOGETHER + 0.5) * GOLDEN % 1)
        often = self.least + (1 - self.least) * known.memorization.sqrt()
        representation, values = known.representation(self.alike), torch.empty(known.n_train)
        for rows in known.classes:
            values[rows] = smooth_values(representation[rows], self.smooth, generator)
        return torch.special.ndtr(values) < rate * often


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
