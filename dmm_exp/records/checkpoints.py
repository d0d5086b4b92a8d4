"""Networks from files: safetensors, a plain state dict, or a Lightning checkpoint; never by code that a file holds."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dmm_exp.errors import REASON, UserError, explained, listed, shown
from dmm_exp.files.reading import check_archive
from dmm_exp.files.writing import write_tensors

Tensors = dict[str, Tensor]
COUNTER = "num_batches_tracked"  # of BatchNorm: older files have none
NAMED = 4  # names that a message lists
DEPTH = 8  # mappings in mappings that are looked into
COMPILED = "_orig_mod"  # the name that torch.compile gives the network that it wraps
WHOLE, FRACTIONS = "whole numbers", "numbers with a fraction"
ORDINARY = (WHOLE, FRACTIONS)  # what can be loaded


def fill(network: nn.Module, path: Path, prefix: str | None = None, *, key: str = "prefix") -> nn.Module:
    """Load a checkpoint into a network of its architecture, and return the network.

    Names in the file may have a prefix that ends at a dot: ``model.`` in a Lightning module that holds the network,
    ``module.`` of DataParallel, ``state_dict.`` for a mapping in a mapping. ``_orig_mod.`` of ``torch.compile`` may
    stand anywhere. Tensors without the prefix (of a loss, of an optimizer) are passed over; all that have it must be
    the network's, and all of the network's must be there, as PyTorch's strict loading wants it.

    Args:
        network: is changed.
        path: of a file ending in ``.safetensors``, or one that ``torch.save`` or Lightning wrote.
        prefix: of the network's names, or how it ends (``student.`` for ``state_dict.student.``). By default the one
            under which the network fits.
        key: what the prefix is called in messages.

    Raises:
        UserError: the file cannot be read, would run code, does not fit the network, or several of its networks do.
    """
    if prefix is not None and not isinstance(prefix, str):
        raise UserError(f"{key}={shown(prefix)}: expected what stands before the network's names, such as {key}=model.")
    own, tensors = _tensors_of(network), read_tensors(path)
    expected = {uncompiled_name(name): value for name, value in own.items()}
    fitting = [found for found in _prefixes(tensors, expected) if _fits(tensors, expected, found)]
    chosen = _chosen(tensors, expected, fitting, prefix, path, key)
    if chosen is None:
        raise UserError(f"{path}: {_misfit(tensors, expected, prefix)}; expected a checkpoint of this network")
    _check_leftover(tensors, expected, fitting, chosen, path)
    names = {name: chosen + uncompiled_name(name) for name in own}
    _load(network, {name: tensors[found] for name, found in names.items() if found in tensors}, path)
    return network


def uncompiled_name(name: str) -> str:
    """Return the name that a tensor has in the network before ``torch.compile``."""
    return name.replace(f"{COMPILED}.", "")


def _tensors_of(network: nn.Module) -> Tensors:
    """Return the tensors that a checkpoint has to have.

    Raises:
        UserError: some have no shape yet, or something of the state is no tensor, which no file of numbers holds.
    """
    state = {name: value for name, value in network.state_dict().items() if value is not None}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise UserError(f"model: '{name}' of its state is a {type(value).__name__}; expected tensors alone")
        if nn.parameter.is_lazy(value):
            raise UserError(f"model: '{name}' has no shape yet; expected a network without lazy layers")
    return state


# ---------------------------------------------------------------------- which tensors of the file


def _prefixes(tensors: Tensors, expected: Tensors) -> list[str]:
    """Return what stands before the first of the network's names in the file, shortest first."""
    first = next((name for name in expected if not name.endswith(COUNTER)), "")
    found = (name.removesuffix(first) for name in tensors if first and name.endswith(first))
    return sorted(dict.fromkeys(prefix for prefix in found if prefix == "" or prefix.endswith(".")), key=len)


def _fits(tensors: Tensors, expected: Tensors, prefix: str) -> bool:
    """Return whether all of the network's tensors are there with this prefix; older files have no counters."""
    found = {name: tensors.get(prefix + name) for name in expected}
    return all(
        name.endswith(COUNTER) if value is None else value.shape == expected[name].shape
        for name, value in found.items()
    )


def _chosen(
    tensors: Tensors, expected: Tensors, fitting: list[str], prefix: str | None, path: Path, key: str
) -> str | None:
    """Return the prefix of the network in the file; None if none fits.

    Raises:
        UserError: several fit and hold different numbers.
    """
    matching = fitting
    if prefix is not None:
        wanted = _ended(prefix)
        matching = [wanted] if wanted in fitting else [one for one in fitting if wanted and one.endswith(f".{wanted}")]
    if len(matching) > 1 and len({_digest_under(tensors, expected, one) for one in matching}) > 1:
        names = ", ".join(f"'{one}'" for one in matching)
        raise UserError(
            f"{path}: holds several networks that fit, whose names begin with {names}; say which one with "
            f"{key}={matching[-1]}"
        )
    return matching[0] if matching else None


def _ended(prefix: str) -> str:
    return prefix if prefix == "" or prefix.endswith(".") else f"{prefix}."


def _digest_under(tensors: Tensors, expected: Tensors, prefix: str) -> str:
    found = {name: tensors.get(prefix + name) for name in expected}
    return _digest((name, value) for name, value in found.items() if value is not None and _kind(value) in ORDINARY)


def _check_leftover(tensors: Tensors, expected: Tensors, fitting: list[str], prefix: str, path: Path) -> None:
    """Raise ``UserError`` if the file has more under a prefix than the network, and than other networks that fit."""
    taken = {found + name for found in fitting for name in expected}
    left = [name for name in tensors if name.startswith(prefix) and name not in taken]
    if left:
        under = f" under '{prefix}'" if prefix else ""
        raise UserError(
            f"{path}: holds tensors{under} that the network does not have ({listed(left, NAMED)}); expected a "
            "checkpoint of this network"
        )


def _misfit(tensors: Tensors, expected: Tensors, prefix: str | None) -> str:
    """Say why a network does not fit: a shape, or a name, under the prefix with the most of the network's names."""
    ends = ["" if prefix is None else _ended(prefix)]
    ends += [name.removesuffix(own) for name in tensors for own in expected if name.endswith(f".{own}")]
    if prefix is not None:
        ends = [end for end in ends if end == ends[0] or end.endswith(f".{ends[0]}")]
    best = max(dict.fromkeys(ends), key=lambda end: sum(end + own in tensors for own in expected))
    for own, value in expected.items():
        found = tensors.get(best + own)
        if found is not None and found.shape != value.shape:
            return f"'{best}{own}' is {list(found.shape)}, that of the network {list(value.shape)}"
    missing = [own for own in expected if best + own not in tensors and not own.endswith(COUNTER)]
    first = f"{best}{(missing or ['anything'])[0]}"
    return f"has no tensor for '{first}' of the network (it has {listed(list(tensors), NAMED)})"


# ---------------------------------------------------------------------- into the network


def _load(network: nn.Module, found: Tensors, path: Path) -> None:
    """Fill a network with tensors of its shapes, and see that it holds them afterwards.

    Raises:
        UserError: they are of another kind than those of the network, or it cannot hold them.
    """
    own = _tensors_of(network)
    for name, value in found.items():
        if (kind := _kind(value)) != _kind(own[name]) or kind not in ORDINARY:
            raise UserError(
                f"{path}: '{name}' holds {kind} ({_type(value)}), that of the network {_kind(own[name])} "
                f"({_type(own[name])}); expected numbers of the same kind"
            )
    with explained(
        f"{path}: does not fit the network ({REASON}); expected a checkpoint of it", RuntimeError, TypeError
    ):
        network.load_state_dict(found, strict=False)  # what is no tensor, and counters, stay as they are
    for name, value in _tensors_of(network).items():
        if name in found and not _holds(value, found[name]):
            raise UserError(
                f"{path}: the network does not hold '{name}' as it is in the file, perhaps because layers share it; "
                "expected a checkpoint of this network"
            )


def _holds(own: Tensor, wanted: Tensor) -> bool:
    """Return whether a tensor holds the numbers of another, as far as its precision goes."""
    if own.is_floating_point():
        return torch.equal(own.nan_to_num(), wanted.to(own).nan_to_num())
    return torch.equal(own.to(wanted), wanted)


def _kind(value: Tensor) -> str:
    """Return in words what kind of numbers a tensor holds; only ordinary ones can be loaded."""
    if value.is_meta:
        return "no numbers"
    if value.is_quantized or value.layout != torch.strided:
        return "packed numbers"
    if value.is_complex():
        return "complex numbers"
    return FRACTIONS if value.is_floating_point() else WHOLE


def _type(value: Tensor) -> str:
    return f"{value.dtype}".removeprefix("torch.") + ("" if value.layout == torch.strided else f", {value.layout}")


def weights_digest(network: nn.Module) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of a network's tensors, in hexadecimal."""
    return _digest((name, value) for name, value in network.state_dict().items() if isinstance(value, Tensor))


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, value in tensors:
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
    check_state(network)
    write_tensors(path, {name: value.detach().clone() for name, value in network.state_dict().items()})


def check_state(network: nn.Module) -> None:
    """Raise ``UserError`` for a network whose state holds something else than tensors, which no file here can hold."""
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            raise UserError(f"model: '{name}' of its state is a {type(value).__name__}, which safetensors cannot hold")


# ---------------------------------------------------------------------- the file


def read_tensors(path: Path) -> Tensors:
    """Return the tensors of a checkpoint, by their names without ``_orig_mod.`` of ``torch.compile``.

    Those of a mapping in a mapping have its name and a dot in front.

    Raises:
        UserError: the file cannot be read, or holds something else than numbers, which would run code.
    """
    if not os.path.isfile(path):
        raise UserError(f"{shown(path)}: there is no such file; expected a checkpoint")
    if path.suffix == ".safetensors":
        with explained(f"{path}: cannot be read as safetensors ({REASON})", SafetensorError, OSError):
            return _named(_safetensors(path).items(), path)
    code = (
        f"{path}: holds more than numbers and would run code when it is loaded, which is refused; expected a state "
        "dict (torch.save(model.state_dict(), FILE)) or safetensors"
    )
    with explained(f"{path}: cannot be read as a checkpoint ({REASON})"), explained(code, pickle.UnpicklingError):
        check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    if tensors := _named(_within(content), path):
        return tensors
    names = [str(name) for name in content] if isinstance(content, Mapping) else []
    held = f" (it has {listed(names)})" if names else ""
    raise UserError(f"{path}: holds no tensors by name{held}; expected a state dict")


def _safetensors(path: Path) -> Tensors:
    """Return the tensors of a file; of tied ones ``safetensors.torch.save_model`` keeps one and says who shares it."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        shared: dict[str, str] = file.metadata() or {}
    return tensors | {name: tensors[kept] for name, kept in shared.items() if name not in tensors and kept in tensors}


def _within(content: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of mappings in mappings, by their names with dots between."""
    for name, value in content.items() if isinstance(content, Mapping) and depth < DEPTH else ():
        if not isinstance(value, Tensor):
            yield from _within(value, f"{prefix}{name}.", depth + 1)
        elif not value.is_nested:
            yield f"{prefix}{name}", value


def _named(pairs: Iterable[tuple[str, Tensor]], path: Path) -> Tensors:
    """Return tensors by name, if no two of them have the same name for a network."""
    tensors: Tensors = {}
    written: dict[str, str] = {}
    for name, value in pairs:
        plain = uncompiled_name(name)
        if plain in tensors:
            raise UserError(
                f"{path}: '{shown(written[plain])}' and '{shown(name)}' are the same name, but for torch.compile and "
                "levels of nesting; expected one of them"
            )
        tensors[plain], written[plain] = value, name
    return tensors
