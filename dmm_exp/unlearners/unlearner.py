"""The contract of every unlearner: an ensemble of originals in, an ensemble of unlearned models out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dmm_exp.data import Examples
from dmm_exp.ensembles import Ensemble, EnsembleModule

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

Target = Literal["none", "predicted", "oracle"]


@dataclass(frozen=True)
class UnlearningTask:
    """What there is to unlearn.

    Attributes:
        originals: trained on everything; never changed.
        examples: the dataset.
        forget: sorted training indices that have to go.
        retain: sorted training indices that stay.
        seed: the run's seed.
        members: the originals' numbers.
        targets: logits to match ``[members, points, classes]``, for unlearners that ask for them.
        build: makes a freshly initialised network.
        recipe: how originals were trained: ``epochs``, ``batch_size``, ``optimizer``, ``schedule``.
        make_trainer: from ``max_epochs`` to a Lightning trainer.
    """

    originals: Ensemble
    examples: Examples
    forget: Tensor
    retain: Tensor
    seed: int
    members: range
    targets: Tensor | None
    build: Callable[[], nn.Module]
    recipe: dict[str, Any]
    make_trainer: Callable[..., Trainer]


@dataclass(frozen=True)
class Unlearned:
    """What came out.

    Attributes:
        ensemble: the unlearned models; None when the method yields predictions only.
        logits: ``[members, points, classes]`` on all points.
        sample_gradients: gradient evaluations of single examples that one model took.
        history: mean loss of every epoch.
    """

    ensemble: Ensemble | None
    logits: Tensor
    sample_gradients: int
    history: list[float]


class Unlearner(ABC):
    """A method of unlearning.

    Attributes:
        target: the logits that :attr:`UnlearningTask.targets` must hold: none, those that attribution predicts for a
            retrained model, or those of real retrained models.
    """

    target: ClassVar[Target] = "none"

    @abstractmethod
    def unlearn(self, task: UnlearningTask) -> Unlearned:
        """Unlearn all members of the task together; the task's originals are not changed."""


class FineTuning(EnsembleModule, Unlearner):
    """Unlearning by optimising copies of the originals: a method overrides :meth:`sample` and :meth:`losses`."""

    def unlearn(self, task: UnlearningTask) -> Unlearned:
        """Fine-tune copies of all members together."""
        self.task = task
        ensemble = task.originals.copy()
        self.attach(ensemble, task.examples, seed=task.seed, role="unlearned", members=task.members)
        self.prepare()
        self.fit(task.make_trainer)
        return Unlearned(ensemble, ensemble.logits(task.examples.inputs), self.sample_gradients, self.history())

    def prepare(self) -> None:
        """Compute what depends on the task only; called before the first step."""


def shuffled(points: Tensor, generator: torch.Generator) -> Tensor:
    """Return points in a random order."""
    return points[torch.randperm(len(points), generator=generator)]
