"""Recognises networks whose training steps can be written out, see :mod:`dmm_exp.ensembles.products`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from dmm_exp.ensembles.ensemble import Ensemble
from dmm_exp.models import Normalised
from dmm_exp.models.layers import BodyAndHead

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.GELU)

NOT_A_CHAIN = (
    "this network is no plain chain of Conv2d (without groups and dilation, padded by a number of zeros), Flatten and "
    "Linear that ends with a Linear, with at most one ReLU, Tanh or GELU after each other layer, and at most one "
    "MaxPool2d after each Conv2d"
)


@dataclass(frozen=True)
class Layer:
    """A linear layer or a convolution, and what comes after it.

    Attributes:
        weight, bias: names of its parameters; without a bias None.
        convolution: what holds its stride and padding; None for a linear layer.
        after: at most one activation and one pooling, in the order in which they are applied.
    """

    weight: str
    bias: str | None
    convolution: nn.Conv2d | None = None
    after: tuple[nn.Module, ...] = ()


NARROW = 64  # channels: on wider images the library's convolutions are faster than products of copies


def are_narrow(layers: Sequence[Layer]) -> bool:
    """Return whether no convolution has many channels, so that fused steps are faster than stacked ones."""
    return all(layer.convolution is None or layer.convolution.out_channels <= NARROW for layer in layers)


def chain_of(ensemble: Ensemble, input_shape: Sequence[int]) -> list[Layer] | None:
    """Return the layers of networks that are a plain chain behind their normalisation, else None.

    A Flatten comes before the first linear layer, unless an input is a row of numbers. None is returned for a network
    that may compute something else: one with hooks, a ``forward`` of its own, layers that share parameters, frozen
    parameters, or parameters of another type than torch's default.
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
    names = {id(value): name for name, value in skeleton.named_parameters()}
    layers = _layers(list(_in_order(skeleton.network)), names, len(input_shape))
    if layers is None:
        return None
    found = [name for layer in layers for name in (layer.weight, layer.bias) if name is not None]
    return layers if sorted(found) == sorted(ensemble.params) else None


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


def _layers(parts: Sequence[nn.Module], names: dict[int, str], dimensions: int) -> list[Layer] | None:
    """Return layers with what comes after each, None if other parts are among them.

    Args:
        parts: of the network, in order.
        names: of its parameters.
        dimensions: of an input; of an image there are three.
    """
    layers: list[Layer] = []
    for part in parts:
        if _flattens(part):
            dimensions = 1
        elif (type(part) is nn.Linear and dimensions == 1) or (dimensions == 3 and _convolves(part)):
            layer = cast("nn.Linear | nn.Conv2d", part)
            bias = None if layer.bias is None else names[id(layer.bias)]
            layers.append(Layer(names[id(layer.weight)], bias, layer if isinstance(layer, nn.Conv2d) else None))
        elif layers and _follows(part, layers[-1].after, dimensions):
            layers[-1] = replace(layers[-1], after=_quicker((*layers[-1].after, part)))
        else:
            return None
    return layers if layers and layers[-1].convolution is None and not layers[-1].after else None


def _flattens(part: nn.Module) -> bool:
    return type(part) is nn.Flatten and (part.start_dim, part.end_dim) == (1, -1)


def _convolves(part: nn.Module) -> bool:
    """Return whether a part is a convolution over zeros around the images that has no groups and no dilation."""
    return (
        type(part) is nn.Conv2d
        and not isinstance(part.padding, str)
        and (part.groups, part.dilation, part.padding_mode) == (1, (1, 1), "zeros")
    )


def _follows(part: nn.Module, after: Sequence[nn.Module], dimensions: int) -> bool:
    """Return whether a part can come after a layer and what already comes after it."""
    if type(part) is nn.MaxPool2d:
        return dimensions == 3 and not part.return_indices and not any(type(one) is nn.MaxPool2d for one in after)
    return type(part) in ACTIVATIONS and not any(type(one) in ACTIVATIONS for one in after)


def _quicker(after: tuple[nn.Module, ...]) -> tuple[nn.Module, ...]:
    """Return the same with the pooling before a ReLU, which has less to do then: answers and gradients are equal."""
    return after[::-1] if [type(part) for part in after] == [nn.ReLU, nn.MaxPool2d] else after
