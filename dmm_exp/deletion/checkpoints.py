"""Networks from files: safetensors, a plain state dict, or a Lightning checkpoint; never by code that a file holds."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmm_exp.errors import UserError, reason_of, shown
from dmm_exp.store.files import write_tensors


def fill(network: nn.Module, path: Path) -> nn.Module:
    """Load a checkpoint into a network of its architecture, and return the network.

    Names in the file may have something in front (``model.``, as in a Lightning module that holds the network,
    ``module.`` of DataParallel, ``_orig_mod.`` of ``torch.compile``); tensors that are not the network's (of a loss, of
    an optimizer) are then passed over.

    Args:
        network: is changed.
        path: of a file ending in ``.safetensors``, or one that ``torch.save`` or Lightning wrote.

    Raises:
        UserError: the file cannot be read, would run code, or does not fit the network.
    """
    tensors = read_tensors(path)
    expected = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    plain = {_uncompiled(name): value for name, value in tensors.items()}
    names = {name: _uncompiled(name) for name in expected}
    first = next(iter(names.values()), "")
    prefixes = sorted((name[: -len(first)] for name in plain if first and name.endswith(first)), key=len)
    for prefix in prefixes:
        if all(prefix + name in plain for name in names.values()):
            return _filled(network, {key: plain[prefix + name] for key, name in names.items()}, expected, path)
    missing = [key for key, name in names.items() if not any(there.endswith(name) for there in plain)]
    there = ", ".join(list(tensors)[:3])
    raise UserError(
        f"{path}: has no tensor for '{next(iter(missing or names), 'anything')}' of the network (it has {there}, ...); "
        "expected a checkpoint of this network"
    )


def _filled(network: nn.Module, found: dict[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> nn.Module:
    for key, value in found.items():
        if value.shape != expected[key].shape:
            shapes = f"{list(value.shape)}, that of the network {list(expected[key].shape)}"
            raise UserError(f"{path}: '{key}' is {shapes}; expected a checkpoint of this network")
    try:
        network.load_state_dict(found, strict=False)  # what is no tensor stays as it is
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{path}: does not fit the network ({error}); expected a checkpoint of it") from error
    return network


def _uncompiled(name: str) -> str:
    """Return the name that a tensor has without ``torch.compile``."""
    return name.replace("_orig_mod.", "")


def weights_digest(network: nn.Module) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of a network's tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_network(path: Path, network: nn.Module) -> None:
    """Write a network's state dict as safetensors, atomically; :func:`fill` reads it.

    Tensors that share memory (tied weights, views) are written in full under each name, so that the file can be loaded
    without knowing of it.

    Raises:
        UserError: the state of a module holds something else than tensors.
    """
    state = network.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise UserError(f"model: '{name}' of its state is a {type(value).__name__}, which safetensors cannot hold")
    write_tensors(path, {name: value.detach().clone() for name, value in state.items()})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name.

    Raises:
        UserError: the file cannot be read, or holds something else than numbers, which would run code.
    """
    if not os.path.isfile(path):
        raise UserError(f"{shown(path)}: there is no such file; expected a checkpoint")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError

        try:
            return _safetensors(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: cannot be read as safetensors ({error})") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: holds more than numbers and would run code when it is loaded, which is refused; expected a state "
            "dict (torch.save(model.state_dict(), FILE)) or safetensors"
        ) from error
    except Exception as error:
        raise UserError(f"{path}: cannot be read as a checkpoint ({reason_of(error)})") from error
    return _state(content, path)


def _safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file; of tied ones ``safetensors.torch.save_model`` keeps one and says who shares it."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        shared: dict[str, str] = file.metadata() or {}
    return tensors | {name: tensors[kept] for name, kept in shared.items() if name not in tensors and kept in tensors}


def _state(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of what a file holds: a state dict, or one under the name that Lightning and others use."""
    for name in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise UserError(f"{path}: holds no tensors by name; expected a state dict")
    return tensors
