"""What a search may choose from: candidates for some keys of an unlearner's configuration."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dmm_exp.config.schema import Node, Plain
from dmm_exp.errors import UserError, did_you_mean

Settings = dict[str, Any]  # dotted key of the unlearner's configuration → value
SPACES = "hparams_search.spaces"


@dataclass(frozen=True)
class Range:
    """All numbers between two, for searches that can draw from them.

    Attributes:
        low: smallest value.
        high: largest value.
        log: whether equal factors, rather than equal differences, are equally likely.
    """

    low: float
    high: float
    log: bool = False


def read_space(spaces: Plain, name: str, unlearner: Plain) -> dict[str, list[Any] | Range]:
    """Return the candidates for every key that is searched, by dotted key.

    Args:
        spaces: by unlearner, nested as its configuration is: each leaf is a list of values, or a range written as
            ``LOW..HIGH`` or ``LOW..HIGH log``.
        name: the unlearner's choice.
        unlearner: its configuration.

    Raises:
        UserError: there is no space for this unlearner, or one of its keys or values cannot be.
    """
    if not spaces.get(name):
        key = next((key for key in unlearner if not key.startswith("_")), "key")
        raise UserError(f"{SPACES} has none for unlearner={name}; give one, as in +{SPACES}.{name}.{key}=[1,2]")
    space = dict(_leaves(spaces[name], f"{SPACES}.{name}", ""))
    known = settings_of(unlearner)
    for key in space:
        if key not in known:
            raise UserError(f"{SPACES}.{name}.{key}: unlearner={name} has no such key{did_you_mean(key, known)}")
    return space


def _leaves(node: Any, path: str, prefix: str) -> Iterator[tuple[str, list[Any] | Range]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, path, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, list) and node:
        yield prefix, node
    elif isinstance(node, str):
        yield prefix, _range(node, f"{path}.{prefix}")
    else:
        raise UserError(f"{path}.{prefix}={node}: expected a list of values, or a range such as 1e-4..1e-2 log")


def _range(text: str, path: str) -> Range:
    ends, log = (text.removesuffix("log").strip(), True) if text.endswith("log") else (text, False)
    try:
        low, high = (json.loads(end) for end in ends.split(".."))
        found = Range(low, high, log)
        if low < high and (low > 0 or not log):
            return found
    except (ValueError, TypeError):
        pass
    raise UserError(f"{path}={text}: expected LOW..HIGH with LOW < HIGH, or LOW..HIGH log with 0 < LOW < HIGH")


def grid(space: Mapping[str, list[Any] | Range]) -> Iterator[Settings]:
    """Yield every combination of a space's values.

    Raises:
        UserError: one of them is a range.
    """
    lists: dict[str, list[Any]] = {}
    for key, values in space.items():
        if isinstance(values, Range):
            raise UserError(f"{key}={values}: a grid needs a list of values; hparams_search=optuna takes ranges")
        lists[key] = values
    for values in itertools.product(*lists.values()):
        yield dict(zip(lists, values, strict=True))


def settings_of(unlearner: Plain, prefix: str = "") -> Settings:
    """Return a configuration's values by dotted key."""
    values: Settings = {}
    for key, value in unlearner.items():
        if isinstance(value, Mapping):
            values |= settings_of(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def with_settings(unlearner: Plain, settings: Settings) -> Node:
    """Return a configuration with other values at some dotted keys."""
    changed = dict(unlearner)
    for key, value in settings.items():
        first, _, rest = key.partition(".")
        changed[first] = with_settings(changed.get(first) or {}, {rest: value}) if rest else value
    return changed
