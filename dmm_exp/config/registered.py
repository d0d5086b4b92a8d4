"""Objects of this process that configuration can name, such as a network that exists only in a user's program.

Configuration is plain (names, numbers), so that it can be stored and sent to other processes. What a Python program
hands over is none of that: it is registered here under a name, and configuration holds the name. Such work stays in
this process.
"""

from __future__ import annotations

from typing import Any

from dmm_exp.errors import UserError

REGISTERED = f"{__name__}.network"  # ``_target_`` of the configuration of a registered network
_known: dict[str, Any] = {}


def register(name: str, thing: Any) -> str:
    """Make ``registered(name)`` return ``thing`` from now on, and return the name."""
    _known[name] = thing
    return name


def registered(name: str) -> Any:
    """Return what was registered under a name.

    Raises:
        UserError: this process has registered nothing under it.
    """
    if name not in _known:
        raise UserError(f"'{name}' stands for an object of the program that made it; expected that program to go on")
    return _known[name]


def network(name: str, input_shape: list[int], n_classes: int) -> Any:
    """Return what the registered function of no arguments makes: a freshly initialised network.

    Args:
        name: under which the function is registered.
        input_shape: of the dataset; the function knows it.
        n_classes: of the dataset; the function knows it.
    """
    return registered(name)()
