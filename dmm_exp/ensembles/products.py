"""Steps of stacked linear layers as batched matrix products that are written out, without autograd and ``vmap``.

A step's tensors are few and known, so that their memory is allocated once. The momentum of SGD is accumulated within
the product that makes the gradient, which never exists by itself. The last layer, which is narrow, gives its logits as
``[members, classes, batch]``: so the longest dimension of every product and sum lies in one piece of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from dmm_exp.ensembles.ensemble import Ensemble
from dmm_exp.models import Normalised
from dmm_exp.models.layers import BodyAndHead

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

NOT_A_CHAIN = (
    "this network is no plain chain of Flatten and Linear, with at most one ReLU, Tanh or GELU after each but the last"
)

Pairs = list[tuple[Tensor, Tensor | None]]
"""For every layer a tensor of the weight's shape and one of the bias's."""

operations: Any = torch.ops.aten


@dataclass(frozen=True)
class Layer:
    """A linear layer and the activation after it.

    Attributes:
        weight, bias: names of its parameters; without a bias None.
        activation: after it; None for none.
    """

    weight: str
    bias: str | None
    activation: nn.Module | None


def chain_of(ensemble: Ensemble, input_shape: Sequence[int]) -> list[Layer] | None:
    """Return the layers of networks that are a plain chain of linear layers behind their normalisation, else None.

    They begin with a Flatten, unless an input is a row of numbers. None is returned for a network that may compute
    something else: one with hooks, a ``forward`` of its own, layers that share parameters, frozen parameters, or
    parameters of another type than torch's default.
    """
    skeleton, values = ensemble.skeleton, list(ensemble.params.values())
    if (
        type(skeleton) is not Normalised
        or ensemble.stats
        or any(value.dtype != torch.get_default_dtype() for value in values)
    ):
        return None
    modules = list(skeleton.modules())
    if any(map(_is_changed, modules)):
        return None
    parts = list(_in_order(skeleton.network))
    if len(input_shape) > 1 and not (parts and _flattens(parts[0])):
        return None
    parts = [part for part in parts if not _flattens(part)]  # what is flat already stays as it is
    layers = _paired(parts, {id(value): name for name, value in skeleton.named_parameters()})
    if layers is None:
        return None
    names = [name for layer in layers for name in (layer.weight, layer.bias) if name is not None]
    return layers if sorted(names) == sorted(ensemble.params) else None


def _is_changed(module: nn.Module) -> bool:
    """Return whether a call of a module may do more than its class's ``forward``."""
    own_call = type(module).__call__ is not nn.Module.__call__ or "forward" in vars(module)
    return own_call or any(getattr(module, hooks) for hooks in HOOKS)


def _in_order(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of a network in the order in which they are applied; what is not known is a part."""
    kind: Any = type(network)
    if kind.forward is nn.Sequential.forward:
        children: list[Any] = list(network._modules.values())
    elif kind.forward is BodyAndHead.forward and kind.features is BodyAndHead.features:
        children = [network.body, network.head]
    else:
        yield network
        return
    for child in children:
        yield from _in_order(child)


def _flattens(part: nn.Module) -> bool:
    return type(part) is nn.Flatten and (part.start_dim, part.end_dim) == (1, -1)


def _paired(parts: Sequence[nn.Module], names: dict[int, str]) -> list[Layer] | None:
    """Return linear layers with their activations, None if other parts are among them."""
    layers: list[Layer] = []
    for part in parts:
        if type(part) is nn.Linear:
            bias = None if part.bias is None else names[id(part.bias)]
            layers.append(Layer(names[id(part.weight)], bias, None))
        elif type(part) in (nn.ReLU, nn.Tanh, nn.GELU) and layers and layers[-1].activation is None:
            layers[-1] = Layer(layers[-1].weight, layers[-1].bias, part)
        else:
            return None
    return layers if layers and layers[-1].activation is None else None


@dataclass(frozen=True)
class _Memory:
    """Tensors of a step over batches of one size.

    Attributes:
        outputs: of every layer before its activation ``[members, batch, width]``, of the last ``[members, classes,
            batch]``.
        inputs: of every layer ``[members, batch, width]``; where an activation needs its output alone, it works in
            place, and they are the outputs of the layer before. The first is set by every step.
        errors: gradients by the outputs of all layers but the last.
    """

    outputs: list[Tensor]
    inputs: list[Tensor]
    errors: list[Tensor]


class Products:
    """The forward and the backward pass of stacked chains of linear layers.

    Args:
        ensemble: on the CPU; its parameters stay where they are; those of the last layer are made contiguous.
        layers: what :func:`chain_of` returned.
    """

    def __init__(self, ensemble: Ensemble, layers: Sequence[Layer]) -> None:
        self.ensemble, self.layers = ensemble, layers
        self.normalise = cast("Normalised", ensemble.skeleton).normalise
        last = ensemble.params[layers[-1].weight]
        last.data = last.data.contiguous()
        self.parameters = self.pairs(Tensor.detach)
        self._memory: dict[int, _Memory] = {}
        self._places: dict[tuple[str, int], Tensor] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[members, classes, batch]`` for raw inputs ``[members, batch, ...]``.

        They, and all that the backward pass needs, are valid until the next call.
        """
        memory = self._of_size(inputs.shape[1])
        memory.inputs[0] = self.normalise(inputs).flatten(2)
        last = len(self.layers) - 1
        for number, ((weight, bias), out) in enumerate(zip(self.parameters, memory.outputs, strict=True)):
            left, right = memory.inputs[number], weight.mT
            if number == last:
                left, right = weight, left.mT
            if bias is None:
                torch.bmm(left, right, out=out)
            else:
                torch.baddbmm(bias.unsqueeze(2 if number == last else 1), left, right, out=out)
            if number < last:
                _activate(self.layers[number].activation, out, memory.inputs[number + 1])
        return memory.outputs[-1]

    def backward(self, errors: Tensor, targets: Pairs, old: float, new: float) -> None:
        """Set every target to ``old`` times itself plus ``new`` times the gradient.

        Args:
            errors: gradient by the logits of the last forward pass, ``[members, classes, batch]``.
            targets: for the weight and the bias of every layer, in order. They may be the parameters themselves.
            old, new: the factors. With ``old=0`` targets must be finite.
        """
        memory, last = self._memory[errors.shape[2]], len(self.layers) - 1
        for number in range(last, -1, -1):
            inputs, (weight, bias) = memory.inputs[number], targets[number]
            if number:
                by_input = memory.errors[number - 1]
                torch.bmm(errors.mT if number == last else errors, self.parameters[number][0], out=by_input)
                before = self.layers[number - 1].activation
                _deactivate(before, by_input, memory.outputs[number - 1], inputs)
            if number == last:
                weight.baddbmm_(errors, inputs, beta=old, alpha=new)
            else:
                weight.mT.baddbmm_(inputs.mT, errors, beta=old, alpha=new)
            if bias is not None:
                bias.mul_(old).add_(errors.sum(2 if number == last else 1), alpha=new)
            errors = memory.errors[number - 1] if number else errors

    def pairs(self, make: Callable[[nn.Parameter], Any]) -> Pairs:
        """Return a tensor made from the weight, and one from the bias, of every layer."""
        params = self.ensemble.params
        return [
            (make(params[layer.weight]), None if layer.bias is None else make(params[layer.bias]))
            for layer in self.layers
        ]

    def _of_size(self, batch: int) -> _Memory:
        """Return the memory for batches of a size, which is a part of that for the largest batches so far."""
        if batch not in self._memory:
            members, widths = len(self.ensemble), [weight.shape[1] for weight, _ in self.parameters]
            activations = [layer.activation for layer in self.layers[:-1]]
            outputs = [self._place("output", number, members, batch, width) for number, width in enumerate(widths)]
            outputs[-1] = outputs[-1].view(members, widths[-1], batch)
            inputs = [
                self._place("input", number, *out.shape) if type(activation) is nn.GELU else out
                for number, (activation, out) in enumerate(zip(activations, outputs, strict=False))
            ]
            errors = [self._place("error", number, *out.shape) for number, out in enumerate(outputs[:-1])]
            self._memory[batch] = _Memory(outputs, [torch.empty(0), *inputs], errors)
        return self._memory[batch]

    def _place(self, kind: str, number: int, *shape: int) -> Tensor:
        """Return a tensor of a shape at the place of its kind in a layer."""
        count = prod(shape)
        if count > len(self._places.get((kind, number), ())):
            self._places[kind, number] = torch.empty(count)
            self._memory.clear()  # which holds parts of smaller places
        return self._places[kind, number][:count].view(shape)


def _activate(activation: nn.Module | None, outputs: Tensor, activated: Tensor) -> None:
    """Apply an activation to outputs; all but GELU in place."""
    if isinstance(activation, nn.ReLU):
        outputs.clamp_min_(0)
    elif isinstance(activation, nn.Tanh):
        outputs.tanh_()
    elif isinstance(activation, nn.GELU):
        operations.gelu.out(outputs, approximate=activation.approximate, out=activated)


def _deactivate(activation: nn.Module | None, errors: Tensor, outputs: Tensor, activated: Tensor) -> None:
    """Change gradients by what an activation gave to those by what it got, in place."""
    if isinstance(activation, nn.ReLU):
        operations.threshold_backward.grad_input(errors, activated, 0, grad_input=errors)
    elif isinstance(activation, nn.Tanh):
        operations.tanh_backward.grad_input(errors, activated, grad_input=errors)
    elif isinstance(activation, nn.GELU):
        operations.gelu_backward.grad_input(errors, outputs, approximate=activation.approximate, grad_input=errors)


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


class FusedStep:
    """Training steps of stacked chains of linear layers under cross-entropy.

    Steps of plain SGD accumulate the momentum within the products of the backward pass. For other optimizers, and where
    gradients are clipped, the products make the gradients, and the optimizer takes its own step.

    Args:
        ensemble: changed by every step.
        layers: what :func:`chain_of` returned.
        optimizer: of the ensemble's parameters.
        clip: changes gradients before a step of the optimizer; None leaves them.
        label_smoothing: share of every target that is spread over all classes.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        layers: Sequence[Layer],
        optimizer: torch.optim.Optimizer,
        clip: Callable[[], None] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        self._ensemble, self._layers, self._optimizer, self._clip = ensemble, layers, optimizer, clip
        self._label_smoothing = label_smoothing
        self._products = Products(ensemble, layers)
        self._step = _SGD(self._products, optimizer) if clip is None and _is_plain(optimizer) else self._by_gradients

    @torch.no_grad()
    def __call__(self, inputs: Tensor, labels: Tensor, look: Callable[[Tensor], None] | None = None) -> Tensor:
        """Take a step, and return the members' mean losses ``[members]``.

        Args:
            inputs: raw, ``[members, batch, ...]``.
            labels: ``[members, batch]``.
            look: gets the logits ``[members, batch, classes]``, which are only valid during the call.
        """
        logits = self._products.forward(inputs)
        if look is not None:
            look(logits.mT)
        losses = cross_entropy_(logits, labels, self._label_smoothing)
        self._step(logits)
        return losses

    @cached_property
    def _gradients(self) -> Pairs:
        """Gradients of the parameters, in memory that every step uses again."""
        for value in self._ensemble.parameters():
            value.grad = torch.zeros_like(value)
        return self._products.pairs(lambda value: value.grad)

    def _by_gradients(self, errors: Tensor) -> None:
        self._products.backward(errors, self._gradients, 0.0, 1.0)
        if self._clip is not None:
            self._clip()
        self._optimizer.step()


class _SGD:
    """Steps of :class:`torch.optim.SGD` with its settings, its learning rate at every step; it is not stepped."""

    def __init__(self, products: Products, optimizer: torch.optim.Optimizer) -> None:
        self._products, (self._settings,) = products, optimizer.param_groups
        parameters = products.pairs(Tensor.detach)
        self._targets = products.pairs(torch.zeros_like) if self._settings["momentum"] else parameters
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


def _is_plain(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether :class:`_SGD` takes an optimizer's steps."""
    if type(optimizer) is not torch.optim.SGD or len(optimizer.param_groups) != 1:
        return False
    (settings,) = optimizer.param_groups
    return not (settings["nesterov"] or settings["maximize"] or settings["differentiable"])
