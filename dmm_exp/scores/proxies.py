"""Proxies of memorization: what one training run shows of it, without a pool of models.

Zhao et al., "Scalability of memorization-based machine unlearning", arXiv 2410.16516, compare them. Those that are read
off the answers (confidence, maximal confidence, entropy, binary accuracy) are averaged over the epochs of training.
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


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the probability of the true class, mean over members: ``[points]`` in [0, 1].

    Args:
        logits: ``[members, points, classes]``.
        labels: ``[points]``.

    Raises:
        UserError: when the shapes do not fit.
    """
    return _confidence(*_checked(logits, labels)).mean(0)


def max_confidence(logits: Tensor) -> Tensor:
    """Return the largest probability, mean over members: ``[points]`` in [0, 1]. Input as for ``confidence``."""
    return _max_confidence(_checked_logits(logits)).mean(0)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the answer in nats, mean over members: ``[points]``. Input as for ``confidence``."""
    return _entropy(_checked_logits(logits)).mean(0)


def binary_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of members that are right ``[points]``. Input and errors as for ``confidence``."""
    return _binary_accuracy(*_checked(logits, labels)).mean(0)


class Trajectory:
    """Averages the proxies of every member over the epochs of its training; no logits are kept.

    Args:
        labels: ``[n_train]`` of the training points.
    """

    def __init__(self, labels: Tensor) -> None:
        self.epochs = 0
        self._labels = labels
        self._sums: dict[str, Tensor] = {}

    def update(self, logits: Tensor) -> None:
        """Add an epoch: ``[members, points, classes]``, the training points first; further points are passed over.

        Raises:
            UserError: when there are fewer points than labels, or the number of members has changed.
        """
        answers, labels = _checked(logits[:, : len(self._labels)], self._labels)
        values = {
            "confidence": _confidence(answers, labels),
            "max_confidence": _max_confidence(answers),
            "entropy": _entropy(answers),
            "binary_accuracy": _binary_accuracy(answers, labels),
        }
        if any(value.shape != values[name].shape for name, value in self._sums.items()):
            raise UserError(
                f"logits has {len(logits)} members and the epochs before had "
                f"{len(self._sums['confidence'])}; expected the same members."
            )
        self._sums = {name: value + self._sums.get(name, 0.0) for name, value in values.items()}
        self.epochs += 1

    def mean(self) -> dict[str, Tensor]:
        """Return ``confidence``, ``max_confidence``, ``entropy`` and ``binary_accuracy``, each ``[members, n_train]``.

        Raises:
            UserError: when there was no epoch.
        """
        if not self.epochs:
            raise UserError("the trajectory holds 0 epochs; expected at least one.")
        return {name: value / self.epochs for name, value in self._sums.items()}


def symmetric_kl(before: Tensor, after: Tensor) -> Tensor:
    """Return ``KL(p‖q) + KL(q‖p)`` of the answers before and after, in nats, mean over members: ``[points]``.

    With ``after`` the same models fine-tuned on held-out data this is the held-out-retraining score of Carlini et al.,
    arXiv 1910.13427: an answer that rests on an example's own presence does not survive. Held-out data is then used.

    Args:
        before: logits ``[members, points, classes]``.
        after: the same for the changed models.

    Raises:
        UserError: when the shapes do not fit.
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


def _confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the probability of the true class ``[members, points]``, as the functions below do for theirs."""
    return logits.softmax(2).gather(2, labels.expand(len(logits), -1)[..., None]).squeeze(2)


def _max_confidence(logits: Tensor) -> Tensor:
    return logits.softmax(2).amax(2)


def _entropy(logits: Tensor) -> Tensor:
    return -(logits.softmax(2) * logits.log_softmax(2)).sum(2)


def _binary_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(2) == labels).float()


def _checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return float32 logits and labels that fit each other."""
    answers = _checked_logits(logits)
    if labels.shape != answers.shape[1:2]:
        raise UserError(f"labels has shape {list(labels.shape)}; expected [{answers.shape[1]}], one for each point.")
    return answers, labels


def _checked_logits(logits: Tensor) -> Tensor:
    if logits.ndim != 3 or not len(logits):
        raise UserError(
            f"logits has shape {list(logits.shape)}; expected [members, points, classes] with at least one member."
        )
    return logits.float()
