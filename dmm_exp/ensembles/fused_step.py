"""Training steps of stacked networks whose products are written out, see :mod:`dmm_exp.ensembles.products`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dmm_exp.ensembles.chain import Layer
from dmm_exp.ensembles.ensemble import Ensemble
from dmm_exp.ensembles.products import Memory, Pairs, Products

Loss = Callable[[Tensor, slice], Tensor]
"""From logits ``[members, classes, batch]`` of some members, which become the gradient, to losses ``[members]``."""

VALUES_AT_ONCE = 2**22  # of a step of convolutions: about what fits into a processor's cache


def cross_entropy_(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy ``[members]``, and turn the logits into its gradient by them.

    Args:
        logits: ``[members, classes, batch]``, changed in place.
        labels: ``[members, batch]``.
        label_smoothing: share of every target that is spread over all classes.
    """
    _, classes, batch = logits.shape
    own, spread = 1 - label_smoothing, label_smoothing / classes
    logits.sub_(logits.amax(1, keepdim=True))
    right = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    total = logits.sum(1) if label_smoothing else None
    sums = logits.exp_().sum(1, keepdim=True)
    losses = sums.squeeze(1).log() - own * right
    losses = losses if total is None else losses - spread * total
    logits.mul_(sums.mul_(batch).reciprocal_())
    if label_smoothing:
        logits.sub_(spread / batch)
    share = torch.full((1, 1, 1), -own / batch).expand(len(labels), 1, batch)
    logits.scatter_add_(1, labels.unsqueeze(1), share)
    return losses.mean(1)


def towards(labels: Tensor, label_smoothing: float = 0.0) -> Loss:
    """Return :func:`cross_entropy_` with some labels ``[members, batch]``."""
    return lambda logits, members: cross_entropy_(logits, labels[members], label_smoothing)


class FusedStep:
    """Training steps of stacked chains of layers.

    Steps of plain SGD accumulate the momentum within the products of the backward pass. For other optimizers, and where
    gradients are clipped, the products make the gradients, and the optimizer takes its own step. Members whose
    convolutions copy much take their steps one after another, in the same memory.

    Args:
        ensemble: changed by every step.
        layers: what :func:`chain_of` returned.
        optimizer: of the ensemble's parameters.
        clip: changes gradients before a step of the optimizer; None leaves them.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        layers: Sequence[Layer],
        optimizer: torch.optim.Optimizer,
        clip: Callable[[], None] | None = None,
    ) -> None:
        self._ensemble, self._layers, self._optimizer, self._clip = ensemble, layers, optimizer, clip
        self._plain = clip is None and _is_plain(optimizer)
        self._groups: list[_Group] = []

    @torch.no_grad()
    def __call__(self, inputs: Tensor, loss: Loss, look: Callable[[Tensor], None] | None = None) -> Tensor:
        """Take a step, and return the members' mean losses ``[members]``.

        Args:
            inputs: raw, ``[members, batch, ...]``.
            loss: on this batch.
            look: gets the logits ``[members, batch, classes]``, which are only valid during the call.
        """
        self._groups = self._groups or list(self._grouped(inputs))
        losses, seen = [], []
        for group in self._groups:
            logits = group.products.forward(inputs[group.members])
            if look is not None:
                seen.append(logits.mT.clone())
            losses.append(loss(logits, group.members))
            group.descend(logits)
        if look is not None:
            look(torch.cat(seen))
        if self._clip is not None:
            self._clip()
        if not self._plain:
            self._optimizer.step()
        return torch.cat(losses)

    def _grouped(self, inputs: Tensor) -> Iterator[_Group]:
        """Yield members that take their steps at the same time, for inputs ``[members, batch, ...]``.

        Convolutions of few members are faster, whose columns stay in the processor's cache.
        """
        size, memory = len(inputs), Memory()
        if any(layer.convolution is not None for layer in self._layers):
            trial = Memory()
            Products(self._ensemble, self._layers, slice(0, 1), trial).forward(inputs[:1])
            size = max(1, VALUES_AT_ONCE // trial.values)
        for start in range(0, len(inputs), size):
            yield self._group(slice(start, start + size), memory)

    def _group(self, members: slice, memory: Memory) -> _Group:
        products = Products(self._ensemble, self._layers, members, memory)
        if self._plain:
            return _Group(members, products, _SGD(products, self._optimizer))
        for value in self._ensemble.parameters():
            value.grad = torch.zeros_like(value) if value.grad is None else value.grad
        gradients = products.pairs(lambda value: value.grad)
        return _Group(members, products, partial(products.backward, targets=gradients, old=0.0, new=1.0))


@dataclass(frozen=True)
class _Group:
    """Members that take their steps at the same time.

    Attributes:
        members: which.
        products: their passes.
        descend: gets the gradient by the logits of the last forward pass, ``[members, classes, batch]``.
    """

    members: slice
    products: Products
    descend: Callable[[Tensor], None]


class _SGD:
    """Steps of :class:`torch.optim.SGD` with its settings, its learning rate at every step; it is not stepped."""

    def __init__(self, products: Products, optimizer: torch.optim.Optimizer) -> None:
        self._products, (self._settings,) = products, optimizer.param_groups
        parameters = products.pairs(Tensor.detach)
        self._targets = _zeros(parameters) if self._settings["momentum"] else parameters
        self._parameters, self._momenta = (
            [value for pair in pairs for value in pair if value is not None] for pairs in (parameters, self._targets)
        )
        self._begun = False

    def __call__(self, errors: Tensor) -> None:
        """Step along the gradient by the logits, ``[members, classes, batch]``."""
        rate, decay, momentum = (float(self._settings[key]) for key in ("lr", "weight_decay", "momentum"))
        if not momentum:
            self._products.backward(errors, self._targets, 1 - rate * decay, -rate)
            return
        share = 1 - self._settings["dampening"] if self._begun else 1.0
        self._products.backward(errors, self._targets, momentum, share)
        if decay:
            torch._foreach_add_(self._momenta, self._parameters, alpha=share * decay)
        torch._foreach_add_(self._parameters, self._momenta, alpha=-rate)
        self._begun = True


def _zeros(pairs: Pairs) -> Pairs:
    return [(torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)) for weight, bias in pairs]


def _is_plain(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether :class:`_SGD` takes an optimizer's steps."""
    if type(optimizer) is not torch.optim.SGD or len(optimizer.param_groups) != 1:
        return False
    (settings,) = optimizer.param_groups
    return not (settings["nesterov"] or settings["maximize"] or settings["differentiable"])
