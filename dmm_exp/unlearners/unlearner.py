"""The interface of unlearners: they take an ensemble of originals, and return an ensemble of unlearned models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dmm_exp.config.later import Later
from dmm_exp.data import Examples
from dmm_exp.ensembles import Ensemble, Optimisation, member_seed
from dmm_exp.ensembles.optimisation import OptimizerFactory, check_optimizer
from dmm_exp.ensembles.schedules import Schedule
from dmm_exp.ensembles.seeds import member_generator
from dmm_exp.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from dmm_exp.unlearners.fit import Fit
else:
    Fit = Later("dmm_exp.unlearners.fit:Fit")

F = TypeVar("F", bound=Callable[..., Tensor])
IN_PLACE = "in_place"  # attribute of functions
FORWARD_PASSES = 3  # as costly as one gradient of a single example
Target = Literal["none", "predicted", "oracle"]


@dataclass(frozen=True)
class UnlearningTask:
    """One task of unlearning: models, and which examples they have to forget.

    Attributes:
        originals: trained on the forget and the retain set; never changed.
        examples: the dataset.
        forget: sorted training indices to forget, ``[forget]``; ``[members, forget]`` where every member has a training
            set and a forget set of its own, with the same size for all members.
        retain: sorted training indices to keep, ``[retain]`` or ``[members, retain]``.
        seed: determines, with the members, all randomness.
        members: the originals' numbers.
        targets: logits to match ``[members, points, classes]``, for unlearners that need them.
        build: makes a newly initialised network.
        recipe: of the originals' training: ``epochs``, ``batch_size``, ``optimizer``, ``schedule``.
        make_trainer: from ``max_epochs`` to a Lightning trainer.
        early: the originals as they were at :attr:`Unlearner.starts_at`; None where no such models are kept.
    """

    originals: Ensemble
    examples: Examples
    forget: Tensor
    retain: Tensor
    seed: int
    members: Sequence[int]
    targets: Tensor | None
    build: Callable[[], nn.Module]
    recipe: dict[str, Any]
    make_trainer: Callable[..., Trainer]
    early: Ensemble | None = None

    @property
    def n_forget(self) -> int:
        """Number of examples that a member has to forget."""
        return self.forget.shape[-1]

    @property
    def n_retain(self) -> int:
        """Number of examples that a member keeps."""
        return self.retain.shape[-1]

    @property
    def n_train(self) -> int:
        """Size of an original's training set: the forget and the retain set."""
        return self.n_forget + self.n_retain

    def of(self, row: int) -> UnlearningTask:
        """Return the task with the sets of the member in ``row``, ``[forget]`` and ``[retain]``."""
        if self.forget.ndim == 1:
            return self
        return replace(self, forget=self.forget[row], retain=self.retain[row])

    def untrained(self) -> Ensemble:
        """Return newly initialised networks, one for each member by its own seed, on the device of the originals."""
        seeds = (member_seed(self.seed, "unlearned", index, "initialisation") for index in self.members)
        return Ensemble.initialise(self.build, seeds).to(self.originals.device)

    def generator(self, row: int) -> torch.Generator:
        """Return a source of random numbers for the member in ``row``; what it gives depends on the member alone."""
        return member_generator(self.seed, "unlearned", self.members[row], "order")

    def alone(self, row: int) -> UnlearningTask:
        """Return the task of the member in ``row`` alone."""
        one = slice(row, row + 1)
        targets, early = (None if values is None else values[one] for values in (self.targets, self.early))
        return replace(
            self.of(row), originals=self.originals[one], members=self.members[one], targets=targets, early=early
        )


@dataclass(frozen=True)
class UnlearningResult:
    """The result of unlearning.

    Attributes:
        ensemble: the unlearned models; None if the method returns predictions only.
        logits: ``[members, points, classes]`` on all points.
        sample_gradients: gradient evaluations of single examples for one model.
        history: mean loss of every epoch.
        checkpoints: earlier results by number of epochs; the object itself is the final result.
    """

    ensemble: Ensemble | None
    logits: Tensor
    sample_gradients: int
    history: list[float]
    checkpoints: dict[int, UnlearningResult] = field(default_factory=dict)

    @classmethod
    def of(cls, task: UnlearningTask, networks: Sequence[nn.Module], sample_gradients: int) -> UnlearningResult:
        """Return the result of a method that unlearned one network after another.

        Args:
            task: that was carried out.
            networks: one for each of its members, in their order, on any device.
            sample_gradients: gradient evaluations of single examples for one model.
        """
        ensemble = Ensemble.stack([network.cpu() for network in networks])
        logits = ensemble.to(task.originals.device).logits(task.examples.inputs)
        return cls(ensemble.cpu(), logits, sample_gradients, [])


class Unlearner(ABC):
    """A method of unlearning with its settings; unlearning does not change the object.

    Attributes:
        target: the logits that :attr:`UnlearningTask.targets` must hold: none, those that attribution predicts for a
            retrained model, or those of real retrained models.
        own_sets: whether :meth:`unlearn` accepts members that each have a forget set of their own; other methods
            unlearn such members one at a time.
        reference: whether the method is only a reference, or uses retrained models; leaderboards show it without a
            rank.
        returns_models: whether there are models at the end, and not predictions only.
        needs_training: why the method cannot be applied to a network that somebody else trained; None if it can.
        trains_originals: whether the method trains originals of its own, as costly as those that it is given.
        starts_at: the epoch of the originals' training that the method goes back to; None if it begins at their end.
        epochs: number of epochs; 0 if the method has none.
        checkpoints: numbers of epochs at which the method is evaluated before its end.
        nests: whether a shorter run is the beginning of a longer one.
        moves_inputs: whether inputs are moved a little, as numbers can be and words cannot.
    """

    target: ClassVar[Target] = "none"
    own_sets: ClassVar[bool] = False
    reference: ClassVar[bool] = False
    returns_models: ClassVar[bool] = True
    needs_training: ClassVar[str | None] = None
    trains_originals: ClassVar[bool] = False
    starts_at: int | None = None
    moves_inputs: ClassVar[bool] = False
    epochs: int = 0
    checkpoints: Sequence[int] = ()

    @property
    def nests(self) -> bool:
        """Whether checkpoints of a long run equal shorter runs."""
        return False

    @property
    def certified(self) -> dict[str, float]:
        """``epsilon`` and ``delta`` that are proved of the result; empty for methods without a certificate."""
        return {}

    @abstractmethod
    def unlearn(self, task: UnlearningTask) -> UnlearningResult:
        """Unlearn all members of the task together; the task's originals are not changed."""

    def check_inputs(self, examples: Examples, key: str) -> None:
        """Raise ``UserError``, which begins with a key, where the method cannot be applied to such inputs."""
        if self.moves_inputs and examples.words is not None:
            raise UserError(
                f"{key}: {type(self).__name__} moves inputs by small amounts, and inputs of this dataset are words; "
                "expected a method that takes inputs as they are"
            )

    def targets_of(self, task: UnlearningTask) -> Tensor:
        """Return the logits to match, ``[members, points, classes]``. Raises ``TypeError`` where there are none."""
        if task.targets is None:
            raise TypeError(f"{type(self).__name__} needs targets")
        return task.targets


class FineTuning(Unlearner):
    """Unlearning by optimising copies of the originals: a method overrides :meth:`losses`, and often :meth:`sample`.

    The object holds the settings of the method; applied to one task it is a :class:`Fit`.

    Args:
        epochs: see :class:`Optimisation`, as for all other arguments.
        batch_size: of a member's rows in a step.
        optimizer: of every member.
        schedule: of the learning rate.
        clip_norm: of a member's gradient.
        batch_norm: ``train`` or ``frozen``.
        precision: of the steps.

    Raises:
        UserError: a number is out of range, or the optimizer refuses its settings.
    """

    own_sets: ClassVar[bool] = True

    def __init__(
        self,
        *,
        epochs: int | Sequence[int],
        batch_size: int,
        optimizer: OptimizerFactory | None,
        schedule: Schedule | None,
        clip_norm: float | None = None,
        batch_norm: Literal["train", "frozen"] = "train",
        precision: Literal["32-true", "bf16-mixed"] | None = None,
    ) -> None:
        self.optimisation = Optimisation(epochs, batch_size, optimizer, schedule, clip_norm, batch_norm, precision)
        *self.checkpoints, self.epochs = self.optimisation.stops
        check_optimizer(optimizer, f"optimizer of {type(self).__name__}")

    @property
    def nests(self) -> bool:
        """Whether checkpoints of a long run equal shorter runs; this depends on the schedule."""
        schedule = self.optimisation.schedule
        return getattr(schedule, "nests", schedule is None)

    def unlearn(self, task: UnlearningTask) -> UnlearningResult:
        """Fine-tune copies of all members together."""
        return Fit(self, task).result()

    def prepare(self, fit: Fit) -> dict[str, Tensor]:
        """Return tensors that depend on the task only, for :attr:`Fit.kept`; called before the first step.

        By default these are the ``targets``, if the method has any.
        """
        return {} if self.target == "none" else {"targets": self.targets_of(fit.task)}

    def sample(self, task: UnlearningTask, generator: torch.Generator) -> Tensor:
        """Return the points of a member in one epoch, in order: indices ``[points]``; by default the retain set.

        Rows of several numbers ``[points, numbers]`` stay together, and :meth:`losses` gets them unchanged. All members
        have the same number of points.

        Args:
            task: with the sets of this member, ``[forget]`` and ``[retain]``.
            generator: for all random numbers.
        """
        return shuffled(task.retain, generator)

    def passes(self, task: UnlearningTask, epoch: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
        """Return the passes of an epoch, each a sample and its batch size; no batch holds rows of two passes."""
        return [(self.sample(task, generator), self.optimisation.batch_size)]

    @abstractmethod
    def losses(self, fit: Fit, indices: Tensor) -> Tensor:
        """Return every member's loss ``[members]`` on its batch ``[members, batch]`` of point indices."""

    def before_step(self, fit: Fit, indices: Tensor) -> None:
        """Change the members' gradients on a batch of point indices before they are clipped; nothing by default."""

    def after_step(self, fit: Fit) -> None:
        """Change the members after every step of the optimizer; nothing by default."""


def written_out(in_place: Callable[..., Any]) -> Callable[[F], F]:
    """Mark a ``losses`` whose gradient is written out, so that steps need no autograd.

    Args:
        in_place: takes what ``losses`` does, and returns a :data:`dmm_exp.ensembles.fused_step.Loss`.
    """

    def mark(losses: F) -> F:
        setattr(losses, IN_PLACE, in_place)
        return losses

    return mark


def in_place_of(losses: Callable[..., Tensor]) -> Callable[..., Any] | None:
    """Return what a ``losses`` was marked with; None where it was not."""
    return getattr(losses, IN_PLACE, None)


def descent(self: FineTuning, fit: Fit, indices: Tensor) -> Tensor:
    """Return the cross-entropy of every member ``[members]``: a ``losses`` for methods that descend on their sample."""
    return fit.cross_entropy(indices)


def entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of every answer ``[members, batch]``, from logits with classes last."""
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)


def own_rows(values: Tensor, indices: Tensor) -> Tensor:
    """Return each member's values at its own points: ``[members, points, ...]`` at ``[members, batch]``."""
    return values[torch.arange(len(indices), device=indices.device)[:, None], indices]


def mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Return every member's mean ``[members]`` over the selected points of its batch, 0 if none is selected."""
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1)


def cycled(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` points: all in a random order, repeated, each time in a new order, as often as needed."""
    return torch.cat([shuffled(points, generator) for _ in range(-(-count // len(points)))])[:count]


def shuffled(points: Tensor, generator: torch.Generator) -> Tensor:
    """Return points in a random order."""
    return points[torch.randperm(len(points), generator=generator)]
