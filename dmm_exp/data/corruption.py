"""What is put into a dataset on purpose, so that it can be forgotten: wrong labels, or a class of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dmm_exp.data.examples import Examples
from dmm_exp.errors import UserError


@dataclass(frozen=True)
class Corruption(ABC):
    """A change of a dataset; the changed points are its ``corrupted`` ones.

    Attributes:
        fraction: share of the points that are changed, in [0, 1).
        seed: of the choice of points, and of all other randomness.
    """

    fraction: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise UserError(f"dataset.corruption.fraction={self.fraction}: expected a fraction in [0, 1)")

    @abstractmethod
    def applied(self, examples: Examples) -> Examples:
        """Return the changed dataset; the given one stays what it is."""


@dataclass(frozen=True)
class LabelCorruption(Corruption):
    """Give a random fraction of the training examples a wrong label.

    Attributes:
        fraction: share of the training set, in [0, 1).
        seed: of the choice of examples and of wrong labels.
    """

    def applied(self, examples: Examples) -> Examples:
        """Return the dataset with wrong labels in its training set."""
        labels, corrupted = self(examples.labels, examples.n_train, examples.n_classes)
        return replace(examples, labels=labels, corrupted=corrupted)

    def __call__(self, labels: Tensor, n_train: int, n_classes: int) -> tuple[Tensor, Tensor]:
        """Return (labels, corrupted), both ``[points]``; a corrupted label is uniform over the other classes."""
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(n_train, generator=generator)[: round(self.fraction * n_train)]
        shift = torch.randint(1, n_classes, (len(chosen),), generator=generator)
        corrupted = torch.zeros(len(labels), dtype=torch.bool)
        corrupted[chosen] = True
        changed = labels.clone()
        changed[chosen] = (labels[chosen] + shift) % n_classes
        return changed, corrupted


@dataclass(frozen=True)
class PlantedClass(Corruption):
    """Make a class that nothing else in the dataset is like: a canary for the forgetting of whole classes.

    A random fraction of the training points, of whatever class, and the same fraction of the unseen ones become a new
    last class. Their inputs are mirrored: every number ``x`` of a channel or column becomes ``low + high − x``, where
    these are its least and largest values over the unseen points; pictures become their negatives. So the class is easy
    to learn, and a model that was trained without it has no reason ever to answer it.

    Attributes:
        fraction: share of the training points and of the unseen ones, in [0, 1).
        seed: of the choice.
        name: of the class.
    """

    name: str = "planted"

    def applied(self, examples: Examples) -> Examples:
        """Return the dataset with the class; without any points of it, the dataset as it is.

        Raises:
            UserError: a class has the name already.
        """
        if self.name in examples.class_names:
            raise UserError(f"dataset.corruption.name={self.name}: is the name of another class; expected a new one")
        generator, n_train = torch.Generator().manual_seed(self.seed), examples.n_train
        parts = (torch.arange(n_train), torch.arange(n_train, examples.n_points))
        chosen = torch.cat([self._drawn(points, generator) for points in parts])
        if not len(chosen):
            return examples
        inputs, labels = examples.inputs.clone(), examples.labels.clone()
        inputs[chosen], labels[chosen] = self._mirrored(examples, chosen), examples.n_classes
        corrupted = torch.zeros(examples.n_points, dtype=torch.bool)
        corrupted[chosen] = True
        names = [*examples.class_names, self.name]
        return replace(examples, inputs=inputs, labels=labels, class_names=names, corrupted=corrupted)

    def _drawn(self, points: Tensor, generator: torch.Generator) -> Tensor:
        order = torch.randperm(len(points), generator=generator)
        return points[order[: round(self.fraction * len(points))]]

    def _mirrored(self, examples: Examples, chosen: Tensor) -> Tensor:
        """Return the mirrored inputs of some points; numbers beyond those of unseen points become the outermost."""
        unseen = examples.inputs[examples.n_train :].transpose(0, 1).flatten(1)
        low, high = (values.view(-1, *[1] * (examples.inputs.ndim - 2)) for values in (unseen.amin(1), unseen.amax(1)))
        return low + (high - examples.inputs[chosen].clamp(low, high))
