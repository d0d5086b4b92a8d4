"""What a folder of the store says of itself, read as what a stranger may have written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmm_exp.files.digests import digest_of
from dmm_exp.files.reading import Json, is_real_folder, plain_name, read_json

MANIFEST = "manifest.json"
LAYOUT = "layout.json"
SEAL = "checksum"  # key of a JSON object under which its own checksum stands
_SHA256 = re.compile("[0-9a-f]{64}")


def sealed(value: Json) -> Json:
    """Return a JSON object with its own checksum."""
    return {**value, SEAL: digest_of(value)}


def is_intact(value: Any) -> bool:
    """Say whether this is a JSON object as it was sealed. The seal tells damage, and not who wrote it."""
    if not isinstance(value, dict):
        return False
    try:
        return value.get(SEAL) == digest_of({key: found for key, found in value.items() if key != SEAL})
    except (ValueError, RecursionError):
        return False  # it holds what is never written: NaN, infinities, half a character


def read_manifest(folder: Path) -> Json:
    """Return what an artifact's manifest says, if it is sealed and every value is of its kind.

    Raises:
        OSError: there is none that can be read, or the folder is a link.
        ValueError: it is damaged, or names files that are not directly in the folder.
    """
    if not is_real_folder(folder):
        raise ValueError(f"{folder} is no folder, or a link to one")
    found = read_json(folder / MANIFEST, links=False)
    if not is_intact(found):
        raise ValueError("its seal is missing or broken")
    for key, is_right in _KINDS.items():
        if not is_right(found.get(key)):
            raise ValueError(f"its '{key}' is not what a manifest has there")
    return found


def read_layout(folder: Path) -> list[list[int]]:
    """Return the members ``[start, stop]`` of every shard, as recorded; empty when that is missing or damaged."""
    try:
        layout = read_json(folder / LAYOUT, links=False)
        starts = [0, *(stop for _, stop in layout)]
        whole = [start for start, _ in layout] == starts[:-1] and starts == sorted(set(starts))
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return layout if whole and all(type(start) is int for start in starts) else []


def read_receipt(path: Path) -> Json:
    """Return what was recorded with a shard.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    receipt = read_json(path, links=False)
    if not is_intact(receipt) or not all(is_right(receipt.get(key)) for key, is_right in _RECEIPT.items()):
        raise ValueError("it is damaged")
    return receipt


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _mapping_of(is_key: Callable[[Any], bool], is_value: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a test for mappings of such keys to such values."""
    return lambda value: (
        isinstance(value, dict) and all(is_key(key) and is_value(inner) for key, inner in value.items())
    )


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


def _is_checksum(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _optional(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_right(value)


def _is_seconds(value: Any) -> bool:
    return isinstance(value, dict) and _is_number(value.get("wall")) and _is_number(value.get("cpu"))


def _is_file(name: Any) -> bool:
    return plain_name(name) and name != MANIFEST


_texts = _mapping_of(_is(str), _is(str))
_counts = _mapping_of(_is(str), _is(int))
_KINDS: dict[str, Callable[[Any], bool]] = {
    "kind": plain_name,
    "format": _is(int),
    "config": _is(dict),
    "inputs": _texts,
    "families": _optional(_texts),
    "taken_over": _optional(_counts),
    "seconds": _is_seconds,
    "files": _mapping_of(_is_file, _is_checksum),
    "dmm_exp": _is(str),
    "commit": _optional(_is(str)),
    "device": _is(str),
}
_RECEIPT: dict[str, Callable[[Any], bool]] = {
    "sha256": _is_checksum,
    "facts": _is(dict),
    "cpu": _is_number,
    "process": _is(int),
    "members": _optional(_is(list)),
    "taken_over": _optional(_counts),
}
