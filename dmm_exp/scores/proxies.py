"""Proxies of memorization that need no pool of models.

Zhao et al., "Scalability of memorization-based machine unlearning", arXiv 2410.16516, compare them. Those that use the
outputs during training (confidence, maximal confidence, entropy, binary accuracy) are in
:mod:`dmm_exp.ensembles.trajectory`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from dmm_exp.ensembles import Ensemble
from dmm_exp.ensembles.ensemble import VALUES_AT_ONCE
from dmm_exp.errors import UserError
from dmm_exp.models import Normalised


def symmetric_kl(before: Tensor, after: Tensor) -> Tensor:
    """Return ``KL(p‖q) + KL(q‖p)`` of the answers before and after, in nats, mean over members: ``[points]``.

    With ``after`` the same models fine-tuned on held-out data this is the held-out-retraining score of Carlini et al.,
    arXiv 1910.13427: outputs that depend on the example itself being trained on change most. It uses the held-out data.

    Args:
        before: logits ``[members, points, classes]``.
        after: the same for the changed models.

    Raises:
        UserError: the shapes do not fit.
    """
    log_p, log_q = (_checked_logits(logits).log_softmax(2) for logits in (before, after))
    if log_p.shape != log_q.shape:
        raise UserError(
            f"before has shape {list(before.shape)} and after has shape {list(after.shape)}; expected the same shape."
        )
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(2).mean(0)  # the sum of both divergences


def loss_curvature(
    ensemble: Ensemble,
    inputs: Tensor,
    labels: Tensor,
    *,
    step: float = 0.01,
    directions: int = 10,
    generator: torch.Generator,
) -> Tensor:
    """Return the curvature of the loss around every input, mean over members: ``[points]`` on the CPU.

    ``mean_v ‖(∇ℓ(x + h·v) − ∇ℓ(x)) / h‖²``, with ℓ the cross-entropy in eval mode and gradients in the *normalised*
    input, so that h means the same for every dataset. The directions v have entries ±1 and are not scaled to unit
    length; for small h the expectation is the squared Frobenius norm of the loss's Hessian. Every point has its own
    directions, the same for all members.

    Args:
        ensemble: of ``Normalised`` networks.
        inputs: ``[points, ...]``, raw as the dataset stores them.
        labels: ``[points]``.
        step: h, in units of normalised inputs, above 0.
        directions: number of v, at least 1.
        generator: draws the directions, on the CPU.

    Raises:
        UserError: a number is out of range, labels do not fit, or the networks are not ``Normalised``.

    Source: Garg, Ravikumar and Roy, "Memorization through the lens of curvature of loss function around samples",
    arXiv 2307.05831.
    """
    if not step > 0 or directions < 1:
        raise UserError(f"step is {step} and directions is {directions}; expected above 0 and at least 1.")
    if not isinstance(ensemble.skeleton, Normalised):
        raise UserError(f"the ensemble is of {type(ensemble.skeleton).__name__}; expected Normalised networks.")
    if labels.shape != inputs.shape[:1]:
        raise UserError(f"labels has shape {list(labels.shape)}; expected [{len(inputs)}], one for each input.")
    values = VALUES_AT_ONCE if ensemble.device.type == "cpu" else 64 * VALUES_AT_ONCE
    at_once = max(1, values // (len(ensemble) * inputs[0].numel()))
    training = ensemble.training
    ensemble.eval()
    try:
        blocks = zip(inputs.split(at_once), labels.split(at_once), strict=True)
        parts = [_block_curvature(ensemble, *block, step, directions, generator) for block in blocks]
    finally:
        ensemble.train(training)
    return torch.cat(parts)


def _block_curvature(
    ensemble: Ensemble, inputs: Tensor, labels: Tensor, step: float, directions: int, generator: torch.Generator
) -> Tensor:
    """Return the curvature of some points ``[block]``."""
    assert isinstance(ensemble.skeleton, Normalised)
    centre, labels = ensemble.skeleton.normalise(inputs.to(ensemble.device)), labels.to(ensemble.device)
    gradient = _input_gradients(ensemble, centre, labels)
    total = torch.zeros(gradient.shape[:2], device=ensemble.device)
    for signs in _signs(centre.shape, directions, generator):
        moved = _input_gradients(ensemble, centre + step * signs.to(centre), labels)
        total += ((moved - gradient) / step).flatten(2).square().sum(2)
    return (total / directions).mean(0).cpu()


def _signs(shape: torch.Size, directions: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield tensors of ±1; the draws go point by point, so that they do not depend on the size of a block."""
    bits = torch.randint(2, (shape[0], directions, *shape[1:]), generator=generator, dtype=torch.int8)
    yield from (2 * bits - 1).unbind(1)


def _input_gradients(ensemble: Ensemble, normalised: Tensor, labels: Tensor) -> Tensor:
    """Return every member's gradient of the loss in its input ``[members, block, ...]``."""
    inputs = normalised.detach().expand(len(ensemble), *normalised.shape).requires_grad_()
    params = {name: value.detach() for name, value in ensemble.params.items()}
    with torch.enable_grad():
        logits = ensemble(inputs, method="network", params=params).float()
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.repeat(len(ensemble)), reduction="sum")
    return torch.autograd.grad(loss, inputs)[0]


def _checked_logits(logits: Tensor) -> Tensor:
    if logits.ndim != 3 or not len(logits):
        raise UserError(
            f"logits has shape {list(logits.shape)}; expected [members, points, classes] with at least one member."
        )
    return logits.float()
