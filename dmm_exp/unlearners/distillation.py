"""Teachers and students: stay with one teacher on what stays, part from it (or follow another) on what must go."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dmm_exp.ensembles import Ensemble, member_seed
from dmm_exp.errors import UserError
from dmm_exp.unlearners.fine_tuning import AscentDescent
from dmm_exp.unlearners.unlearner import FineTuning, mean_where, own_rows, shuffled


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return ``T²·KL(teacher ‖ student)`` of softened answers ``[members, batch]``, from logits with classes last."""
    target, own = (functional.log_softmax(logits / temperature, dim=-1) for logits in (teacher, student))
    return temperature**2 * (target.exp() * (target - own)).sum(-1)


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise UserError(f"unlearner.temperature={temperature}: expected a number above 0")


class Scrub(AscentDescent):
    """Part from the original on the forget set, stay with it on the retain set (SCRUB).

    The first epochs begin with a pass of ``−KL(original ‖ student)`` over the forget set; every epoch minimises
    ``γ·CE + β·KL(original ‖ student)`` on the retain set (Kurmanji et al., "Towards Unbounded Machine Unlearning",
    NeurIPS 2023, arXiv 2302.09880).

    Args:
        gamma: weight of the retain set's cross-entropy.
        beta: weight of its divergence from the original.
        temperature: of the softened answers; divergences are multiplied by its square.
        **optimisation: ``ascent_epochs``, ``forget_batch_size`` and the options of
            :class:`~dmm_exp.ensembles.EnsembleModule`.

    Raises:
        UserError: a number is out of range.
    """

    teacher: Tensor

    def __init__(
        self, *, gamma: float = 0.99, beta: float = 0.001, temperature: float = 4.0, **optimisation: Any
    ) -> None:
        super().__init__(**optimisation)
        _check_temperature(temperature)
        self.gamma, self.beta, self.temperature = gamma, beta, temperature

    def prepare(self) -> None:
        """Ask the originals once for all answers; they are never trained."""
        self.register_buffer("teacher", self.task.originals.logits(self.task.examples.inputs), persistent=False)

    def losses(self, indices: Tensor) -> Tensor:
        """Return every member's loss: forget points push it away, retain points pull it back."""
        student, forgotten = self.predict_batch(indices), own_rows(self.forgotten, indices)
        distance = divergence(own_rows(self.teacher, indices), student, self.temperature)
        labels = self.labels[indices]
        entropy = functional.cross_entropy(student.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        pull = mean_where(self.gamma * entropy + self.beta * distance, ~forgotten)
        return pull - mean_where(distance, forgotten)


class BadTeacher(FineTuning):
    """Follow an untrained network on the forget set and the original on the retain set.

    Minimises the divergence from the one teacher or the other, over the forget set and a sample of the retain set
    (Chundawat et al., "Can Bad Teaching Induce Forgetting?", AAAI 2023, arXiv 2205.08096). Every member has
    an untrained teacher of its own.

    Args:
        temperature: of the softened answers; divergences are multiplied by its square.
        retain_fraction: share of the retain set in an epoch, drawn anew for every member and epoch.
        **optimisation: options of :class:`~dmm_exp.ensembles.EnsembleModule`.

    Raises:
        UserError: a number is out of range.
    """

    teacher: Tensor

    def __init__(self, *, temperature: float = 1.0, retain_fraction: float = 0.3, **optimisation: Any) -> None:
        super().__init__(**optimisation)
        _check_temperature(temperature)
        if not 0 <= retain_fraction <= 1:
            raise UserError(f"unlearner.retain_fraction={retain_fraction}: expected a number in [0, 1]")
        self.temperature, self.retain_fraction = temperature, retain_fraction

    def prepare(self) -> None:
        """Ask both teachers once for all answers."""
        inputs, task = self.task.examples.inputs, self.task
        seeds = (member_seed(task.seed, "unlearned", index, "initialisation") for index in task.members)
        untrained = Ensemble.initialise(task.build, seeds).to(task.originals.device).logits(inputs)
        teacher = torch.where(self.forgotten[..., None], untrained, task.originals.logits(inputs))
        self.register_buffer("teacher", teacher, persistent=False)

    def sample(self, row: int, generator: torch.Generator) -> Tensor:
        """Return the forget set and a fresh sample of the retain set, shuffled together."""
        wanted = round(self.retain_fraction * len(self.task.retain))
        retain = shuffled(self.task.retain, generator)[:wanted]
        return shuffled(torch.cat([self.task.forget, retain]), generator)

    def losses(self, indices: Tensor) -> Tensor:
        """Return every member's mean divergence from its teachers."""
        return divergence(own_rows(self.teacher, indices), self.predict_batch(indices), self.temperature).mean(1)
