"""Copies of what OmegaConf holds: its own way of copying took half of a composition."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from omegaconf import Container, Node

N = TypeVar("N", bound="Node | Container")


def copied(node: N) -> N:
    """Return a copy of a configuration that may be changed, with the types, flags and interpolations of the original.

    Args:
        node: without a parent, or a part of a larger configuration, which the copy is no part of.
    """
    return _copied(node, None)


def _copied(node: Any, parent: Any) -> Any:
    """Return a copy of a node whose parent is given."""
    state, made = vars(node), object.__new__(type(node))
    kept = vars(made)  # set there, since containers take what is set on them for their content
    kept.update(state, _parent=parent, _metadata=_metadata(state["_metadata"]))
    kept["_flags_cache"] = copy.copy(state["_flags_cache"])
    content = state.get("_content")  # of containers and unions; a text or None where there is nothing in it
    if isinstance(content, dict):
        kept["_content"] = {key: _copied(value, made) for key, value in content.items()}
    elif isinstance(content, list):
        kept["_content"] = [_copied(value, made) for value in content]
    elif isinstance(content, Node):
        kept["_content"] = _copied(content, made)
    return made


def _metadata(metadata: Any) -> Any:
    made = object.__new__(type(metadata))
    vars(made).update(vars(metadata), flags=copy.copy(metadata.flags))
    if metadata.resolver_cache:
        made.resolver_cache = copy.deepcopy(metadata.resolver_cache)
    else:
        made.resolver_cache = type(metadata.resolver_cache)(metadata.resolver_cache.default_factory)
    return made
