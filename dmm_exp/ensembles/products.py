"""The passes of stacked chains of layers as batched matrix products, without autograd and ``vmap``.

A step's tensors are few and known, so that their memory is allocated once. The momentum of SGD is accumulated within
the product that makes the gradient, which never exists by itself. The longest dimension of every product and sum lies
in one piece of memory: so the last layer, which is narrow, gives its logits as ``[members, classes, batch]``, and
images are ``[members, channels, height, width, batch]``. Then a convolution copies what its kernel sees of the images
in long pieces, and torch's pooling for images whose channels come last is one for images whose batch comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from dmm_exp.ensembles.chain import Layer
from dmm_exp.ensembles.ensemble import Ensemble
from dmm_exp.models import Normalised

Pair = tuple[Tensor, Tensor | None]
Pairs = list[Pair]
"""For every layer a tensor of the weight's shape and one of the bias's; kernels are ``[members, channels, values]``."""

operations: Any = torch.ops.aten


class Memory:
    """Places for the tensors of steps: those of a smaller step are parts of those of the largest so far.

    Attributes:
        grown: how often a place was made, or made larger.
    """

    def __init__(self) -> None:
        self.grown = 0
        self._places: dict[str, Tensor] = {}

    @property
    def values(self) -> int:
        """How many numbers there is place for."""
        return sum(map(len, self._places.values()))

    def place(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return a tensor of a shape at the place of a name, which always is for one type."""
        count = prod(shape)
        if count > len(self._places.get(name, ())):
            self._places[name] = torch.empty(count, dtype=dtype)
            self.grown += 1
        return self._places[name][:count].view(shape)


class Product(Protocol):
    """A layer for batches of one size.

    Attributes:
        inputs: linear layers ``[members, batch, width]``, convolutions ``[members, channels, height, width, batch]``.
        outputs: alike; of the last layer ``[members, classes, batch]``. A ReLU and a Tanh after it change them.
    """

    inputs: Tensor
    outputs: Tensor

    def forward(self) -> None:
        """Set the outputs."""
        ...

    def by_input(self, errors: Tensor) -> Tensor:
        """Return the gradient by the inputs from that by the outputs."""
        ...

    def by_parameters(self, errors: Tensor, target: Pair, old: float, new: float) -> None:
        """Set targets to ``old`` times themselves plus ``new`` times the gradient by the parameters."""
        ...


class Linear:
    """A linear layer; see :class:`Product`.

    Args:
        memory, name: for its tensors.
        parameters: weight ``[members, out, in]`` and bias ``[members, out]``.
        inputs: ``[members, batch, in]``, or images, which are flattened.
        last: whether it is the last layer.
    """

    def __init__(self, memory: Memory, name: str, parameters: Pair, inputs: Tensor, last: bool) -> None:
        self._weight, self._bias = parameters
        self._image, self._last = inputs.shape if inputs.ndim == 5 else None, last
        self.inputs = inputs.flatten(1, 3).mT if self._image else inputs
        members, batch, width_in = self.inputs.shape
        width = self._weight.shape[1]
        self.outputs = memory.place(f"outputs {name}", members, *((width, batch) if last else (batch, width)))
        shape = (width_in, batch) if self._image else (batch, width_in)
        self._errors = memory.place(f"errors {name}", members, *shape)

    def forward(self) -> None:
        """Set the outputs."""
        left, right = (self._weight, self.inputs.mT) if self._last else (self.inputs, self._weight.mT)
        if self._bias is None:
            torch.bmm(left, right, out=self.outputs)
        else:
            torch.baddbmm(self._bias.unsqueeze(2 if self._last else 1), left, right, out=self.outputs)

    def by_input(self, errors: Tensor) -> Tensor:
        """Return the gradient by the inputs, of images in their own shape."""
        rows = errors.mT if self._last else errors
        if self._image:
            return torch.bmm(self._weight.mT, rows.mT, out=self._errors).view(self._image)
        return torch.bmm(rows, self._weight, out=self._errors)

    def by_parameters(self, errors: Tensor, target: Pair, old: float, new: float) -> None:
        """Set targets to ``old`` times themselves plus ``new`` times the gradient by the parameters."""
        weight, bias = target
        if self._last:
            weight.baddbmm_(errors, self.inputs, beta=old, alpha=new)
        else:
            weight.mT.baddbmm_(self.inputs.mT, errors, beta=old, alpha=new)
        if bias is not None:
            bias.mul_(old).add_(errors.sum(2 if self._last else 1), alpha=new)


class Convolution:
    """A convolution as a product with all that its kernel sees; see :class:`Product`.

    Args:
        memory, name: for its tensors.
        parameters: weight ``[members, channels, values of a kernel]`` and bias ``[members, channels]``.
        inputs: ``[members, channels, height, width, batch]``.
        layer: its sizes.
    """

    def __init__(self, memory: Memory, name: str, parameters: Pair, inputs: Tensor, layer: nn.Conv2d) -> None:
        self._weight, self._bias = parameters
        self.inputs = inputs
        members, channels, height, width, batch = inputs.shape
        (top, left), kernel = (cast("tuple[int, int]", sizes) for sizes in (layer.padding, layer.kernel_size))
        shape = members, channels, height + 2 * top, width + 2 * left, batch

        def room(kind: str) -> tuple[Tensor, Tensor, Tensor]:
            """Return images with a border, the part without it, and what the kernel's values see of the whole."""
            whole = memory.place(f"{kind} {name}", *shape)
            seen = whole.unfold(2, kernel[0], layer.stride[0]).unfold(3, kernel[1], layer.stride[1])
            return whole, whole[:, :, top : top + height, left : left + width], seen.permute(0, 1, 5, 6, 2, 3, 4)

        self._padded, self._inner, self._seen = room("padded")
        self._errors, self._inner_errors, seen_errors = room("errors")
        self._dense_errors = memory.place(f"dense errors {name}", *inputs.shape)
        self._columns = memory.place(f"columns {name}", *self._seen.shape)
        self._by_columns = memory.place("by columns", *self._seen.shape)
        places = [(slice(None), slice(None), *place) for place in product(*map(range, kernel))]
        self._sums = [(seen_errors[place], self._by_columns[place]) for place in places]
        self.outputs = memory.place(f"outputs {name}", members, layer.out_channels, *self._seen.shape[4:])

    def forward(self) -> None:
        """Set the outputs."""
        self._padded.zero_()
        self._inner.copy_(self.inputs)
        self._columns.copy_(self._seen)
        columns, outputs = _flat(self._columns), self.outputs.flatten(2)
        if self._bias is None:
            torch.bmm(self._weight, columns, out=outputs)
        else:
            torch.baddbmm(self._bias.unsqueeze(2), self._weight, columns, out=outputs)

    def by_input(self, errors: Tensor) -> Tensor:
        """Return the gradient by the inputs."""
        torch.bmm(self._weight.mT, errors.flatten(2), out=_flat(self._by_columns))
        self._errors.zero_()
        for seen, errors in self._sums:
            seen.add_(errors)
        return self._dense_errors.copy_(self._inner_errors)

    def by_parameters(self, errors: Tensor, target: Pair, old: float, new: float) -> None:
        """Set targets to ``old`` times themselves plus ``new`` times the gradient by the parameters."""
        (weight, bias), errors = target, errors.flatten(2)
        weight.baddbmm_(errors, _flat(self._columns).mT, beta=old, alpha=new)
        if bias is not None:
            bias.mul_(old).add_(errors.sum(2), alpha=new)


def _flat(columns: Tensor) -> Tensor:
    """Return ``[members, values of a kernel, positions × batch]``."""
    return columns.flatten(4).flatten(1, 3)


class After(Protocol):
    """What comes after a layer, for batches of one size."""

    outputs: Tensor

    def forward(self) -> None:
        """Set the outputs."""
        ...

    def backward(self, errors: Tensor) -> Tensor:
        """Return the gradient by the inputs from that by the outputs, which may be changed."""
        ...


class Activation:
    """An activation; where its output alone is needed, it works in place."""

    def __init__(self, memory: Memory, name: str, inputs: Tensor, module: nn.Module) -> None:
        self._inputs, self._module = inputs, module
        self.outputs = memory.place(f"active {name}", *inputs.shape) if isinstance(module, nn.GELU) else inputs

    def forward(self) -> None:
        """Set the outputs."""
        if isinstance(self._module, nn.ReLU):
            self._inputs.clamp_min_(0)
        elif isinstance(self._module, nn.Tanh):
            self._inputs.tanh_()
        elif isinstance(self._module, nn.GELU):
            operations.gelu.out(self._inputs, approximate=self._module.approximate, out=self.outputs)

    def backward(self, errors: Tensor) -> Tensor:
        """Return the gradient by the inputs, in place of that by the outputs."""
        if isinstance(self._module, nn.ReLU):
            operations.threshold_backward.grad_input(errors, self.outputs, 0, grad_input=errors)
        elif isinstance(self._module, nn.Tanh):
            operations.tanh_backward.grad_input(errors, self.outputs, grad_input=errors)
        elif isinstance(self._module, nn.GELU):
            approximate = self._module.approximate
            operations.gelu_backward.grad_input(errors, self._inputs, approximate=approximate, grad_input=errors)
        return errors


class Pooling:
    """The largest of several positions; the gradient goes to the first of equal ones.

    Args:
        memory, name: for its tensors.
        inputs: ``[members, channels, height, width, batch]``.
        pool: its sizes.
    """

    def __init__(self, memory: Memory, name: str, inputs: Tensor, pool: nn.MaxPool2d) -> None:
        self._inputs, self._sizes = inputs, (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
        members, channels, height, width, batch = inputs.shape
        rows, columns = pool(torch.empty(1, height, width)).shape[1:]
        self.outputs = memory.place(f"pooled {name}", members, channels, rows, columns, batch)
        self._errors = memory.place(f"errors of pooled {name}", *inputs.shape)
        self._indices = memory.place(f"indices {name}", *self.outputs.shape, dtype=torch.int64)

    def forward(self) -> None:
        """Set the outputs."""
        inputs, outputs, indices = map(_channels_last, (self._inputs, self.outputs, self._indices))
        operations.max_pool2d_with_indices.out(inputs, *self._sizes, out=outputs, indices=indices)

    def backward(self, errors: Tensor) -> Tensor:
        """Return the gradient by the inputs."""
        operations.max_pool2d_with_indices_backward.grad_input(
            _channels_last(errors),
            _channels_last(self._inputs),
            *self._sizes,
            _channels_last(self._indices),
            grad_input=_channels_last(self._errors),
        )
        return self._errors


def _channels_last(images: Tensor) -> Tensor:
    """Return ``[members, channels, height, width, batch]`` as ``[members × channels, batch, height, width]``."""
    return images.flatten(0, 1).movedim(-1, 1)


class Passes:
    """The layers for batches of one size, and what comes after them: each works on what the one before gives."""

    def __init__(self, memory: Memory, layers: Sequence[Layer], parameters: Pairs, inputs: Tensor) -> None:
        self.products: list[Product] = []
        self.after: list[list[After]] = []
        for number, (layer, pair) in enumerate(zip(layers, parameters, strict=True)):
            name = str(number)
            if layer.convolution is not None:
                made: Product = Convolution(memory, name, pair, inputs, layer.convolution)
            else:
                made = Linear(memory, name, pair, inputs, number == len(layers) - 1)
            self.products.append(made)
            self.after.append([])
            inputs = made.outputs
            for part in layer.after:
                kind: Any = Pooling if isinstance(part, nn.MaxPool2d) else Activation
                self.after[-1].append(kind(memory, name, inputs, part))
                inputs = self.after[-1][-1].outputs

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits."""
        self.products[0].inputs = inputs
        for made, after in zip(self.products, self.after, strict=True):
            made.forward()
            for part in after:
                part.forward()
        return self.products[-1].outputs

    def backward(self, errors: Tensor, targets: Pairs, old: float, new: float) -> None:
        """See :meth:`Products.backward`."""
        for number in range(len(self.products) - 1, -1, -1):
            made = self.products[number]
            for part in reversed(self.after[number]):
                errors = part.backward(errors)
            before = made.by_input(errors) if number else errors  # before the parameters change
            made.by_parameters(errors, targets[number], old, new)
            errors = before


class Products:
    """The forward and the backward pass of stacked chains of layers.

    Args:
        ensemble: on the CPU; its parameters stay where they are; kernels and the last weight are made contiguous.
        layers: what :func:`chain_of` returned.
        members: which of the ensemble; None for all.
        memory: for the tensors of a step; only the last pass that used it has what a backward pass needs.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        layers: Sequence[Layer],
        members: slice | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.ensemble, self.layers = ensemble, layers
        self.members, self.memory = members or slice(None), memory or Memory()
        self.normalise = cast("Normalised", ensemble.skeleton).normalise
        for layer in [layer for layer in layers if layer.convolution is not None] + [layers[-1]]:
            value = ensemble.params[layer.weight]
            value.data = value.data.contiguous()
        self.parameters = self.pairs(Tensor.detach)
        self._passes: dict[int, Passes] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``[members, classes, batch]`` for raw inputs ``[members, batch, ...]``.

        They, and all that the backward pass needs, are valid until the next call.
        """
        batch, inputs = inputs.shape[1], self.normalise(inputs)
        inputs = inputs.flatten(2) if self.layers[0].convolution is None else inputs.movedim(1, -1)
        if batch not in self._passes:
            grown = self.memory.grown
            passes = Passes(self.memory, self.layers, self.parameters, inputs)
            kept = self._passes if self.memory.grown == grown else {}  # others would hold smaller places, too
            self._passes = {**kept, batch: passes}
        return self._passes[batch].forward(inputs)

    def backward(self, errors: Tensor, targets: Pairs, old: float, new: float) -> None:
        """Set every target to ``old`` times itself plus ``new`` times the gradient.

        Args:
            errors: gradient by the logits of the last forward pass, ``[members, classes, batch]``.
            targets: for the weight and the bias of every layer, in order. They may be the parameters themselves.
            old, new: the factors. With ``old=0`` targets must be finite.
        """
        self._passes[errors.shape[2]].backward(errors, targets, old, new)

    def pairs(self, make: Callable[[nn.Parameter], Any]) -> Pairs:
        """Return a tensor made from the weight, and one from the bias, of every layer."""
        params = self.ensemble.params

        def made(name: str) -> Tensor:
            return make(params[name])[self.members]

        return [
            (made(layer.weight).flatten(2), None if layer.bias is None else made(layer.bias)) for layer in self.layers
        ]
