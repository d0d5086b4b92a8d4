"""Fine-tuning on wrong labels for the forget set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmm_exp.errors import UserError
from dmm_exp.unlearners.gradients import mean_gradients
from dmm_exp.unlearners.unlearner import FineTuning, Fit, UnlearningTask, shuffled


def labelled_points(self: FineTuning, task: UnlearningTask, generator: torch.Generator) -> Tensor:
    """Return all points with a label each, in a random order, ``[points, 2]``; labels of forget points are wrong."""
    forget, examples = task.forget, task.examples
    points = torch.cat([forget, task.retain])
    labels = examples.labels[points]
    shifts = torch.randint(1, examples.n_classes, forget.shape, generator=generator)
    labels[: len(forget)] = (labels[: len(forget)] + shifts) % examples.n_classes
    return shuffled(torch.stack([points, labels], dim=1), generator)


def entropy_of_labelled(self: FineTuning, fit: Fit, indices: Tensor) -> Tensor:
    """Return the cross-entropy ``[members]`` of every member with the labels of :func:`labelled_points`."""
    points, labels = indices.unbind(-1)
    return fit.cross_entropies(points, labels).mean(1)


class RandomLabel(FineTuning):
    """Cross-entropy with wrong labels on the forget set and true labels on the retain set, shuffled together.

    A wrong label is a uniform draw from the other classes, new for every member, point and epoch (Golatkar et al.,
    CVPR 2020, arXiv 1911.04933; Graves et al., AAAI 2021, arXiv 2010.10981).
    """

    sample = labelled_points
    losses = entropy_of_labelled


class SalUn(FineTuning):
    """Random labels, but only the weights that matter most to the forget set may change.

    These are the share ``fraction`` of all of a member's weights with the largest absolute gradient of the forget set's
    cross-entropy at the original (Fan et al., "SalUn", ICLR 2024, arXiv 2310.12508). All other weights are restored
    after every step, since momentum and weight decay would change them.

    Args:
        fraction: share of the weights that may change, in (0, 1].
        **optimisation: options of :class:`~dmm_exp.ensembles.Optimisation`.

    Raises:
        UserError: the share is out of range.
    """

    sample = labelled_points
    losses = entropy_of_labelled

    def __init__(self, *, fraction: float = 0.5, **optimisation: Any) -> None:
        super().__init__(**optimisation)
        if not 0 < fraction <= 1:
            raise UserError(f"unlearner.fraction={fraction}: expected a number in (0, 1]")
        self.fraction = fraction

    def prepare(self, fit: Fit) -> dict[str, Tensor]:
        """Choose the weights that may change, and keep a copy of all weights."""
        chosen = self.salient(self.saliency(fit))
        before = {f"before {name}": value.detach().clone() for name, value in fit.ensemble.params.items()}
        return {f"free {name}": mask for name, mask in chosen.items()} | before

    def saliency(self, fit: Fit) -> dict[str, Tensor]:
        """Return the absolute gradient of the forget set's mean cross-entropy, stacked as the parameters are."""
        gradients = mean_gradients(fit, fit.task.forget, self.optimisation.batch_size)
        return {name: value.abs() for name, value in gradients.items()}

    def salient(self, saliency: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return which weights are among the largest of their member, over all of its tensors together."""
        flat = torch.cat([value.flatten(1) for value in saliency.values()], dim=1)
        kept = max(1, round(self.fraction * flat.shape[1]))
        chosen = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, flat.topk(kept, dim=1).indices, True)
        parts = chosen.split([value[0].numel() for value in saliency.values()], dim=1)
        return {name: part.view_as(value) for part, (name, value) in zip(parts, saliency.items(), strict=True)}

    @torch.no_grad()
    def after_step(self, fit: Fit) -> None:
        """Restore every weight that may not change."""
        for name, value in fit.ensemble.params.items():
            value.copy_(torch.where(fit.kept[f"free {name}"], value, fit.kept[f"before {name}"]))
