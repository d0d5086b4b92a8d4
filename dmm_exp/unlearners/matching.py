"""Matching the outputs of a retrained model: real (oracle matching), predicted (DMM), or without training (DM-Direct).

Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching", ICLR 2025, arXiv 2410.23232.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dmm_exp.errors import UserError
from dmm_exp.models import margin
from dmm_exp.unlearners.unlearner import (
    FineTuning,
    Fit,
    Target,
    Unlearner,
    UnlearningResult,
    UnlearningTask,
    own_rows,
    shuffled,
    written_out,
)


@dataclass(frozen=True)
class Matching:
    """What is matched: in an epoch the repeated forget set and a new sample of the retain set; logits, and margins.

    Attributes:
        forget_multiplier: how often the forget set is repeated.
        retain_multiplier: number of retain points, in multiples of the forget set's size; at most the retain set.
        margin_weight: of the distance of margins beside that of logits; None for logits alone.

    Raises:
        UserError: a number is out of range.
    """

    forget_multiplier: int
    retain_multiplier: float
    margin_weight: float | None

    def __post_init__(self) -> None:
        if self.margin_weight is not None and self.margin_weight < 0:
            raise UserError(f"unlearner.margin_weight={self.margin_weight}: expected null or a number of at least 0")
        if self.forget_multiplier < 1 or self.retain_multiplier < 0:
            raise UserError(
                f"unlearner.forget_multiplier={self.forget_multiplier}, "
                f"unlearner.retain_multiplier={self.retain_multiplier}: expected at least 1, and at least 0"
            )

    def sample(self, task: UnlearningTask, generator: torch.Generator) -> Tensor:
        """Return the points in a random order."""
        wanted = min(len(task.retain), round(self.retain_multiplier * len(task.forget)))
        retain = shuffled(task.retain, generator)[:wanted]
        return shuffled(torch.cat([task.forget.repeat(self.forget_multiplier), retain]), generator)


def mixed_points(self: Any, task: UnlearningTask, generator: torch.Generator) -> Tensor:
    """Return the points of the method's :class:`Matching`: a ``sample`` for methods that have one."""
    return self.matching.sample(task, generator)


def distances_(logits: Tensor, targets: Tensor, labels: Tensor, margin_weight: float | None) -> Tensor:
    """Return members' distances to targets ``[members]``, and turn the logits into the gradient by them.

    Args:
        logits: ``[members, classes, batch]``, changed in place.
        targets: alike.
        labels: ``[members, batch]``.
        margin_weight: of the distance of margins; None or 0 for logits alone.
    """
    _, classes, batch = logits.shape
    if not margin_weight:
        distance = logits.sub_(targets).square().mean((1, 2))
        logits.mul_(2 / (classes * batch))
        return distance
    own = labels.unsqueeze(1)
    others = [values.scatter(1, own, -torch.inf) for values in (logits, targets)]
    sums = [values.logsumexp(1, keepdim=True) for values in others]
    off = logits.gather(1, own) - sums[0] - (targets.gather(1, own) - sums[1])  # by so much margins differ
    by_logits = others[0].sub_(sums[0]).exp_().neg_().scatter_(1, own, 1.0)  # the gradient of margins
    distance = logits.sub_(targets).square().mean((1, 2)) + margin_weight * off.square().mean((1, 2))
    logits.mul_(2 / (classes * batch)).addcmul_(by_logits, off, value=2 * margin_weight / batch)
    return distance


def _distances_in_place(self: Any, fit: Fit, indices: Tensor) -> Callable[[Tensor, slice], Tensor]:
    """Return :func:`distances` for steps without autograd."""
    targets, labels = own_rows(fit.kept["targets"], indices).mT, fit.kept["labels"][indices]
    return lambda logits, members: distances_(logits, targets[members], labels[members], self.matching.margin_weight)


@written_out(_distances_in_place)
def distances(self: Any, fit: Fit, indices: Tensor) -> Tensor:
    """Return every member's distance to its targets ``[members]``: the ``losses`` of methods with a margin weight."""
    logits, targets = fit.predict_batch(indices), own_rows(fit.kept["targets"], indices)
    distance = (logits - targets).square().mean((1, 2))
    if not self.matching.margin_weight:
        return distance
    labels = fit.kept["labels"][indices]
    return distance + self.matching.margin_weight * (margin(logits, labels) - margin(targets, labels)).square().mean(1)


def targets_and_labels(self: FineTuning, fit: Fit) -> dict[str, Tensor]:
    """Return what :func:`distances` looks at, for methods that match logits and margins: a ``prepare``."""
    return {"targets": self.targets_of(fit.task), "labels": fit.task.examples.labels}


def settings_of_matching(
    self: Any,
    *,
    forget_multiplier: int = 1,
    retain_multiplier: float = 5,
    margin_weight: float | None = None,
    **optimisation: Any,
) -> None:
    """Keep the settings of a method that matches outputs: an ``__init__``."""
    FineTuning.__init__(self, **optimisation)
    self.matching = Matching(forget_multiplier, retain_multiplier, margin_weight)


class OracleMatching(FineTuning):
    """Fine-tune towards the logits of real oracles: the best result that matching of outputs can reach.

    Minimises the mean over batch and classes of ``(z(x) − z_target(x))²`` on the forget set and a sample of the retain
    set (algorithm 1 of the paper). With a margin weight it adds that weight times the mean squared distance of margins,
    which are what KLoM looks at. Member i matches oracle i; metrics compare with other oracles.

    Args:
        forget_multiplier: how often the forget set is repeated in an epoch.
        retain_multiplier: number of retain points in an epoch, in multiples of the forget set's size, with a new draw
            for every member and epoch; at most the retain set.
        margin_weight: of the distance of margins; None or 0 for logits alone, as in the paper.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`.

    Raises:
        UserError: a multiplier or the weight is out of range.
    """

    target: ClassVar[Target] = "oracle"
    reference: ClassVar[bool] = True
    sample = mixed_points
    losses = distances
    prepare = targets_and_labels
    __init__ = settings_of_matching


class DMM(FineTuning):
    """Datamodel matching: oracle matching towards ``z_θ0(x) − effect(x)``, each original with its own targets.

    It needs no oracle: data attribution predicts the targets once, before the first step.

    Args:
        forget_multiplier: see :class:`OracleMatching`.
        retain_multiplier: see :class:`OracleMatching`.
        margin_weight: see :class:`OracleMatching`.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`.

    Raises:
        UserError: a multiplier or the weight is out of range.
    """

    target: ClassVar[Target] = "predicted"
    sample = mixed_points
    losses = distances
    prepare = targets_and_labels
    __init__ = settings_of_matching


class DMDirect(Unlearner):
    """The predicted logits themselves, without training: predictions on the given points instead of a model."""

    target: ClassVar[Target] = "predicted"
    reference: ClassVar[bool] = True
    returns_models: ClassVar[bool] = False
    own_sets: ClassVar[bool] = True

    def unlearn(self, task: UnlearningTask) -> UnlearningResult:
        """Return the targets as logits."""
        return UnlearningResult(None, self.targets_of(task).clone(), 0, [])
