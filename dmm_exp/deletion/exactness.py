"""Whether retraining is exact: which numbers a retrained network would take over from the given one."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dmm_exp.deletion.fresh import Fresh
from dmm_exp.deletion.given import Given
from dmm_exp.errors import UserError, did_you_mean, listed, shown


def check_exact(known: Given, keep: Sequence[str]) -> list[str]:
    """Return the names of the tensors that a retrained network takes over from the given one, all of them wanted.

    Args:
        known: the network and its data.
        keep: names of tensors, or of modules that hold them, which may be taken over.

    Raises:
        UserError: something else would be taken over, so that the result would owe something to the deleted rows; or
            ``keep`` names something that is not taken over.
    """
    found = carried_over(known)
    for name in keep:
        if not any(_covers(name, tensor) for tensor in found):
            there = f"expected some of {listed(found)}" if found else "a retrained network takes over nothing"
            raise UserError(f"keep={shown(name)}: is not taken over by a retrained network; {there}"
                            f"{did_you_mean(name, found)}")  # fmt: skip
    missing = [tensor for tensor in found if not any(_covers(name, tensor) for name in keep)]
    if missing:
        raise UserError(
            f"method=retrain: a retrained network would take over {listed(missing)} from the given one (a frozen "
            "layer, or a buffer that no layer initialises), and with it what these numbers know of the deleted rows; "
            "expected factory=, a function that makes an untrained network with other numbers there, or keep=[names] "
            "to keep them, which the record then states"
        )
    return found


def _covers(name: str, tensor: str) -> bool:
    return tensor == name or tensor.startswith(f"{name}.")


def carried_over(known: Given) -> list[str]:
    """Return the names of the tensors that an untrained network has from the given one, sorted.

    Without a factory, untrained networks are copies whose layers are initialised again. What that leaves as it was is
    found by changing all numbers of the given network first: a tensor that shows the change was not initialised. With a
    factory, it is what training leaves alone (buffers, frozen parameters) and what equals the given network's numbers.
    Tensors that are plain attributes of a module, or arrays, count too.
    """
    given: nn.Module = known.ensemble.member(0).network  # pyright: ignore[reportAssignmentType]
    with torch.random.fork_rng(devices=[]):
        if not known.has_factory:
            changed = _changed(given)
            return sorted(_alike(Fresh(changed)(), changed))
        fresh: nn.Module = known.build().network  # pyright: ignore[reportAssignmentType]
    trained = {name for name, value in fresh.named_parameters(remove_duplicate=False) if value.requires_grad}
    return sorted(name for name in _alike(fresh, given) if name not in trained and not name.endswith(_COUNTER))


_COUNTER = "num_batches_tracked"  # of BatchNorm: starts at zero


def _changed(network: nn.Module) -> nn.Module:
    """Return a copy of a network with another number in every place."""
    changed = copy.deepcopy(network)
    for _, value in _tensors(changed):
        value.data.copy_(~value if value.dtype == torch.bool else value + 1)
    return changed


def _alike(one: nn.Module, other: nn.Module) -> list[str]:
    """Return the names of the tensors that have the same bits in two networks."""
    others = dict(_tensors(other))
    return [name for name, value in _tensors(one) if name in others and torch.equal(value, others[name])]


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of a network by name, those of plain attributes and arrays included; a tied one once a name."""
    yield from network.named_parameters(remove_duplicate=False)
    yield from network.named_buffers(remove_duplicate=False)
    for prefix, module in network.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
                value = torch.from_numpy(value)
            if isinstance(value, Tensor):
                yield f"{prefix}.{name}".lstrip("."), value
