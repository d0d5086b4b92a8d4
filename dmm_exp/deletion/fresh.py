"""Untrained networks of the given one's architecture: copies of it whose layers are initialised once more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dmm_exp.ensembles.skeletons import copied
from dmm_exp.errors import REASON, UserError, explained
from dmm_exp.records.checkpoints import COMPILED

FACTORY = "give factory=, a function that makes an untrained network"


@dataclass(frozen=True)
class Fresh:
    """Makes copies of a network with its layers initialised once more, as PyTorch does.

    A layer whose parameters are all frozen stays as it is.

    Attributes:
        network: is not changed.
    """

    network: nn.Module

    def __call__(self) -> nn.Module:
        """Return an untrained network.

        Raises:
            UserError: a layer cannot be initialised.
        """
        fresh = copied(self.network)
        for name, layer in _children_first(fresh):
            if parametrize.is_parametrized(layer):
                _initialise_parametrised(name, layer)
            else:
                _initialise(name, layer)
        return fresh

    def check_buffers(self, changed: Iterable[str]) -> None:
        """Raise ``UserError`` when an untrained network would begin with statistics of the trained one.

        Args:
            changed: names of the buffers that training changes.
        """
        for name in changed:
            layer = self.network.get_submodule(name.rpartition(".")[0])
            if _reset_of(layer) is None and not callable(getattr(layer, "reset_running_stats", None)):
                raise UserError(
                    f"model: training changes the buffer '{name}', which cannot be initialised again (its layer has no "
                    f"reset_parameters); {FACTORY}"
                )


def uncompiled(network: nn.Module) -> nn.Module:
    """Return a network without ``torch.compile``, of itself and, in place, of its layers."""
    network = network._modules.get(COMPILED) or network
    for name, layer in network.named_children():
        setattr(network, name, uncompiled(layer))
    return network


def _children_first(module: nn.Module, name: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, layer) of all layers, those inside a layer before it, which may initialise them its own way."""
    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    for key, child in module.named_children() if not parametrize.is_parametrized(module) else ():
        yield from _children_first(child, f"{name}.{key}".lstrip("."), seen)
    yield name, module


def _reset_of(layer: nn.Module) -> Any:
    """Return the method of a layer that initialises it, None if there is none."""
    reset = getattr(layer, "reset_parameters", getattr(layer, "_reset_parameters", None))
    return reset if callable(reset) else None


@torch.no_grad()
def _initialise(name: str, layer: nn.Module) -> None:
    """Initialise a layer's own parameters.

    Raises:
        UserError: it has no method for that, or one that leaves some of them as they are.
    """
    own = {key: value for key, value in layer._parameters.items() if value is not None}
    if own and not any(value.requires_grad for value in own.values()):
        return
    reset, said = _reset_of(layer), name or type(layer).__name__
    if reset is None and own:
        raise UserError(f"model: layer '{said}' cannot be initialised again (it has no reset_parameters); {FACTORY}")
    if reset is None:
        return
    for value in own.values():
        value.fill_(torch.nan)  # so that what the method does not fill can be seen
    reset()
    left = [key for key, value in own.items() if value.isnan().any()]
    if left:
        raise UserError(f"model: layer '{said}' does not initialise '{left[0]}' in reset_parameters; {FACTORY}")


def _initialise_parametrised(name: str, layer: nn.Module) -> None:
    """Initialise a layer whose tensors are computed from others (weight normalisation).

    Raises:
        UserError: what they are computed from cannot be found from what they are to be.
    """
    lists: Any = layer.parametrizations
    if any(True for _ in lists.buffers()):
        raise UserError(f"model: layer '{name}' keeps numbers in its parametrization; {FACTORY}")
    plain = copied(layer)
    plain.__class__ = type(layer).__bases__[0]  # not remove_parametrizations, which changes the class of all copies
    del plain._modules["parametrizations"]
    for key in lists:
        trained = any(value.requires_grad for value in lists[key].parameters())
        plain.register_parameter(key, nn.Parameter(getattr(layer, key).detach().clone(), requires_grad=trained))
    _initialise(name, plain)
    sentence = f"model: layer '{name}' cannot be initialised again ({REASON}); {FACTORY}"
    with explained(sentence, NotImplementedError, RuntimeError, AttributeError):
        for key in lists:
            setattr(layer, key, getattr(plain, key).detach())
    with torch.no_grad():
        for key, value in layer._parameters.items():
            if isinstance(value, Tensor):
                value.copy_(plain.get_parameter(key))
