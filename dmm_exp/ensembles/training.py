"""Training from scratch by one recipe: originals, oracles and the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from dmm_exp.data import Augmentation, Examples
from dmm_exp.ensembles.chain import NOT_A_CHAIN, are_narrow, chain_of
from dmm_exp.ensembles.engine import AUTO, Engine
from dmm_exp.ensembles.ensemble import Ensemble, column_major
from dmm_exp.ensembles.fused_step import FusedStep
from dmm_exp.ensembles.module import EnsembleModule
from dmm_exp.ensembles.optimisation import Optimisation, check_optimizer
from dmm_exp.ensembles.seeds import Role, member_seed
from dmm_exp.ensembles.trajectory import Trajectory
from dmm_exp.errors import UserError

OF_A_STEP = (  # methods that fused steps do not call
    *("losses", "cross_entropies", "predict_batch", "answer", "before_step", "after_step"),
)


class EnsembleTraining(EnsembleModule):
    """Cross-entropy on each member's own subset of the training set.

    Args:
        subsets: ``[members, size]`` indices of the points that every member is trained on.
        trajectory: gets the logits of members during training.
        augmentation: random changes of images; the member's seed, the step and the point determine them.
        label_smoothing: share of every target that is spread over all classes (Szegedy et al., arXiv 1512.00567).
        **recipe: ``epochs``, ``batch_size``, ``optimizer`` and ``schedule`` of :class:`Optimisation`.
    """

    member_seeds: Tensor
    fill: Tensor

    def __init__(
        self,
        *,
        subsets: Tensor,
        trajectory: Trajectory | None = None,
        augmentation: Augmentation | None = None,
        label_smoothing: float = 0.0,
        **recipe: Any,
    ) -> None:
        super().__init__(Optimisation(**recipe))
        check_optimizer(self.optimisation.optimizer, f"optimizer of {self.method_name}")
        self.subsets = subsets
        self.trajectory = trajectory
        self.augmentation = augmentation or Augmentation()
        self.label_smoothing = label_smoothing

    def attach(self, ensemble: Ensemble, examples: Examples, *, seed: int, role: Role, members: Sequence[int]) -> None:
        """Set the members to train; see :meth:`EnsembleModule.attach`."""
        super().attach(ensemble, examples, seed=seed, role=role, members=members)
        seeds = [member_seed(seed, role, index, "augmentation") for index in members]
        self.register_buffer("member_seeds", torch.tensor(seeds), persistent=False)
        mean = torch.tensor(examples.normalisation.mean) * examples.normalisation.scale
        self.register_buffer("fill", mean, persistent=False)

    def _take_over(self, trainer: Trainer, engine: Engine) -> None:
        """Decide whether steps are fused, too.

        Raises:
            UserError: they were asked for and cannot be.
        """
        super()._take_over(trainer, engine)
        members = self.ensemble.engine.members
        reason = self._unfusable(trainer) if members in ("fused", AUTO) else None
        if reason and members == "fused" and not engine.measured:
            raise UserError(f"engine.members=fused: {reason}; use engine.members=together, or auto")
        self.fused = members in ("fused", AUTO) and reason is None

    def _unfusable(self, trainer: Trainer) -> str | None:
        """Return why steps cannot be fused, None if they can."""
        if trainer.strategy.root_device.type != "cpu":
            return f"is for CPUs, not for {trainer.strategy.root_device}"
        by_batch = self._by_batch(trainer)
        if by_batch is not None:
            return by_batch
        if any(getattr(type(self), name) is not getattr(EnsembleTraining, name) for name in OF_A_STEP):
            return f"{self.method_name} takes steps of its own"
        layers = chain_of(self.ensemble, self.examples.input_shape)
        if layers is None:
            return NOT_A_CHAIN
        wide = self.ensemble.engine.members == AUTO and not are_narrow(layers)
        return "a convolution has so many channels that plain steps are faster" if wide else None

    def on_fit_start(self) -> None:
        """Prepare fused steps, too."""
        super().on_fit_start()
        layers = chain_of(self.ensemble, self.examples.input_shape) if self.fused else None
        if layers is not None:
            optimizer: Any = self.optimizers(use_pl_optimizer=False)
            clip = self._clip if self._clips else None
            self._fused_step = FusedStep(self.ensemble, layers, optimizer, clip, self.label_smoothing)
            self._step = self._advance_fused

    def _advance_fused(self, batch: Tensor) -> int:
        """Take a step over a batch ``[members, batch]`` without autograd; return how many gradients a member took."""
        labels, trajectory = self.labels[batch], self.trajectory
        look = None if trajectory is None else lambda logits: trajectory.update(batch, logits, labels)
        self._sum += self._fused_step(self.see(batch), labels, look)
        return batch.shape[1]

    def see(self, indices: Tensor) -> Tensor:
        """Return the inputs of a batch, augmented."""
        return self.augmentation(super().see(indices), self.member_seeds, indices, self.steps, self.fill)

    def passes(self, epoch: int, row: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
        """Return one pass over the member's subset."""
        return [(self.sample(row, generator), self.batch_size)]

    def sample(self, row: int, generator: torch.Generator) -> Tensor:
        """Return the member's subset in a new order."""
        subset = self.subsets[row]
        return subset[torch.randperm(len(subset), generator=generator)]

    def predict_batch(self, indices: Tensor) -> Tensor:
        """Return the members' logits, and pass them to the trajectory."""
        logits = super().predict_batch(indices)
        if self.trajectory is not None:
            self.trajectory.update(indices, logits.detach(), self.labels[indices])
        return logits

    def losses(self, indices: Tensor) -> Tensor:
        """Return the mean cross-entropy of every member."""
        return self.cross_entropies(indices, label_smoothing=self.label_smoothing).mean(1)

    def on_train_end(self) -> None:
        """Add up the trajectory over the processes that share every batch, and undo what fused steps needed.

        Parameters have their own layout in memory again: answers would be rounded otherwise than when they are read.
        """
        if self.trajectory is not None:
            self.trajectory.join(lambda sums: self.over_processes(sums, "sum"))
        if self.fused:
            self._optimizer.zero_grad()
            self._step = self._advance
            del self._fused_step
            for value in self.ensemble.parameters():
                value.data = column_major(value.data)
