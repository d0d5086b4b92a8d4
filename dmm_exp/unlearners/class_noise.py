"""Noise that stands for a class: what a class looks like is written over, then the rest is repaired."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from dmm_exp.ensembles import member_generator
from dmm_exp.errors import UserError
from dmm_exp.unlearners.other_inputs import points_and_extras, slopes, surroundings
from dmm_exp.unlearners.unlearner import FineTuning, Fit, UnlearningTask, entropies, shuffled


class UNSIR(FineTuning):
    """Impair with error-maximising noise, then repair (UNSIR). For whole classes: none of theirs may be retained.

    For each class to forget, Adam changes ``noise_size`` normal inputs ``z`` (normalised, not kept in a range) so that
    the original's cross-entropy with the class grows: it minimises ``−CE + penalty·‖z‖²``. In the first
    ``impair_epochs`` epochs the network is then taught that this noise, ``repeats`` times, is the class, together with
    a share of the retain set; all later epochs repair, on such a share alone (Tarun et al., "Fast Yet Effective Machine
    Unlearning", IEEE TNNLS 2023, arXiv 2111.08947). Every member has noise of its own; a step on it counts as one
    gradient for each of its inputs.

    Args:
        noise_size: number of inputs of noise for each class.
        noise_steps: of Adam.
        noise_rate: its learning rate.
        penalty: λ, of the squared length of an input of noise.
        repeats: how often the noise is in an epoch that impairs.
        impair_epochs: how many of the first epochs impair.
        retain_fraction: share of the retain set in an epoch, with a new draw for every member and epoch.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`.

    Raises:
        UserError: a number is out of range, or (when it unlearns) examples of a class to forget are to be kept.
    """

    own_sets: ClassVar[bool] = False
    moves_inputs: ClassVar[bool] = True

    def __init__(
        self,
        *,
        noise_size: int = 64,
        noise_steps: int = 40,
        noise_rate: float = 0.1,
        penalty: float = 0.1,
        repeats: int = 4,
        impair_epochs: int = 1,
        retain_fraction: float = 0.3,
        **optimisation: Any,
    ) -> None:
        super().__init__(**optimisation)
        if min(noise_size, repeats) < 1 or min(noise_steps, noise_rate, penalty, impair_epochs) < 0:
            raise UserError(
                f"unlearner.noise_size={noise_size}, repeats={repeats}, noise_steps={noise_steps}, "
                f"noise_rate={noise_rate}, penalty={penalty}, impair_epochs={impair_epochs}: expected at least 1 for "
                "the first two, and at least 0"
            )
        if not 0 < retain_fraction <= 1:
            raise UserError(f"unlearner.retain_fraction={retain_fraction}: expected a number in (0, 1]")
        self.noise_size, self.noise_steps, self.noise_rate, self.penalty = noise_size, noise_steps, noise_rate, penalty
        self.repeats, self.impair_epochs, self.retain_fraction = repeats, impair_epochs, retain_fraction

    def prepare(self, fit: Fit) -> dict[str, Tensor]:
        """Make the noise of every member, as examples of the classes that have to go."""
        task, device = fit.task, fit.task.originals.device
        labels = _classes(task).repeat_interleave(self.noise_size).expand(len(task.members), -1).to(device)
        generators = (member_generator(task.seed, "unlearned", index, "noise") for index in task.members)
        shape = (labels.shape[1], *task.examples.inputs.shape[1:])
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)
        unit = surroundings(task.examples)["unit"].to(device)
        centre = task.examples.normalisation.scale * torch.tensor(task.examples.normalisation.mean, device=device)
        centre = centre.view(-1, *[1] * (unit.ndim - 1))
        optimizer = torch.optim.Adam([noise], lr=self.noise_rate)
        for _ in range(self.noise_steps):
            climb = slopes(task.originals.eval(), centre + unit * noise, labels)[0] * unit
            noise.grad = 2 * self.penalty * noise - climb
            optimizer.step()
        fit.sample_gradients += self.noise_steps * labels.shape[1]
        return {"inputs": (centre + unit * noise).cpu(), "labels": labels.cpu()}

    def passes(self, task: UnlearningTask, epoch: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
        """Return a share of the retain set, and at first the noise (numbered after all points), shuffled together."""
        rows = shuffled(task.retain, generator)[: max(1, round(self.retain_fraction * task.n_retain))]
        if epoch < self.impair_epochs:
            count = len(_classes(task)) * self.noise_size
            noise = (task.examples.n_points + torch.arange(count)).repeat(self.repeats)
            rows = shuffled(torch.cat([rows, noise]), generator)
        return [(rows, self.optimisation.batch_size)]

    def losses(self, fit: Fit, indices: Tensor) -> Tensor:
        """Return the cross-entropy of every member on points and noise."""
        inputs, labels = points_and_extras(fit, indices)
        return entropies(fit.answer(inputs), labels).mean(1)


def _classes(task: UnlearningTask) -> Tensor:
    """Return the classes that have to go.

    Raises:
        UserError: examples of them are to be kept.
    """
    examples = task.examples
    classes = examples.labels[task.forget].unique()
    kept = examples.labels[task.retain]
    for label in classes.tolist():
        if count := int((kept == label).sum()):
            raise UserError(
                f"unlearner=unsir: forgets whole classes, and {count} examples of class "
                f"{examples.class_names[label]} are to be kept; expected a forget set such as forget=class"
            )
    return classes
