"""Inputs that are no points of the dataset: moved points, and examples that a method makes for itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dmm_exp.data import Examples
from dmm_exp.ensembles import Ensemble
from dmm_exp.unlearners.unlearner import Fit


def surroundings(examples: Examples) -> dict[str, Tensor]:
    """Return what :func:`moved` needs: a standard deviation of the inputs as they are stored, and their range.

    All have one value a channel (or column), or one for all, as the constants of the normalisation do.
    """
    inputs, constants = examples.inputs[: examples.n_train], examples.normalisation
    shape = (-1, *[1] * (inputs.ndim - 2))
    axes = [axis for axis in range(inputs.ndim) if axis != 1 or len(constants.std) == 1]
    unit = constants.scale * torch.tensor(constants.std)
    low, high = inputs.amin(axes).float(), inputs.amax(axes).float()
    return {"unit": unit.view(shape), "low": low.view(shape), "high": high.view(shape)}


def moved(space: dict[str, Tensor], inputs: Tensor, by: Tensor) -> Tensor:
    """Return inputs moved by some standard deviations, but not out of the range of the training set."""
    return (inputs + space["unit"] * by).clamp(space["low"], space["high"])


def slopes(ensemble: Ensemble, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of every input's cross-entropy by the input, as it is stored, and the logits.

    Args:
        ensemble: in eval mode.
        inputs: of every member, ``[members, batch, ...]`` float32.
        labels: ``[members, batch]``.
    """
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        logits = ensemble(inputs)
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        (found,) = torch.autograd.grad(loss, inputs)
    return found, logits.detach()


def wide(values: Tensor, inputs: Tensor) -> Tensor:
    """Return values ``[members, batch]`` in a shape that broadcasts with inputs ``[members, batch, ...]``."""
    return values.view(*values.shape, *[1] * (inputs.ndim - 2))


def points_and_extras(fit: Fit, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return inputs and labels of a batch in which numbers from ``n_points`` on are examples of a method's own.

    ``fit.kept`` holds these: ``inputs [members, extras, ...]`` and their ``labels [members, extras]``.
    """
    number = indices - fit.examples.n_points
    points, extras = indices.clamp(max=fit.examples.n_points - 1), number.clamp(min=0)
    members = torch.arange(len(indices), device=indices.device)[:, None]
    own, inputs = fit.kept["inputs"][members, extras], fit.see(points).float()
    labels = torch.where(number >= 0, fit.kept["labels"][members, extras], fit.labels[points])
    return torch.where(wide(number >= 0, inputs), own, inputs), labels
