"""How figures draw methods, and the references among them."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

from dmm_exp.config.folders import config_directory
from dmm_exp.report.palette import LOOKS


def roles_beside(methods: Iterable[str], references: Collection[str]) -> dict[str, str]:
    """Return the role of every method; references are grey, and only their shapes differ.

    Args:
        methods: names; of two that fall on the same look, the later takes the next.
        references: those of the methods that take no part in a ranking.
    """
    roles = method_roles(methods)
    grey = {method: f"other{place}" for place, method in enumerate(sorted(references))}
    return {method: grey.get(method, role) for method, role in roles.items()}


def method_roles(methods: Iterable[str]) -> dict[str, str]:
    """Return the role of every method, so that it has one colour, shape and line on every page and in every file.

    Our own methods have their place in the alphabet. Any other has one that follows from its name, among the looks that
    are left; of two that fall on the same look, the later in the order given takes the next.
    """
    names, own = list(dict.fromkeys(methods)), _own_methods()
    roles = {name: own.index(name) for name in names if name in own}
    left = max(LOOKS - len(own), 1)
    for name in (name for name in names if name not in own):
        place = zlib.crc32(name.encode()) % left
        taken = {value - len(own) for value in roles.values()}
        free = next((step for step in range(left) if (place + step) % left not in taken), 0)
        roles[name] = len(own) + (place + free) % left
    return {name: f"series{roles[name]}" for name in names}


@cache
def _own_methods() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in Path(config_directory(), "unlearner").glob("*.yaml")))
