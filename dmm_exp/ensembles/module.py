"""The engine: a Lightning module that optimises all members of an ensemble at once.

Training from scratch and every unlearner that fine-tunes are this module with another loss and other batches.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional

from dmm_exp.data import Examples
from dmm_exp.ensembles.ensemble import Ensemble
from dmm_exp.ensembles.schedules import Schedule
from dmm_exp.ensembles.seeds import Role, member_generator, member_seed
from dmm_exp.errors import UserError

ELEMENTWISE = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "ASGD", "Rprop")

OptimizerFactory = Callable[..., torch.optim.Optimizer]


def check_optimizer(make: OptimizerFactory, key: str) -> None:
    """Raise ``UserError`` when an optimizer refuses its settings; ``key`` is where they stand in the configuration."""
    try:
        make([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: {error}") from error


class EnsembleModule(LightningModule, ABC):
    """Optimises stacked parameters; the sum of the members' losses gives each member exactly its own gradient.

    A subclass says what a member sees in an epoch (:meth:`sample`) and what it minimises (:meth:`losses`).

    Args:
        epochs: passes over :meth:`sample`.
        batch_size: examples of one member in one step; an epoch is cut into batches of nearly equal size.
        optimizer: makes the optimizer from an iterable of parameters.
        schedule: multiplier of the learning rate.

    Raises:
        UserError: a number is out of range, or the optimizer would mix members.
    """

    inputs: Tensor
    labels: Tensor
    ensemble: Ensemble
    role: Role

    def __init__(
        self, *, epochs: int, batch_size: int, optimizer: OptimizerFactory | None, schedule: Schedule | None
    ) -> None:
        super().__init__()
        if epochs < 0 or batch_size < 1:
            raise UserError(f"epochs={epochs}, batch_size={batch_size}: expected epochs ≥ 0 and a batch of at least 1")
        self.epochs = epochs
        self.batch_size = batch_size
        self._make_optimizer = optimizer
        if optimizer is not None:
            check_optimizer(optimizer, f"optimizer of {type(self).__name__}")
        self._schedule = schedule
        self.losses_by_epoch: list[Tensor] = []
        self.sample_gradients = 0

    def attach(self, ensemble: Ensemble, examples: Examples, *, seed: int, role: Role, members: range) -> None:
        """Say which members to optimise, on which examples.

        Args:
            ensemble: changed in place.
            examples: the dataset; it moves to the device with the module.
            seed: the run's seed.
            role: with ``members``, determines all randomness.
            members: their numbers within the role.
        """
        self.ensemble = ensemble
        self.register_buffer("inputs", examples.inputs, persistent=False)
        self.register_buffer("labels", examples.labels, persistent=False)
        self.seed, self.role, self.members = seed, role, members

    @abstractmethod
    def sample(self, row: int, generator: torch.Generator) -> Tensor:
        """Return the point indices that the member in ``row`` sees in one epoch, in order; equally many for all."""

    @abstractmethod
    def losses(self, indices: Tensor) -> Tensor:
        """Return every member's loss ``[members]`` on its batch ``[members, batch]`` of point indices."""

    def predict_batch(self, indices: Tensor) -> Tensor:
        """Return the members' logits ``[members, batch, classes]`` on their batches."""
        return self.ensemble(self.inputs[indices])

    def cross_entropy(self, indices: Tensor) -> Tensor:
        """Return the mean cross-entropy of every member ``[members]`` on its batch."""
        logits = self.predict_batch(indices)
        values = functional.cross_entropy(logits.flatten(0, 1), self.labels[indices].flatten(), reduction="none")
        return values.view(indices.shape).mean(1)

    def fit(self, make_trainer: Callable[..., Trainer]) -> None:
        """Optimise: ``make_trainer(max_epochs=...)`` gives the Lightning trainer; afterwards tensors are on the CPU.

        Member seeds alone determine the result: randomness that a single ordinary model draws from the global
        generator (dropout) is seeded by the member, too.
        """
        if self.epochs == 0:
            return
        trainer = make_trainer(max_epochs=self.epochs)
        with torch.random.fork_rng():
            torch.manual_seed(member_seed(self.seed, self.role, self.members[0], "noise"))
            trainer.fit(self, train_dataloaders=_MemberBatches(self))
        self.cpu()

    def history(self) -> list[float]:
        """Return the mean loss over members and batches, one value an epoch."""
        return [float(losses.mean()) for losses in self.losses_by_epoch]

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        """Return the sum of the members' losses."""
        losses = self.losses(batch)
        self._sum = losses.detach() if batch_index == 0 else self._sum + losses.detach()
        self._batches = batch_index + 1
        self.sample_gradients += batch.shape[1]
        return losses.sum()

    def on_train_epoch_end(self) -> None:
        """Keep the epoch's mean losses."""
        self.losses_by_epoch.append(self._sum / self._batches)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule, stepped every batch."""
        if self._make_optimizer is None:
            raise UserError(f"{type(self).__name__} trains but has no optimizer")
        optimizer = self._make_optimizer(self.ensemble.parameters())
        if len(self.ensemble) > 1 and type(optimizer).__name__ not in ELEMENTWISE:
            raise UserError(
                f"optimizer {type(optimizer).__name__} mixes members that are trained together; use one of "
                f"{', '.join(ELEMENTWISE)}, or model.chunk_size=1"
            )
        if self._schedule is None:
            return optimizer
        schedule, steps = self._schedule, len(_MemberBatches(self))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step / steps, self.epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def epoch_indices(self, epoch: int) -> Tensor:
        """Return what every member sees in an epoch, ``[members, points]``."""
        generators = (member_generator(self.seed, self.role, index, "order", epoch) for index in self.members)
        return torch.stack([self.sample(row, generator) for row, generator in enumerate(generators)])


class _MemberBatches:
    """The batches of one epoch: index tensors ``[members, batch]`` of nearly equal batch size."""

    def __init__(self, module: EnsembleModule) -> None:
        self.module = module
        self.size = module.epoch_indices(0).shape[1]

    def __len__(self) -> int:
        return math.ceil(self.size / self.module.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.module.epoch_indices(self.module.current_epoch).tensor_split(len(self), dim=1)
