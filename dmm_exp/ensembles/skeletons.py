"""Copies of a network with other tensors: skeletons, which hold no numbers, and networks for single members."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def copied(module: nn.Module, others: Mapping[int, Any] | None = None) -> Any:
    """Return a deep copy of a module.

    Tensors that ``forward`` has stored in attributes are copied without their graph, which cannot be copied.

    Args:
        module: is not changed.
        others: replacements of its tensors, by their ``id``.
    """
    computed = (value for _, value in plain_tensors(module) if not value.is_leaf)
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in computed} | dict(others or {}))


def plain_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, value) of tensors that are attributes of layers, but neither parameters nor buffers."""
    for layer_name, layer in module.named_modules():
        for key, value in vars(layer).items():
            held = value if isinstance(value, (list, tuple)) else [value]
            yield from ((f"{layer_name}.{key}".lstrip("."), one) for one in held if isinstance(one, Tensor))


def skeleton_of(module: nn.Module) -> nn.Module:
    """Return a copy of a module on the meta device, where it holds no numbers."""
    return with_tensors(module, lambda _, value: value.detach().to("meta"))


def with_tensors(module: nn.Module, tensor: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """Return a copy of a module with other tensors in place of its own; shared tensors (tied weights) stay shared.

    Args:
        module: is not changed.
        tensor: from the name and the value of a parameter or buffer to its replacement.
    """
    others: dict[int, Tensor] = {id(value): tensor(name, value) for name, value in module.named_buffers()}
    for name, value in module.named_parameters():
        others[id(value)] = nn.Parameter(tensor(name, value), requires_grad=value.requires_grad)
    return copied(module, others)


class Mounted:
    """A network for one member, whose tensors are replaced before a call and stay in place afterwards.

    ``torch.func.functional_call`` restores a module's own tensors as soon as ``forward`` ends. But ``forward`` may run
    again in the backward pass (activation checkpointing), and then needs the same tensors. Attributes that ``forward``
    sets, such as counters, belong to this member alone, too.

    Args:
        skeleton: of the architecture; it is not changed.
    """

    def __init__(self, skeleton: nn.Module) -> None:
        self.module = copied(skeleton)
        self._places: dict[str, list[tuple[dict[str, Any], str]]] = {}
        names: dict[int, str] = {}
        for layer_name, layer in self.module.named_modules(remove_duplicate=False):
            for held in (layer._parameters, layer._buffers):
                for key, value in held.items():
                    if value is not None:
                        name = names.setdefault(id(value), f"{layer_name}.{key}".lstrip("."))
                        self._places.setdefault(name, []).append((held, key))

    def __call__(self, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the network's outputs with a member's parameters and buffers, by their names."""
        for name, value in tensors.items():
            for held, key in self._places[name]:
                held[key] = value
        return self.module(inputs)

    def replaced(self, tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
        """Return the buffers, of some names, that forward did not change in place but replaced."""
        found = {}
        for name in names:
            held, key = self._places[name][0]
            if held[key] is not tensors[name]:
                found[name] = held[key].detach()
        return found


def set_mode(module: nn.Module, training: bool, freeze_batch_norm: bool) -> None:
    """Put a network into train or eval mode, BatchNorm always into eval mode if it is frozen."""
    module.train(training)
    for layer in module.modules() if freeze_batch_norm else ():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()


def detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of tensors, without their graphs."""
    return {name: torch.clone(value.detach()) for name, value in tensors.items()}
