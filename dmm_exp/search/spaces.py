"""What a search may choose from: candidates for some keys of an unlearner's configuration."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dmm_exp.config.schema import Node, Plain
from dmm_exp.errors import UserError, did_you_mean

Settings = dict[str, Any]  # dotted key of the unlearner's configuration → value
SPACES = "hparams_search.spaces"
NEAR_END = 0.1  # share of a range's width


@dataclass(frozen=True)
class Range:
    """All numbers between two, for searches that can draw from them.

    Attributes:
        low: smallest value.
        high: largest value.
        log: whether equal factors, rather than equal differences, are equally likely.
        limits: whether there is nothing below the smallest, and above the largest value.
    """

    low: float
    high: float
    log: bool = False
    limits: tuple[bool, bool] = (False, False)

    def near_end(self, value: float) -> tuple[bool, bool]:
        """Return whether a value lies in the lowest, or in the highest tenth of the range."""
        low, high, at = (math.log(number) if self.log else number for number in (self.low, self.high, value))
        place = (at - low) / (high - low)
        return place < NEAR_END, place > 1 - NEAR_END

    def widened(self, value: float) -> Range:
        """Return the range with an end moved away, by half of its width, if a value is near it and it is no limit."""
        (below, above), (least, most) = self.near_end(value), self.limits
        low = self._moved(-1) if below and not least else self.low
        return replace(self, low=low, high=self._moved(1) if above and not most else self.high)

    def _moved(self, direction: int) -> float:
        end = self.low if direction < 0 else self.high
        moved = end * (self.high / self.low) ** (direction / 2) if self.log else end + direction * self.width / 2
        if not self.whole:
            return moved
        away = min(round(moved), end - 1) if direction < 0 else max(round(moved), end + 1)
        return max(1, away) if self.log else away

    @property
    def width(self) -> float:
        """Difference of the ends."""
        return self.high - self.low

    @property
    def whole(self) -> bool:
        """Whether the numbers are whole."""
        return isinstance(self.low, int) and isinstance(self.high, int)


def read_space(spaces: Plain, name: str, unlearner: Plain) -> dict[str, list[Any] | Range]:
    """Return the candidates for every key that is searched, by dotted key.

    Args:
        spaces: by unlearner, nested as its configuration is: each leaf is a list of values, or a range written as
            ``LOW..HIGH`` or ``LOW..HIGH log``; a bracket, as in ``[1..8`` or ``0.1..1]``, says that there is nothing
            beyond.
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
    limits = ends.startswith("["), ends.endswith("]")
    try:
        low, high = (json.loads(end) for end in ends.removeprefix("[").removesuffix("]").split(".."))
        found = Range(low, high, log, limits)
        if low < high and (low > 0 or not log):
            return found
    except (ValueError, TypeError):
        pass
    raise UserError(f"{path}={text}: expected LOW..HIGH with LOW < HIGH, or LOW..HIGH log with 0 < LOW < HIGH")


def at_ends(space: Mapping[str, list[Any] | Range], settings: Settings) -> list[str]:
    """Return the keys at which settings lie at an end of what could be chosen, where that end is no limit."""
    return [key for key, values in space.items() if _at_end(values, settings[key])]


def _at_end(values: list[Any] | Range, value: Any) -> bool:
    if isinstance(values, Range):
        return any(near and not limit for near, limit in zip(values.near_end(value), values.limits, strict=True))
    numbers = [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]
    return len(numbers) > 1 and value in (min(numbers), max(numbers))


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
