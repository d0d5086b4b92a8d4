"""``scale=…``: any experiment made small, by bounds that nothing in its configuration may exceed.

Bounds are the last thing that happens to a configuration, after experiments, settings, studies and the command line: so
whatever an experiment consists of, the same code runs, on less.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmm_exp.config.schema import Config, Node, Plain
from dmm_exp.errors import UserError

EACH = "each"  # stands for all keys of a part whose names a user chooses, as in scale.pool.designs.each.members


def scaled(config: Plain) -> Node:
    """Return a configuration none of whose values exceeds what its ``scale`` has in its place.

    Numbers, and those in lists, become the bound where they are larger; None (all there is) and ``auto`` become the
    bound, too. A bound on what a choice does not have, such as the epochs of ``unlearner=ssd``, bounds nothing. To
    bound twice is to bound once.

    Args:
        config: resolved, as plain containers; without ``scale`` it is returned as it is.

    Raises:
        UserError: a bound is no number, or on what is none; or the network has nothing that could be made smaller.
    """
    bounds = config.get("scale")
    if not bounds:
        return dict(config)
    _check_network(config, bounds)
    return _bounded(config, bounds, "")


def scaled_part(group: str, node: Plain, config: Config) -> Node:
    """Return the configuration of a group that was composed on its own, within the bounds of ``config``."""
    bounds = (config.scale or {}).get(group)
    return _bounded(node, bounds, f"{group}.") if bounds else dict(node)


def _bounded(node: Plain, bounds: Plain, prefix: str) -> Node:
    found = dict(node)
    for key, bound in _named(bounds, node):
        if key not in node or bound is None:
            continue
        value, name = node[key], f"{prefix}{key}"
        if isinstance(bound, Mapping):
            found[key] = _bounded(value, bound, f"{name}.") if isinstance(value, Mapping) else value
        elif isinstance(bound, bool) or not isinstance(bound, (int, float)):
            raise UserError(f"scale.{name}={bound}: expected a number, the largest that {name} may be")
        else:
            found[key] = _at_most(value, bound, name)
    return found


def _named(bounds: Plain, node: Plain) -> list[tuple[str, Any]]:
    """Return bounds with their keys; one on ``each`` with every key that a part of the configuration has."""
    return [(name, bound) for key, bound in bounds.items() for name in (node if key == EACH else [key])]


def _at_most(value: Any, bound: float, name: str) -> Any:
    if value is None or value == "auto":
        return bound
    if isinstance(value, list):
        smaller = [_at_most(element, bound, name) for element in value]
        return sorted(set(smaller)) if name.endswith("epochs") else smaller  # numbers of epochs to stop at are distinct
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"scale.{name}={bound}: {name}={value} is no number that could be smaller")
    return min(value, bound)


def _check_network(config: Plain, bounds: Plain) -> None:
    """Refuse a network of which nothing can be made smaller."""
    sizes = (bounds.get("model") or {}).get("network")
    network = config["model"]["network"]
    if sizes and not set(sizes) & set(network):
        raise UserError(
            f"scale: {network.get('_target_')} has no model.network.{' or '.join(sizes)} to make smaller; choose "
            "another network, or keep this one's size with scale.model.network=null"
        )
