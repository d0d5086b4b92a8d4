"""Distillation: follow a teacher on the retain set, and move away from it (or follow another) on the forget set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dmm_exp.errors import UserError
from dmm_exp.unlearners.fine_tuning import Ascent
from dmm_exp.unlearners.unlearner import FineTuning, Fit, UnlearningTask, entropies, mean_where, own_rows, shuffled


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return ``T²·KL(teacher ‖ student)`` of softened answers ``[members, batch]``, from logits with classes last."""
    target, own = (functional.log_softmax(logits / temperature, dim=-1) for logits in (teacher, student))
    return temperature**2 * (target.exp() * (target - own)).sum(-1)


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise UserError(f"unlearner.temperature={temperature}: expected a number above 0")


class Scrub(FineTuning):
    """Move away from the original on the forget set, and stay close to it on the retain set (SCRUB).

    The first epochs begin with a pass of ``−KL(original ‖ student)`` over the forget set; every epoch minimises
    ``γ·CE + β·KL(original ‖ student)`` on the retain set (Kurmanji et al., "Towards Unbounded Machine Unlearning",
    NeurIPS 2023, arXiv 2302.09880).

    Args:
        gamma: weight of the retain set's cross-entropy.
        beta: weight of its divergence from the original.
        temperature: of the softened answers; divergences are multiplied by its square.
        ascent_epochs: how many of the first epochs begin with a pass over the forget set.
        forget_batch_size: batch of these passes.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`.

    Raises:
        UserError: a number is out of range.
    """

    def __init__(
        self,
        *,
        gamma: float = 0.99,
        beta: float = 0.001,
        temperature: float = 4.0,
        ascent_epochs: int = 3,
        forget_batch_size: int = 64,
        **optimisation: Any,
    ) -> None:
        super().__init__(**optimisation)
        self.ascent = Ascent(ascent_epochs, forget_batch_size)
        _check_temperature(temperature)
        self.gamma, self.beta, self.temperature = gamma, beta, temperature

    def prepare(self, fit: Fit) -> dict[str, Tensor]:
        """Compute the logits of the originals once; they are not trained."""
        fit.count_forward(fit.task.n_train)
        return {"teacher": fit.task.originals.logits(fit.task.examples.inputs)}

    def passes(self, task: UnlearningTask, epoch: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
        """Return a pass over the forget set, in the first epochs, and one over the retain set."""
        return self.ascent.passes(task, epoch, generator) + super().passes(task, epoch, generator)

    def losses(self, fit: Fit, indices: Tensor) -> Tensor:
        """Return every member's loss: away from the teacher on forget points, towards it on retain points."""
        student, forgotten = fit.predict_batch(indices), own_rows(fit.forgotten, indices)
        distance = divergence(own_rows(fit.kept["teacher"], indices), student, self.temperature)
        entropy = entropies(student, fit.labels[indices])
        pull = mean_where(self.gamma * entropy + self.beta * distance, ~forgotten)
        return pull - mean_where(distance, forgotten)


class BadTeacher(FineTuning):
    """Follow an untrained network on the forget set and the original on the retain set.

    Minimises the divergence from the one teacher or the other, over the forget set and a sample of the retain set
    (Chundawat et al., "Can Bad Teaching Induce Forgetting?", AAAI 2023, arXiv 2205.08096). Every member has
    an untrained teacher of its own.

    Args:
        temperature: of the softened answers; divergences are multiplied by its square.
        retain_fraction: share of the retain set in an epoch, with a new draw for every member and epoch.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`.

    Raises:
        UserError: a number is out of range.
    """

    def __init__(self, *, temperature: float = 1.0, retain_fraction: float = 0.3, **optimisation: Any) -> None:
        super().__init__(**optimisation)
        _check_temperature(temperature)
        if not 0 <= retain_fraction <= 1:
            raise UserError(f"unlearner.retain_fraction={retain_fraction}: expected a number in [0, 1]")
        self.temperature, self.retain_fraction = temperature, retain_fraction

    def prepare(self, fit: Fit) -> dict[str, Tensor]:
        """Compute the logits of both teachers once; every training point needs one of them."""
        fit.count_forward(fit.task.n_train)
        task, inputs = fit.task, fit.task.examples.inputs
        untrained = task.untrained().logits(inputs)
        return {"teacher": torch.where(fit.forgotten[..., None], untrained, task.originals.logits(inputs))}

    def sample(self, task: UnlearningTask, generator: torch.Generator) -> Tensor:
        """Return the forget set and a new sample of the retain set, shuffled together."""
        wanted = round(self.retain_fraction * len(task.retain))
        retain = shuffled(task.retain, generator)[:wanted]
        return shuffled(torch.cat([task.forget, retain]), generator)

    def losses(self, fit: Fit, indices: Tensor) -> Tensor:
        """Return every member's mean divergence from its teachers."""
        teacher = own_rows(fit.kept["teacher"], indices)
        return divergence(teacher, fit.predict_batch(indices), self.temperature).mean(1)
