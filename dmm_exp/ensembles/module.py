"""The engine: a Lightning module that optimises all members of an ensemble at once.

Training from scratch and every unlearner that fine-tunes are this module with another loss and other batches.
"""

from __future__ import annotations

import math
import signal
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional

from dmm_exp.data import Examples
from dmm_exp.ensembles.chain import NOT_A_CHAIN, are_narrow, chain_of
from dmm_exp.ensembles.engine import AUTO, Engine, TrainerFactory
from dmm_exp.ensembles.ensemble import Ensemble, column_major
from dmm_exp.ensembles.fused_step import FusedStep, Loss
from dmm_exp.ensembles.optimisation import (
    Optimisation,
    Rates,
    clip_norms,
    independent,
    replayable,
)
from dmm_exp.ensembles.seeds import Role, global_numbers, member_generator, member_seed
from dmm_exp.ensembles.steps import CudaGraphs, Recorder, Replayed, Step
from dmm_exp.errors import UserError

WeightedBatch = tuple[Tensor, float]

# settings that count batches, and how they usually read: 1 is one batch, and 1.0 all of them
BY_BATCHES = {"limit_train_batches": "1.0", "overfit_batches": "0.0", "fast_dev_run": "False"}
OF_A_BATCH = ("training_step", "on_train_batch_start", "on_train_batch_end")  # Lightning calls them for every batch
OF_A_STEP = ("losses", "cross_entropies", "predict_batch", "answer", "before_step", "after_step")  # not if it is fused


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` on Ctrl-C, where Lightning would end the process with exit code 1."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, before)
            raise KeyboardInterrupt from None
        raise


class EnsembleModule(LightningModule, ABC):
    """Optimises stacked parameters; the sum of the members' losses gives each member exactly its own gradient.

    A subclass defines a member's points of an epoch (:meth:`passes`) and its losses (:meth:`losses`). Steps may be
    recorded and replayed, so a loss may depend only on its batch, on tensors, and on :attr:`elapsed` for the time.

    The data stays on the device as it was stored; an epoch's batches are moved there together, and no step waits.

    Attributes:
        at_once: whether the trainer's loop goes around once an epoch and not once a batch, which saves its time.
        fused: whether steps are written out, without autograd; see :class:`FusedStep`.
        elapsed: epochs, in fractions, that had passed before the current step; a tensor where steps are recorded.
        steps: number of batches before the current one, a tensor ``[]``.

    Args:
        optimisation: how.
    """

    ensemble: Ensemble
    role: Role
    recorder: Callable[[], Recorder] = CudaGraphs
    at_once = fused = False

    def __init__(self, optimisation: Optimisation) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.optimisation = optimisation
        self.epochs, self.batch_size = optimisation.stops[-1], optimisation.batch_size

    @property
    def method_name(self) -> str:
        """Name of the method in messages."""
        return type(self).__name__

    def attach(self, ensemble: Ensemble, examples: Examples, *, seed: int, role: Role, members: Sequence[int]) -> None:
        """Set the members to optimise, and the examples.

        Args:
            ensemble: changed in place.
            examples: the dataset.
            seed: the run's seed.
            role: determines, with ``members``, all randomness.
            members: numbers of the members within the role.
        """
        self.ensemble = ensemble
        ensemble.freeze_batch_norm = self.optimisation.batch_norm == "frozen"
        self.examples, self._resident = examples, examples
        self.seed, self.role, self.members = seed, role, members
        self.losses_by_epoch: list[Tensor] = []
        self.sample_gradients = 0
        self._batches_done = self._taken = 0
        self.elapsed: float | Tensor = 0.0
        self.steps = torch.zeros((), dtype=torch.int64)
        self._starts = self._count_batches()

    @property
    def inputs(self) -> Tensor:
        """Inputs of all points, as they are stored; while training, on the device."""
        return self._resident.inputs

    @property
    def labels(self) -> Tensor:
        """Labels of all points; while training, on the device."""
        return self._resident.labels

    @abstractmethod
    def passes(self, epoch: int, row: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
        """Return the passes of an epoch for the member in ``row``, each a sample and its batch size.

        A sample holds the member's points in order: indices ``[points]``, or rows of several numbers
        ``[points, numbers]``, which stay together and which :meth:`losses` gets unchanged. All members have the same
        number of points, and no batch holds rows of two passes.
        """

    @abstractmethod
    def losses(self, indices: Tensor) -> Tensor:
        """Return every member's loss ``[members]`` on its batch ``[members, batch]`` of point indices."""

    def see(self, indices: Tensor) -> Tensor:
        """Return the inputs ``[members, batch, ...]`` of a batch of point indices."""
        return self.inputs.index_select(0, indices.flatten()).unflatten(0, indices.shape)

    def predict_batch(self, indices: Tensor) -> Tensor:
        """Return the members' float32 logits ``[members, batch, classes]`` on their batches, and count the cost."""
        return self.answer(self.see(indices))

    def answer(self, inputs: Tensor) -> Tensor:
        """Return the members' float32 logits on any inputs ``[members, batch, ...]``, and count the cost.

        Raises:
            UserError: BatchNorm would normalise a batch of one example by its own statistics.
        """
        self._taken += inputs.shape[1]
        try:
            return self.ensemble(inputs).float()
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                raise UserError(
                    f"batch_size={self.batch_size}: BatchNorm cannot normalise a batch of one example by its own "
                    "statistics; use batch_norm=frozen, or batches without a single example left over"
                ) from error
            raise

    def cross_entropies(self, indices: Tensor, labels: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy of every point ``[members, batch]``, towards its own label or the one given."""
        labels = self.labels[indices] if labels is None else labels
        logits = self.predict_batch(indices)
        losses = functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=label_smoothing
        )
        return losses.view(indices.shape)

    def cross_entropy(self, indices: Tensor) -> Tensor:
        """Return the mean cross-entropy of every member ``[members]`` on its batch."""
        return self.cross_entropies(indices).mean(1)

    def fit(self, make_trainer: Callable[..., Trainer]) -> None:
        """Optimise: ``make_trainer(max_epochs=...)`` gives the Lightning trainer; afterwards tensors are on the CPU.

        Only the members' seeds determine the result: global random numbers that a single ordinary model uses (dropout)
        are seeded by the member, too.
        """
        if self.epochs == 0:
            return
        precision = {} if self.optimisation.precision is None else {"precision": self.optimisation.precision}
        trainer = make_trainer(max_epochs=self.epochs, **precision)
        self._take_over(trainer, make_trainer.engine if isinstance(make_trainer, TrainerFactory) else Engine())
        with global_numbers(member_seed(self.seed, self.role, self.members[0], "noise")), _interruptible():
            trainer.fit(self, train_dataloaders=_MemberBatches(self, trainer.global_rank, trainer.world_size))
        self._resident = self.examples
        self.cpu()

    def _take_over(self, trainer: Trainer, engine: Engine) -> None:
        """Read the trainer's clipping and accumulation, which this module applies itself, and set the engine.

        Raises:
            UserError: they exclude each other.
        """
        self._limit, self._limit_kind = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
        self._accumulated = trainer.accumulate_grad_batches
        trainer.gradient_clip_val, trainer.accumulate_grad_batches = None, 1
        self.ensemble.use(engine)
        self.at_once = self._by_batch(trainer) is None
        self.fused = self.ensemble.engine.members in ("fused", AUTO) and self._unfusable(trainer) is None
        if self.batch_size < trainer.world_size:
            raise UserError(
                f"batch_size={self.batch_size}: expected at least the {trainer.world_size} processes that share a batch"
            )
        if trainer.precision == "16-mixed" and self._clips:
            raise UserError(
                "trainer.precision=16-mixed: scales its losses, so gradients cannot be clipped; use bf16-mixed"
            )
        reason = self._unrecordable(trainer) if self.ensemble.engine.step == "graph" else None
        if reason and not engine.measured:
            raise UserError(f"engine.step=graph: {reason}; use engine.step=eager, or auto")
        self._recorded = self.ensemble.engine.step == "graph" and not reason

    def _by_batch(self, trainer: Trainer) -> str | None:
        """Return why the trainer's loop has to go around once a batch, None if it may do so once an epoch."""
        counts = trainer.max_steps > 0 or any(repr(getattr(trainer, key)) != usual for key, usual in BY_BATCHES.items())
        if trainer.world_size > 1 or self._accumulated > 1 or counts or getattr(trainer, "callbacks", None):
            return (
                "needs one process, and a trainer without accumulate_grad_batches, max_steps, "
                f"{', '.join(BY_BATCHES)} and callbacks"
            )
        if trainer.precision != "32-true":  # within one autocast, weights would stay as they were first rounded
            return f"trains in 32-true, not in trainer.precision={trainer.precision}"
        if any(getattr(type(self), name) is not getattr(EnsembleModule, name) for name in OF_A_BATCH):
            return f"{self.method_name} takes steps of its own"
        return None

    def _unfusable(self, trainer: Trainer) -> str | None:
        """Return why steps cannot be fused, None if they can."""
        if trainer.strategy.root_device.type != "cpu":
            return f"is for CPUs, not for {trainer.strategy.root_device}"
        by_batch = self._by_batch(trainer)
        if by_batch is not None:
            return by_batch
        if self._takes_own_steps():
            return f"{self.method_name} takes steps of its own"
        layers = chain_of(self.ensemble, self.examples.input_shape)
        if layers is None:
            return NOT_A_CHAIN
        wide = self.ensemble.engine.members == AUTO and not are_narrow(layers)
        return "a convolution has so many channels that plain steps are faster" if wide else None

    def _takes_own_steps(self) -> bool:
        """Return whether a step is more than one of an optimizer under the loss of :meth:`losses`: yes by default."""
        return True

    def _losses_in_place(self, indices: Tensor) -> Loss:
        """Return :meth:`losses` for fused steps, where the module takes no steps of its own."""
        raise NotImplementedError

    def _look(self, indices: Tensor) -> Callable[[Tensor], None] | None:
        """Return what gets the logits ``[members, batch, classes]`` of a fused step; nothing by default."""

    def _unrecordable(self, trainer: Trainer) -> str | None:
        """Return why steps cannot be recorded, None if they can."""
        device = trainer.strategy.root_device
        if self.recorder is CudaGraphs and device.type != "cuda":
            return f"needs a CUDA device, not {device}"
        if trainer.world_size > 1:
            return "not with trainer=ddp, whose processes communicate in every step"
        if self._accumulated > 1:
            return f"trainer.accumulate_grad_batches={self._accumulated} is not recorded, expected 1"
        if trainer.precision == "16-mixed":
            return "trainer.precision=16-mixed scales its losses on the host"
        optimizer = self.optimisation.optimizer
        if optimizer is not None and replayable(optimizer) is None:
            return f"the optimizer of {self.method_name} keeps numbers on the host; SGD and Adam do not"
        return None

    def on_fit_start(self) -> None:
        """Move the data to the device, and prepare eager or recorded steps."""
        self._resident = self.examples.to(self.device)
        self._sum = torch.zeros(len(self.members), device=self.device)
        self.steps = torch.zeros((), dtype=torch.int64, device=self.device)
        self._optimizer: Any = self.optimizers(use_pl_optimizer=not self._recorded)
        self._rates = Rates(self._optimizer, self.device if self._recorded else None)
        self._step: Step = self._advance
        if self._recorded:
            self._step = Replayed(self._advance, self.recorder())
            self.elapsed = torch.zeros((), device=self.device)
        layers = chain_of(self.ensemble, self.examples.input_shape) if self.fused else None
        if layers is not None:
            clip, self._optimizer = self._clip if self._clips else None, self.optimizers(use_pl_optimizer=False)
            self._fused_step = FusedStep(self.ensemble, layers, self._optimizer, clip)
            self._step = self._advance_fused

    def on_fit_end(self) -> None:
        """Undo what fused steps needed.

        Parameters have their own layout in memory again: answers would be rounded otherwise than when they are read.
        """
        if self.fused:
            self._optimizer.zero_grad()
            self._step = self._advance
            del self._fused_step
            for value in self.ensemble.parameters():
                value.data = column_major(value.data)

    def history(self) -> list[float]:
        """Return the mean loss over members and batches, one value for each epoch."""
        return [float(losses.mean()) for losses in self.losses_by_epoch]

    def training_step(self, parts: list[WeightedBatch], batch_index: int) -> None:
        """Take a step over each of some batches."""
        if batch_index == 0:
            self._sum.zero_()
        for part in parts:
            self._take(*part)

    def _take(self, batch: Tensor, weight: float) -> None:
        self._weight = weight
        self.steps.fill_(self._batches_done)
        passed = self.progress()
        if isinstance(self.elapsed, Tensor):
            self.elapsed.fill_(passed)
        else:
            self.elapsed = passed
        if self.optimisation.schedule is not None:
            self._rates.set(self.optimisation.schedule(passed, self.epochs))
        taken = self._step(batch)  # of this process's part of the batch
        self.sample_gradients += round(taken * self.trainer.world_size / self._weight)
        self._batches_done += 1

    def _advance(self, batch: Tensor) -> int:
        """Take a step over a batch ``[members, batch]``; return how many gradients a member took."""
        self._taken = 0
        losses = self.losses(batch)
        with torch.autocast(batch.device.type, enabled=False):
            self.manual_backward(losses.sum() * (self._weight / self._accumulated))
            if self._is_whole():
                self.before_step(batch)
                self._clip()
                self._optimizer.step()
                self._optimizer.zero_grad()
                self.after_step()
        self._sum += losses.detach() * self._weight
        return self._taken

    def _advance_fused(self, batch: Tensor) -> int:
        """Take a step over a batch ``[members, batch]`` without autograd; return how many gradients a member took."""
        self._sum += self._fused_step(self.see(batch), self._losses_in_place(batch), self._look(batch))
        return batch.shape[1]

    def _is_whole(self) -> bool:
        """Return whether the optimizer steps after this batch: with accumulation not after every one."""
        begun, end = self._starts[self.current_epoch : self.current_epoch + 2]
        done = self._batches_done + 1
        return (done - begun) % self._accumulated == 0 or done == end

    def before_step(self, batch: Tensor) -> None:
        """Change the members' gradients before they are clipped; nothing by default."""

    def after_step(self) -> None:
        """Change the members after every step of the optimizer; nothing by default."""

    def on_train_epoch_end(self) -> None:
        """Keep the epoch's mean losses."""
        begun, end = self._starts[self.current_epoch : self.current_epoch + 2]
        self.losses_by_epoch.append(self.over_processes(self._sum, "mean") / (end - begun))

    def over_processes(self, values: Tensor, how: Literal["mean", "sum"]) -> Tensor:
        """Return the mean or sum over the processes that share every batch."""
        return values if self.trainer.world_size == 1 else self.trainer.strategy.reduce(values.clone(), reduce_op=how)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        make = self.optimisation.optimizer
        if make is None:
            raise UserError(f"{self.method_name} trains but has no optimizer")
        options = (replayable(make) or {}) if self._recorded else {}
        return independent(make(self.ensemble.parameters(), **options), len(self.ensemble))

    @property
    def _clips(self) -> bool:
        """Whether gradients are clipped."""
        return bool(self._limit or self.optimisation.clip_norm)

    def _clip(self) -> None:
        """Clip each member's gradient by its own norm, so that members stay independent (the trainer's limit, too)."""
        limit = self._limit
        if limit and self._limit_kind == "value":
            torch.nn.utils.clip_grad_value_(self.ensemble.parameters(), limit)
            limit = None
        limit = limit if self.optimisation.clip_norm is None else self.optimisation.clip_norm
        if limit:
            clip_norms((value for _, value in sorted(self.ensemble.params.items())), limit)  # in the order of names

    def progress(self, batches: int | None = None) -> float:
        """Return the number of epochs, with fractions, after a number of batches (by default those done so far)."""
        batches = self._batches_done if batches is None else batches
        epoch = bisect_right(self._starts, batches) - 1
        if epoch >= self.epochs:
            return float(self.epochs)
        return epoch + (batches - self._starts[epoch]) / (self._starts[epoch + 1] - self._starts[epoch])

    def _count_batches(self) -> list[int]:
        """Return the number of batches before every epoch, and in total."""
        first = [self._passes(epoch, 0) for epoch in range(self.epochs)]
        lengths = (sum(math.ceil(len(rows) / size) for rows, size in passes) for passes in first)
        return list(accumulate(lengths, initial=0))

    def _passes(self, epoch: int, row: int) -> list[tuple[Tensor, int]]:
        return self.passes(epoch, row, member_generator(self.seed, self.role, self.members[row], "order", epoch))

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Yield the batches of an epoch, ``[members, batch]`` of nearly equal size within a pass."""
        for passes in zip(*(self._passes(epoch, row) for row in range(len(self.members))), strict=True):
            rows, size = self._on_device(torch.stack([rows for rows, _ in passes])), passes[0][1]
            yield from rows.tensor_split(math.ceil(rows.shape[1] / size), dim=1)

    def _on_device(self, rows: Tensor) -> Tensor:
        """Return rows where the data is; the host does not wait for it."""
        if self.device.type != "cuda":
            return rows.to(self.device)
        return rows.pin_memory().to(self.device, non_blocking=True)


class _MemberBatches:
    """One process's parts of the batches of the current epoch; without a length, since that may differ by epoch.

    Each part comes with its weight: its size relative to the mean size of the batch's parts. They come in lists, of one
    or of a whole epoch's.
    """

    def __init__(self, module: EnsembleModule, process: int, processes: int) -> None:
        self.module, self.process, self.processes = module, process, processes

    def __iter__(self) -> Iterator[list[WeightedBatch]]:
        parts = self._parts()
        return iter([list(parts)]) if self.module.at_once else ([part] for part in parts)

    def _parts(self) -> Iterator[WeightedBatch]:
        for batch in self.module.batches(self.module.current_epoch):
            part = batch[:, self.process :: self.processes]
            yield part, part.shape[1] * self.processes / batch.shape[1]
