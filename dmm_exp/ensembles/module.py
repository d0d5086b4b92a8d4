"""The engine: a Lightning module that optimises all members of an ensemble at once.

Training from scratch and every unlearner that fine-tunes are this module with another loss and other batches.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Literal

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

    A subclass says what a member sees in an epoch (:meth:`sample`, or :meth:`passes` when there are several passes) and
    what it minimises (:meth:`losses`).

    Args:
        epochs: passes over :meth:`sample`; several numbers ask for the largest, with checkpoints at the others.
        batch_size: rows of one member's sample in one step; a pass is cut into batches of nearly equal size.
        optimizer: makes the optimizer from an iterable of parameters.
        schedule: multiplier of the learning rate.
        clip_norm: largest norm of one member's gradient; longer gradients are scaled down to it.
        batch_norm: whether BatchNorm normalises with the batch's statistics and updates the running ones (``train``),
            or uses the running ones and leaves them alone (``frozen``).
        precision: of the optimisation, in Lightning's words; None is the trainer's own.

    Raises:
        UserError: a number is out of range, or the optimizer would mix members.
    """

    inputs: Tensor
    labels: Tensor
    ensemble: Ensemble
    role: Role

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
        super().__init__()
        least, several = (0, [epochs]) if isinstance(epochs, int) else (1, sorted(set(epochs)))
        if not several or several[0] < least or batch_size < 1:
            raise UserError(
                f"epochs={epochs}, batch_size={batch_size}: expected epochs ≥ 0 (in a list ≥ 1) and a batch "
                "of at least 1"
            )
        if clip_norm is not None and not clip_norm > 0:
            raise UserError(f"clip_norm={clip_norm}: expected a number above 0, or null")
        if batch_norm not in ("train", "frozen"):
            raise UserError(f"batch_norm={batch_norm}: expected train or frozen")
        *self.checkpoints, self.epochs = several
        self.batch_size = batch_size
        self.clip_norm, self.batch_norm, self.precision = clip_norm, batch_norm, precision
        self._make_optimizer = optimizer
        if optimizer is not None:
            check_optimizer(optimizer, f"optimizer of {type(self).__name__}")
        self._schedule = schedule

    def attach(self, ensemble: Ensemble, examples: Examples, *, seed: int, role: Role, members: Sequence[int]) -> None:
        """Say which members to optimise, on which examples.

        Args:
            ensemble: changed in place.
            examples: the dataset; it moves to the device with the module.
            seed: the run's seed.
            role: with ``members``, determines all randomness.
            members: their numbers within the role.
        """
        self.ensemble = ensemble
        ensemble.freeze_batch_norm = self.batch_norm == "frozen"
        self.register_buffer("inputs", examples.inputs, persistent=False)
        self.register_buffer("labels", examples.labels, persistent=False)
        self.seed, self.role, self.members = seed, role, members
        self.losses_by_epoch: list[Tensor] = []
        self.sample_gradients = 0
        self._batches_done = 0
        self._starts = self._count_batches()

    @abstractmethod
    def sample(self, row: int, generator: torch.Generator) -> Tensor:
        """Return what the member in ``row`` sees in one epoch, in order: point indices ``[points]``.

        Rows of several numbers ``[points, numbers]`` stay together, and :meth:`losses` gets them as they are. All
        members see equally many.
        """

    def passes(self, epoch: int, row: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
        """Return the passes of an epoch, each a sample and its batch size; no batch holds rows of two passes."""
        return [(self.sample(row, generator), self.batch_size)]

    @abstractmethod
    def losses(self, indices: Tensor) -> Tensor:
        """Return every member's loss ``[members]`` on its batch ``[members, batch]`` of point indices."""

    def predict_batch(self, indices: Tensor) -> Tensor:
        """Return the members' float32 logits ``[members, batch, classes]`` on their batches, and count the cost."""
        self.sample_gradients += indices.shape[1]
        try:
            return self.ensemble(self.inputs[indices]).float()
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                raise UserError(
                    f"batch_size={self.batch_size}: BatchNorm cannot normalise a batch of one example by its own "
                    "statistics; use batch_norm=frozen, or batches without a single example left over"
                ) from error
            raise

    def cross_entropies(self, indices: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the cross-entropy of every point ``[members, batch]``, towards its own label or the one given."""
        labels = self.labels[indices] if labels is None else labels
        logits = self.predict_batch(indices)
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(indices.shape)

    def cross_entropy(self, indices: Tensor) -> Tensor:
        """Return the mean cross-entropy of every member ``[members]`` on its batch."""
        return self.cross_entropies(indices).mean(1)

    def fit(self, make_trainer: Callable[..., Trainer]) -> None:
        """Optimise: ``make_trainer(max_epochs=...)`` gives the Lightning trainer; afterwards tensors are on the CPU.

        Member seeds alone determine the result: randomness that a single ordinary model draws from the global
        generator (dropout) is seeded by the member, too.
        """
        if self.epochs == 0:
            return
        precision = {} if self.precision is None else {"precision": self.precision}
        trainer = make_trainer(max_epochs=self.epochs, **precision)
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
        self._batches_done += 1
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
        schedule = self._schedule
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: schedule(self.progress(), self.epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each member's gradient by its own norm, so that members stay independent (the trainer's limit, too)."""
        if gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            gradient_clip_val = None
        limit = gradient_clip_val if self.clip_norm is None else self.clip_norm
        gradients = [value.grad for value in self.ensemble.parameters() if value.grad is not None]
        if limit is None or not gradients:
            return
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        factors = (limit / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))

    def progress(self, batches: int | None = None) -> float:
        """Return how many epochs, in fractions, have passed after a number of batches (by default those done)."""
        batches = self._batches_done if batches is None else batches
        epoch = bisect_right(self._starts, batches) - 1
        if epoch >= self.epochs:
            return float(self.epochs)
        return epoch + (batches - self._starts[epoch]) / (self._starts[epoch + 1] - self._starts[epoch])

    def _count_batches(self) -> list[int]:
        """Return the number of batches before every epoch, and in all."""
        first = [self._passes(epoch, 0) for epoch in range(self.epochs)]
        lengths = (sum(math.ceil(len(rows) / size) for rows, size in passes) for passes in first)
        return list(accumulate(lengths, initial=0))

    def _passes(self, epoch: int, row: int) -> list[tuple[Tensor, int]]:
        return self.passes(epoch, row, member_generator(self.seed, self.role, self.members[row], "order", epoch))

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Yield the batches of an epoch, ``[members, batch]`` of nearly equal size within a pass."""
        for passes in zip(*(self._passes(epoch, row) for row in range(len(self.members))), strict=True):
            rows, size = torch.stack([rows for rows, _ in passes]), passes[0][1]
            yield from rows.tensor_split(math.ceil(rows.shape[1] / size), dim=1)


class _MemberBatches:
    """The batches of the current epoch; without a length, since epochs may differ in theirs."""

    def __init__(self, module: EnsembleModule) -> None:
        self.module = module

    def __iter__(self) -> Iterator[Tensor]:
        return self.module.batches(self.module.current_epoch)
