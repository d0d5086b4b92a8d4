"""The keys that a person may have meant by one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

AT_MOST = 3


def nearest_keys(key: str, known: Sequence[str]) -> list[str]:
    """Return up to three known dotted keys that are like one that is unknown, the likeliest first.

    Those that end as it does come first (``lr``: every ``….optimizer.lr``), in its own group where that has any; then
    those that are spelt like it, as a whole or in the last part.

    >>> nearest_keys("unlearner.lr", ["training.optimizer.lr", "unlearner", "unlearner.optimizer.lr"])
    ['unlearner.optimizer.lr']
    """
    last = key.rpartition(".")[2]
    known = [name for name in known if last.startswith("_") or not name.rpartition(".")[2].startswith("_")]
    for ending in dict.fromkeys((f".{key}", f".{last}")):
        if found := [name for name in known if f".{name}".endswith(ending)]:
            return _own_group(key, found)[:AT_MOST]
    if whole := difflib.get_close_matches(key, known, n=1, cutoff=0.85):
        return whole
    names = sorted({name.rpartition(".")[2] for name in known})
    close = difflib.get_close_matches(last, names, n=AT_MOST, cutoff=0.7)
    found = [name for word in close for name in known if name.rpartition(".")[2] == word]
    return _own_group(key, found)[:AT_MOST] or difflib.get_close_matches(key, known, n=1, cutoff=0.5)


def _own_group(key: str, names: Sequence[str]) -> list[str]:
    """Return the names that share the longest beginning with a key, if any do; else all, the shallowest first."""
    shared = {name: _shared(key, name) for name in names}
    most = max(shared.values(), default=0)
    return sorted((name for name in names if shared[name] == most), key=lambda name: name.count("."))


def _shared(key: str, name: str) -> int:
    """Return how many parts two keys have in common at their beginning."""
    count = 0
    for own, other in zip(key.split(".")[:-1], name.split("."), strict=False):
        if own != other:
            break
        count += 1
    return count


def did_you_mean_key(key: str, known: Sequence[str]) -> str:
    """Return ``"; did you mean 'x' or 'y'?"`` for the nearest keys, an empty string if there are none."""
    names = [f"'{name}'" for name in nearest_keys(key, known)]
    if not names:
        return ""
    return f"; did you mean {' or '.join([', '.join(names[:-1]), names[-1]] if names[1:] else names)}?"
