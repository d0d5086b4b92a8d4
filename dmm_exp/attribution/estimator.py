"""Estimators of the effect, the change of every logit when F is *included*: methods, results and predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dmm_exp.attribution.evidence import Evidence
from dmm_exp.errors import UserError
from dmm_exp.files.reading import Json

Source = Literal["pool", "gradients", "oracles"]


class Estimator(ABC):
    """A method that estimates how the training set changes every logit; it holds settings, and no result.

    All estimators use one scale: the change of a logit when examples are included.

    Attributes:
        source: the evidence it needs: the pool, gradients of the originals (and the pool, for their scale), or real
            retrained models (which is not unlearning).
        posterior: whether standard errors are posterior standard deviations of the effect given the evidence, which
            include the error of shrinking towards the prior.
        extrapolates: whether it uses models trained on larger subsets, and the originals, to extrapolate effects from
            the size of the pool's subsets to the size of the whole training set.
        uses_designs: whether it uses models trained by design, and the originals.
        tuned_by_group: whether the result depends on the groups of outputs, and so on the forget set.
        oracles: number of models retrained without the forget set that correct its prediction; their cost counts.
        spread: whether predicted models vary as much as retrained models are predicted to, instead of as much as the
            originals do.
        remembers: whether the result can be stored (:meth:`Learned.tensors`) and restored (:meth:`recall`).
    """

    source: ClassVar[Source] = "pool"
    posterior: ClassVar[bool] = False
    extrapolates: ClassVar[bool] = False
    uses_designs: ClassVar[bool] = False
    tuned_by_group: ClassVar[bool] = True
    remembers: ClassVar[bool] = False
    oracles: int = 0
    spread: bool = False

    @property
    def at_size_of_pool(self) -> Estimator:
        """The estimator of effects on models trained on subsets as large as the pool's, which needs the pool alone."""
        return self

    @abstractmethod
    def learn(self, evidence: Evidence) -> Learned:
        """Return the result of learning from the evidence."""

    def recall(self, evidence: Evidence, tensors: Mapping[str, Tensor]) -> Learned:
        """Return the result of learning from this evidence, restored from stored tensors."""
        raise NotImplementedError(f"{type(self).__name__} does not remember")

    def check(self, model: nn.Module) -> None:  # noqa: B027  (most take any architecture)
        """Raise ``UserError`` for an architecture that the estimator does not support."""

    def check_memory(self, members: int, points: int, classes: int) -> None:  # noqa: B027
        """Raise ``UserError`` if this machine's memory does not suffice for so many members by design."""


@dataclass(frozen=True)
class Effect:
    """The change of every logit when some training examples are included.

    Attributes:
        mean: ``[points, classes]``, positive where inclusion raises the logit.
        standard_error: of each value: its sampling error, or a posterior standard deviation (``posterior``); None if it
            is not known.
        spread: standard deviation of each point's margin over models without the rows, divided by that over the
            originals, ``[points]``; None if it is not known.
    """

    mean: Tensor
    standard_error: Tensor | None = None
    spread: Tensor | None = None

    def corrected(self, originals: Tensor, retrained: Tensor) -> Effect:
        """Return the posterior after some models were retrained without the rows: a normal update.

        Args:
            originals: logits of models trained on everything, ``[members, points, classes]``.
            retrained: logits of the models without the rows, ``[few, points, classes]``. Each differs from the mean of
                all such models as much as an original differs from theirs.

        Raises:
            TypeError: the effect does not say how uncertain it is.
        """
        if self.standard_error is None:
            raise TypeError("an effect without standard errors cannot be corrected")
        observed, noise = originals.mean(0) - retrained.mean(0), originals.var(0) * (1 / len(retrained))
        noise = noise + originals.var(0) / len(originals)
        prior = self.standard_error.square()
        weight = prior / (prior + noise).clamp(min=1e-30)
        return replace(
            self, mean=self.mean + weight * (observed - self.mean), standard_error=((1 - weight) * prior).sqrt()
        )


class Learned(ABC):
    """The result of an estimator: a value that predictions do not change."""

    @abstractmethod
    def effect(self, rows: Tensor) -> Effect:
        """Return the effect of including some training examples, by their sorted indices."""

    def predict(self, directions: Tensor) -> Tensor:
        """Return predicted changes of all logits, ``[directions, points, classes]``.

        Args:
            directions: ``[directions, n_train]`` changes of the inclusion mask; for the effect of F, ones at F and
                zeros elsewhere.

        Raises:
            TypeError: the result, from oracles, is the effect of one set of examples only.
        """
        raise TypeError(f"{type(self).__name__} knows the effect of one set of examples only")

    def predict_at(self, directions: Tensor, points: Tensor) -> Tensor:
        """Return predicted changes of some points' logits, ``[directions, len(points), classes]``."""
        return self.predict(directions)[:, points]

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors for :meth:`Estimator.recall`, for estimators that remember."""
        raise NotImplementedError(f"{type(self).__name__} cannot be kept")

    def facts(self) -> Json:
        """Return choices that the estimator made (plain numbers), for manifests and reports."""
        return {}


def towards(rows: Tensor, n_train: int) -> Tensor:
    """Return the direction ``[1, n_train]`` of including some training examples."""
    direction = torch.zeros(1, n_train)
    direction[0, rows] = 1
    return direction


def at_least(key: str, value: int, least: int) -> int:
    """Return a whole number of the estimator's configuration, if it is large enough.

    Raises:
        UserError: it is not.
    """
    if value < least:
        raise UserError(f"attribution.{key}={value}: expected a whole number of at least {least}")
    return value


def not_negative(key: str, value: float) -> float:
    """Return a number of the estimator's configuration, if it is not negative.

    Raises:
        UserError: it is.
    """
    if value < 0:
        raise UserError(f"attribution.{key}={value}: expected a number of at least 0")
    return value
