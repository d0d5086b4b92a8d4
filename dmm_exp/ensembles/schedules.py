"""Learning-rate schedules as functions of training progress, in multiples of the optimizer's ``lr``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from dmm_exp.errors import UserError


class Schedule(Protocol):
    """A multiplier of the learning rate.

    Attributes:
        nests: whether it is independent of the number of epochs, so that a short run is the beginning of a longer one.
    """

    nests: ClassVar[bool]

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the multiplier when ``epoch`` (fractional, from 0) of ``epochs`` have passed."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same learning rate throughout."""

    nests: ClassVar[bool] = True

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class OneCycle:
    """Linear from ``start`` to 1 at ``peak`` of the way, then linear to ``end``.

    Attributes:
        peak: share of training after which the learning rate is highest, in (0, 1).
        start: multiplier at the beginning.
        end: multiplier at the end.
    """

    peak: float = 0.25
    start: float = 0.1
    end: float = 0.0

    nests: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.peak < 1:
            raise UserError(f"schedule.peak={self.peak}: expected a fraction in (0, 1)")

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the multiplier."""
        progress = epoch / epochs
        if progress < self.peak:
            return self.start + (1 - self.start) * progress / self.peak
        return 1 + (self.end - 1) * (progress - self.peak) / (1 - self.peak)


@dataclass(frozen=True)
class Exponential:
    """Multiplied by ``decay`` at the end of every epoch."""

    decay: float = 0.95

    nests: ClassVar[bool] = True

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the multiplier."""
        return self.decay ** math.floor(epoch)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 down to ``end``."""

    end: float = 0.0

    nests: ClassVar[bool] = False

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the multiplier."""
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * epoch / epochs)) / 2


@dataclass(frozen=True)
class MultiStep:
    """Multiplied by ``factor`` at each milestone (in epochs)."""

    milestones: Sequence[int] = field(default_factory=list)
    factor: float = 0.1

    nests: ClassVar[bool] = True

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the multiplier."""
        return self.factor ** sum(epoch >= milestone for milestone in self.milestones)


@dataclass(frozen=True)
class Part:
    """Some epochs of a longer training, at the learning rates that they have there.

    Attributes:
        whole: schedule of the longer training; None for the same learning rate throughout.
        begin: epoch of it at which the part begins.
        epochs: of the longer training.
    """

    whole: Schedule | None
    begin: int
    epochs: int

    nests: ClassVar[bool] = True

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the multiplier."""
        return 1.0 if self.whole is None else self.whole(self.begin + epoch, self.epochs)
