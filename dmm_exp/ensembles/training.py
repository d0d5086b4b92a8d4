"""Training from scratch by one recipe: originals, oracles and the pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from dmm_exp.data import Augmentation, Examples
from dmm_exp.ensembles.engine import Engine
from dmm_exp.ensembles.ensemble import Ensemble
from dmm_exp.ensembles.fused_step import Loss, towards
from dmm_exp.ensembles.module import OF_A_STEP, EnsembleModule
from dmm_exp.ensembles.optimisation import Optimisation, check_optimizer
from dmm_exp.ensembles.seeds import Role, member_seed
from dmm_exp.ensembles.trajectory import Trajectory
from dmm_exp.errors import UserError


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
        """Refuse fused steps, too, that were asked for and cannot be.

        Raises:
            UserError: that is so.
        """
        super()._take_over(trainer, engine)
        if self.ensemble.engine.members == "fused" and not self.fused and not engine.measured:
            reason = self._unfusable(trainer)
            raise UserError(f"engine.members=fused: {reason}; use engine.members=together, or auto")

    def _takes_own_steps(self) -> bool:
        """Return whether a subclass changes steps."""
        return any(getattr(type(self), name) is not getattr(EnsembleTraining, name) for name in OF_A_STEP)

    def _losses_in_place(self, indices: Tensor) -> Loss:
        """Return the mean cross-entropy of every member."""
        return towards(self.labels[indices], self.label_smoothing)

    def _look(self, indices: Tensor) -> Callable[[Tensor], None] | None:
        """Return what passes logits to the trajectory."""
        trajectory = self.trajectory
        return None if trajectory is None else lambda logits: trajectory.update(indices, logits, self.labels[indices])

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
        """Add up the trajectory over the processes that share every batch."""
        if self.trajectory is not None:
            self.trajectory.join(lambda sums: self.over_processes(sums, "sum"))
