"""What a new ``_target_`` does to the arguments that a preset gave to another class: it replaces them.

Hydra merges. ``model.network._target_=mynets.Net`` alone would leave the preset's ``hidden`` in the node, an argument
of the class that is no longer there. So wherever a file or a command line names another class than what it is laid
over, only these stay in the node: what it sets there itself, and ``_partial_`` and its like.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmm_exp.config.instantiate import SPECIAL
from dmm_exp.config.loading import File, Files, is_group
from dmm_exp.config.schema import Plain

TARGET = "_target_"
KEPT = set(SPECIAL) - {TARGET, "_args_"}


def laid_over(below: Any, above: Any) -> Any:
    """Return what two plain configurations merge to, where another ``_target_`` replaces the arguments below it.

    A node inside stays where ``above`` sets something of it.

    >>> laid_over({"_target_": "a.A", "size": 3, "_partial_": True}, {"_target_": "b.B", "width": 4})
    {'_partial_': True, '_target_': 'b.B', 'width': 4}
    """
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    replaces = TARGET in above and TARGET in below and above[TARGET] != below[TARGET]
    kept = {key: value for key, value in below.items() if not replaces or key in KEPT}
    return kept | {key: laid_over(below[key], value) if key in below else value for key, value in above.items()}


def names_class(value: Any, key: str = "") -> bool:
    """Say whether a plain value, or the key that it is for, sets a ``_target_``."""
    if key.rpartition(".")[2] == TARGET:
        return True
    return isinstance(value, Mapping) and any(names_class(inner, str(name)) for name, inner in value.items())


def drop_replaced(
    config: Any, overrides: Sequence[Any], choices: Mapping[str, Any], merged: Sequence[Any], loader: Any, files: Files
) -> None:
    """Remove the arguments of replaced classes from what Hydra composed, in place.

    Args:
        config: a DictConfig, which may be changed and is not resolved yet.
        overrides: parsed, with which it was composed.
        choices: group → choice, with which it was composed.
        merged: the files of which it was composed, in their order, Hydra's own left out.
        loader: of Hydra, by which it was composed.
        files: that this loader finds.
    """
    groups = [override for override in overrides if is_group(override, loader)]
    layer = together([override for override in overrides if override not in groups])
    if names_class(layer) or any(_layered(files[path]) for path in _chosen(choices, groups)):
        kept: Any = {}
        for file in merged:
            kept = laid_over(kept, _nested(file.package, files[file.config_path].content))
        _keep_only(config, laid_over(kept, layer))


def together(values: Sequence[Any]) -> Plain:
    """Return parsed overrides as one nested mapping, without those that delete."""
    layer: Plain = {}
    for override in values:
        if not override.is_delete():
            layer = laid_over(layer, _nested(override.key_or_group, override.value()))
    return layer


def _nested(key: str, value: Any) -> Any:
    for name in reversed(key.split(".")) if key else ():
        value = {name: value}
    return value


def _layered(file: File) -> bool:
    """Say whether a chosen file may name another class than what it is laid over."""
    return file.builds_on or (file.everywhere and names_class(file.content))


def _chosen(choices: Mapping[str, Any], groups: Sequence[Any]) -> Iterator[str]:
    """Yield the paths of the files that a configuration was composed of, Hydra's own left out."""
    several = {override.key_or_group: override.value() for override in groups if isinstance(override.value(), list)}
    for group, choice in {**choices, **several}.items():
        if choice is not None and not group.startswith("hydra"):
            yield from (f"{group}/{one}" for one in ([choice] if isinstance(choice, str) else choice))


def _keep_only(config: Any, kept: Plain) -> None:
    """Remove from nodes with a class what ``kept`` does not have there."""
    from omegaconf import DictConfig

    for key in [key for key in config.keys() if key != "hydra"]:  # noqa: SIM118  (iteration hides what has no value)
        node, inner = config._get_node(key), kept.get(key)
        if key not in kept and TARGET in kept:
            del config[key]
        elif isinstance(node, DictConfig) and isinstance(inner, Mapping) and not node._is_none():
            _keep_only(node, inner)
