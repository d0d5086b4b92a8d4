"""Moving decision boundaries: forget points are taught as what lies beyond the boundary that is nearest to them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from dmm_exp.ensembles import Ensemble
from dmm_exp.errors import UserError
from dmm_exp.unlearners.other_inputs import moved, points_and_extras, slopes, surroundings, wide
from dmm_exp.unlearners.unlearner import FineTuning, Fit, UnlearningTask, entropies, mean_where, own_rows, shuffled


class BoundaryShrink(FineTuning):
    """Teach each forget point as the nearest wrong class.

    That is the class, other than its own, of which the original is most certain after one step of length ``bound`` in
    the direction of the sign of the loss's gradient by the input; the network is then fine-tuned on the forget set with
    these labels (Chen et al., "Boundary Unlearning", CVPR 2023, arXiv 2303.11570, equations 3 to 5).

    Args:
        bound: length of the step in every input value, in standard deviations of the inputs; they stay in their range.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`; an epoch is a pass over the forget set.

    Raises:
        UserError: the length is negative.
    """

    moves_inputs: ClassVar[bool] = True

    def __init__(self, *, bound: float = 0.5, **optimisation: Any) -> None:
        super().__init__(**optimisation)
        if bound < 0:
            raise UserError(f"unlearner.bound={bound}: expected a number of at least 0")
        self.bound = bound

    @torch.no_grad()
    def prepare(self, fit: Fit) -> dict[str, Tensor]:
        """Find the nearest wrong classes, once."""
        task, space = fit.task, _on(fit.task.originals, surroundings(fit.examples))
        labels = task.examples.labels.expand(len(task.members), -1).clone()
        for points, inputs, own in _blocks(fit, self.optimisation.batch_size):
            step = self.bound * slopes(task.originals.eval(), inputs, own)[0].sign()
            logits = task.originals(moved(space, inputs, step))
            labels.scatter_(1, points, logits.scatter(-1, own[..., None], -torch.inf).argmax(-1).cpu())
        fit.sample_gradients += task.n_forget
        fit.count_forward(task.n_forget)
        return {"labels": labels}

    def sample(self, task: UnlearningTask, generator: torch.Generator) -> Tensor:
        """Return the forget set in a new order."""
        return shuffled(task.forget, generator)

    def losses(self, fit: Fit, indices: Tensor) -> Tensor:
        """Return the cross-entropy of every member with the nearest wrong classes."""
        return fit.cross_entropies(indices, own_rows(fit.kept["labels"], indices)).mean(1)


class AMUN(FineTuning):
    """Teach the nearest adversarial example of each forget point as what the original takes it for.

    For a forget point, projected gradient ascent on the original's loss looks within a ball for an input that the
    original takes for another class; the radius is doubled until there is one. The network is then fine-tuned on these
    examples, each with the wrong class that the original gives it, on the retain set, and on the forget set with its
    true labels (Ebrahimpour-Boroojeny et al., "AMUN: Adversarial Machine UNlearning", ICML 2025, arXiv 2503.00917,
    algorithm 1). A forget point for which the largest ball holds none has no such example.

    Steps go along the gradient, are a tenth of the radius long, and end with the first wrong class. Distances are
    Euclidean, in standard deviations of the inputs, which stay in their range. A step counts as a gradient for each
    point that still looks; members differ in this, and their mean is reported.

    Args:
        radius: of the first ball.
        doublings: of the radius, at most.
        steps: of gradient ascent within each ball.
        true_labels: whether the forget set itself is taught, too.
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`.

    Raises:
        UserError: a number is out of range.
    """

    own_sets: ClassVar[bool] = False
    moves_inputs: ClassVar[bool] = True

    def __init__(
        self, *, radius: float = 0.5, doublings: int = 8, steps: int = 50, true_labels: bool = True, **optimisation: Any
    ) -> None:
        super().__init__(**optimisation)
        if radius <= 0 or doublings < 0 or steps < 1:
            raise UserError(
                f"unlearner.radius={radius}, unlearner.doublings={doublings}, unlearner.steps={steps}: expected above "
                "0, at least 0 and at least 1"
            )
        self.radius, self.doublings, self.steps, self.true_labels = radius, doublings, steps, true_labels

    @torch.no_grad()
    def prepare(self, fit: Fit) -> dict[str, Tensor]:
        """Look for an adversarial example of every forget point, once."""
        found = [self._attacked(fit, *block) for block in _blocks(fit, self.optimisation.batch_size)]
        inputs, labels, known = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        return {"inputs": inputs, "labels": labels, "known": known}

    def _attacked(self, fit: Fit, points: Tensor, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return adversarial inputs, the original's answers to them, and where there are any."""
        space, originals = _on(fit.task.originals, surroundings(fit.examples)), fit.task.originals.eval()
        best, answers, known, gradients = inputs, labels, torch.zeros_like(labels, dtype=torch.bool), 0
        for doubling in range(self.doublings + 1):
            radius, by = self.radius * 2**doubling, torch.zeros_like(inputs)
            for _ in range(self.steps if not known.all() else 0):
                here = moved(space, inputs, by)
                slope, logits = slopes(originals, here, labels)
                gradients += int((~known).sum())
                new = ~known & (logits.argmax(-1) != labels)
                best, answers = torch.where(wide(new, here), here, best), torch.where(new, logits.argmax(-1), answers)
                known = known | new
                by = _shortened(by + 0.1 * radius * _unit(slope * space["unit"]), radius)
        fit.sample_gradients += round(gradients / len(fit.members))
        return best.cpu(), answers.cpu(), known.cpu()

    def sample(self, task: UnlearningTask, generator: torch.Generator) -> Tensor:
        """Return the retain set, the adversarial examples (numbered after all points) and the forget set, shuffled."""
        extras = task.examples.n_points + torch.arange(task.n_forget)
        parts = [task.retain, extras, *([task.forget] if self.true_labels else [])]
        return shuffled(torch.cat(parts), generator)

    def losses(self, fit: Fit, indices: Tensor) -> Tensor:
        """Return the cross-entropy of every member on points and adversarial examples."""
        inputs, labels = points_and_extras(fit, indices)
        number = indices - fit.examples.n_points
        taught = (number < 0) | own_rows(fit.kept["known"], number.clamp(min=0))
        return mean_where(entropies(fit.answer(inputs), labels), taught)


def _blocks(fit: Fit, size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return the members' forget sets in blocks: points ``[members, block]``, inputs and labels on the device."""
    task, device = fit.task, fit.task.originals.device
    blocks = task.forget.expand(len(task.members), -1).split(size, dim=1)
    return [(b, task.examples.inputs[b].float().to(device), task.examples.labels[b].to(device)) for b in blocks]


def _on(ensemble: Ensemble, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(ensemble.device) for name, value in tensors.items()}


def _lengths(values: Tensor) -> Tensor:
    """Return the Euclidean length of every input's part, ``[members, batch, 1, ...]``."""
    return wide(values.flatten(2).norm(dim=2), values)


def _unit(values: Tensor) -> Tensor:
    return values / _lengths(values).clamp(min=torch.finfo(values.dtype).tiny)


def _shortened(values: Tensor, limit: float) -> Tensor:
    """Return values that are no longer than a limit."""
    return values * (limit / _lengths(values).clamp(min=limit))
