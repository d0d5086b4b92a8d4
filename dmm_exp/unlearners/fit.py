"""The Lightning module of methods that fine-tune copies of the originals."""

from __future__ import annotations

import torch
from torch import Tensor

from dmm_exp.ensembles import Ensemble, EnsembleModule
from dmm_exp.ensembles.fused_step import Loss
from dmm_exp.ensembles.module import OF_A_STEP
from dmm_exp.unlearners.unlearner import FORWARD_PASSES, FineTuning, UnlearningResult, UnlearningTask, in_place_of


class Fit(EnsembleModule):
    """A method applied to a task: a Lightning module over copies of the originals.

    Args:
        method: defines the points of an epoch, and the losses.
        task: of unlearning.

    Attributes:
        forgotten: which points each member has to forget, ``[members, points]`` bool.
        kept: tensors of :meth:`FineTuning.prepare`; during training they are on the device.
    """

    forgotten: Tensor

    def __init__(self, method: FineTuning, task: UnlearningTask) -> None:
        super().__init__(method.optimisation)
        self.method, self.task = method, task
        self.attach(task.originals.copy(), task.examples, seed=task.seed, role="unlearned", members=task.members)
        forgotten = torch.zeros(len(task.members), task.examples.n_points, dtype=torch.bool)
        forgotten.scatter_(1, task.forget.expand(len(task.members), -1), True)
        self.register_buffer("forgotten", forgotten, persistent=False)
        self._checkpoints: dict[int, UnlearningResult] = {}
        self.kept = method.prepare(self)

    @property
    def method_name(self) -> str:
        """The class of the method."""
        return type(self.method).__name__

    def result(self) -> UnlearningResult:
        """Optimise, and return the result."""
        self.fit(self.task.make_trainer)
        return self._result(self.ensemble, self._checkpoints)

    def passes(self, epoch: int, row: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
        """Return the method's passes for the member in ``row``."""
        return self.method.passes(self.task.of(row), epoch, generator)

    def losses(self, indices: Tensor) -> Tensor:
        """Return the losses of the method."""
        return self.method.losses(self, indices)

    def _takes_own_steps(self) -> bool:
        """Return whether the method does more in a step than its losses say, or these are not written out."""
        kind, plain = type(self.method), ("before_step", "after_step")
        is_changed = any(getattr(kind, name) is not getattr(FineTuning, name) for name in plain)
        own = any(getattr(type(self), name) is not getattr(Fit, name) for name in OF_A_STEP)
        return own or is_changed or in_place_of(kind.losses) is None

    def _losses_in_place(self, indices: Tensor) -> Loss:
        """Return the losses of the method for fused steps."""
        in_place = in_place_of(type(self.method).losses)
        assert in_place is not None
        return in_place(self.method, self, indices)

    def before_step(self, batch: Tensor) -> None:
        """Call the method before a step."""
        self.method.before_step(self, batch)

    def after_step(self) -> None:
        """Call the method after a step."""
        self.method.after_step(self)

    def count_forward(self, examples: int) -> None:
        """Count forward passes of single examples that take no gradient, such as a teacher's: a third of one each."""
        self.sample_gradients += round(examples / FORWARD_PASSES)

    def on_fit_start(self) -> None:
        """Move the tensors of the method to the device, too."""
        super().on_fit_start()
        self.kept = {name: value.to(self.device) for name, value in self.kept.items()}

    def on_fit_end(self) -> None:
        """Move the tensors of the method back to the CPU, too."""
        super().on_fit_end()
        self.kept = {name: value.cpu() for name, value in self.kept.items()}

    def on_train_epoch_end(self) -> None:
        """Keep the result at a checkpoint."""
        super().on_train_epoch_end()
        if self.current_epoch + 1 in self.method.checkpoints:
            self._checkpoints[self.current_epoch + 1] = self._result(self.ensemble.copy(), {})

    def _result(self, ensemble: Ensemble, checkpoints: dict[int, UnlearningResult]) -> UnlearningResult:
        logits = ensemble.to(self.task.originals.device).logits(self.task.examples.inputs)
        return UnlearningResult(ensemble.cpu(), logits, self.sample_gradients, self.history(), checkpoints)
