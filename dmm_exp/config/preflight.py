"""Refuse a bad command line in one sentence, before anything is computed or written.

Hydra's own messages need a reader who knows Hydra; here every override is compared with what exists, and what does not
exist gets a suggestion.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dmm_exp.config.folders import further_folders
from dmm_exp.config.scale import scaled
from dmm_exp.errors import UserError, did_you_mean

OPTIONAL = ("experiment", "hparams_search", "scale")  # groups that may be left out
Composed = list[tuple[dict[str, Any], dict[str, str]]]  # a configuration and group → choice for every cell


def check_overrides(config_dir: str, overrides: Sequence[str], more: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Compose every configuration that a command line stands for, and return each as plain resolved containers.

    A plain command line stands for one, a sweep (``key=a,b``) for one a cell.

    Args:
        config_dir: absolute path of the folder with ``config.yaml``.
        overrides: as on the command line.
        more: absolute paths of further folders to look for groups in (``--config-dir``).

    Raises:
        UserError: a misspelt key, value or choice.
    """
    return [config for config, _ in compose_cells(config_dir, overrides, more)]


def compose_cells(config_dir: str, overrides: Sequence[str], more: Sequence[str] = ()) -> Composed:
    """Do what :func:`check_overrides` does, and return with each configuration the choice of every group."""
    with composer(config_dir, more) as compose:
        return compose(overrides)


@contextmanager
def composer(config_dir: str, more: Sequence[str] = ()) -> Iterator[Callable[[Sequence[str]], Composed]]:
    """Give a function that does what :func:`compose_cells` does, for many command lines.

    Args:
        config_dir: absolute path of the folder with ``config.yaml``.
        more: absolute paths of further folders to look for groups in (``--config-dir``).
    """
    with config_loader(config_dir, more) as loader:
        yield lambda overrides: [_compose_checked(cell, loader) for cell in _cells(_parse(overrides, loader))]


def has_choice(config_dir: str, group: str, choice: str, more: Sequence[str] = ()) -> bool:
    """Say whether a group has a choice, which may lie in a folder of the group."""
    with config_loader(config_dir, more) as loader:
        return _is_choice(choice, group, loader)


def _is_choice(choice: str, group: str, loader: Any) -> bool:
    folder, _, name = choice.rpartition("/")
    return name in options_of(f"{group}/{folder}" if folder else group, loader)


def options_of(group: str, loader: Any) -> list[str]:
    """Return the choices of a group, sorted; Hydra's own function copies everything it knows whenever it is asked."""
    from hydra.core.object_type import ObjectType

    return sorted(set(_listed(group, ObjectType.CONFIG, loader)))


def groups_of(loader: Any, parent: str = "") -> Iterator[str]:
    """Yield every group that has choices, a group within another one as ``outer/inner``."""
    from hydra.core.object_type import ObjectType

    for name in sorted(set(_listed(parent, ObjectType.GROUP, loader))):
        group = f"{parent}/{name}" if parent else name
        if options_of(group, loader):
            yield group
        yield from groups_of(loader, group)


def _listed(group: str, kind: Any, loader: Any) -> Iterator[str]:
    for source in loader.get_sources():
        if source.is_group(group):
            yield from source.list(group, kind)


@contextmanager
def config_loader(config_dir: str, more: Sequence[str] = ()) -> Iterator[Any]:
    """Let Hydra look for configuration in some folders while the body runs, also inside a run that Hydra started."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra

    from dmm_exp.config.schema import register

    register()
    version.setbase("1.3")
    search_path = create_config_search_path(config_dir)
    for folder in more:
        search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    current = GlobalHydra.instance()
    before, current.hydra = current.hydra, None
    try:
        Hydra.create_main_hydra2(task_name="dmm_exp", config_search_path=search_path)
        yield current.config_loader()
    finally:
        current.hydra = before


def compose_forget_sets(config_dir: str, texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the configuration of forget sets written as ``CHOICE key=value …``, by what was written.

    Raises:
        UserError: there is no such choice, or it has no such key.
    """
    return {text: check_overrides(config_dir, forget_overrides(text), further_folders())[0]["forget"] for text in texts}


def forget_overrides(text: str) -> list[str]:
    """Return what ``CHOICE key=value …`` stands for: ``random seed=1`` is ``forget=random forget.seed=1``.

    Raises:
        UserError: the text is empty.
    """
    choice, *values = text.split() or [""]
    if not choice or "=" in choice:
        raise UserError(f"'{text}' is not a forget set; expected a choice and, if need be, values: 'random seed=1'")
    return [f"forget={choice}", *(f"forget.{value}" for value in values)]


def compose_unlearner(config_dir: str, text: str) -> dict[str, Any]:
    """Return the configuration of an unlearner written as in :func:`unlearner_overrides`.

    Raises:
        UserError: there is no such choice, or it has no such key.
    """
    return check_overrides(config_dir, unlearner_overrides(text), further_folders())[0]["unlearner"]


def unlearner_overrides(text: str) -> list[str]:
    """Return what ``CHOICE key=value …`` stands for, or the name of an experiment, whose unlearner is meant.

    ``finetune epochs=2`` is ``unlearner=finetune unlearner.epochs=2``; a choice with a slash, such as
    ``digits/rum_high_mem/salun``, is an experiment.

    Raises:
        UserError: the text is empty.
    """
    choice, *values = text.split() or [""]
    if not choice or "=" in choice:
        raise UserError(f"'{text}' is not an unlearner; expected a choice and, if need be, values: 'finetune epochs=2'")
    group = "experiment" if "/" in choice else "unlearner"
    return [f"{group}={choice}", *(f"unlearner.{value}" for value in values)]


def _parse(overrides: Sequence[str], loader: Any) -> list[Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, parsed = OverridesParser.create(loader), []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"'{text}' is not an override; expected key=value ({reason})") from error
    return parsed


def _cells(parsed: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield the overrides of every cell of a sweep."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    choices = []
    for override in parsed:
        if override.is_sweep_override():
            key = override.get_key_element()
            choices.append([parser.parse_override(f"{key}={value}") for value in override.sweep_string_iterator()])
        else:
            choices.append([override])
    yield from (list(cell) for cell in itertools.product(*choices))


def _compose_checked(cell: Sequence[Any], loader: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a cell's configuration and choices."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    config = _composed(cell, loader)
    chosen = OmegaConf.to_container(config.pop("hydra").runtime.choices)
    try:
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(_sentence(error, cell)) from error
    assert isinstance(resolved, dict)
    assert isinstance(chosen, dict)
    return scaled({str(key): value for key, value in resolved.items()}), choices_of(chosen)


def composed_with_hydra(overrides: Sequence[str], loader: Any) -> Any:
    """Return what a command line composes to (of a sweep, its first cell), unresolved and with Hydra's own part.

    Raises:
        UserError: a misspelt key, value or choice.
    """
    return _composed(next(_cells(_parse(overrides, loader))), loader)


def _composed(cell: Sequence[Any], loader: Any) -> Any:
    """Return what a cell composes to, with Hydra's own part."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    groups = [override for override in cell if _is_group(override, loader)]
    for override in groups:
        _check_choice(override, loader)
    try:
        return _compose(cell)
    except (HydraException, AssertionError) as error:  # OmegaConf asserts that no parent of a key is null
        _check_keys(cell, groups)
        raise UserError(_sentence(error, cell)) from error
    except OmegaConfBaseException as error:
        raise UserError(_sentence(error, cell)) from error


def _compose(overrides: Iterable[Any]) -> Any:
    """Return a configuration, with Hydra's own part, that may be changed."""
    from hydra import compose
    from omegaconf import OmegaConf

    config = compose("config", overrides=[override.input_line for override in overrides], return_hydra_config=True)
    OmegaConf.set_struct(config, False)
    OmegaConf.set_readonly(config, False)
    return config


def choices_of(chosen: Mapping[Any, Any]) -> dict[str, str]:
    """Return group → choice as composed, without Hydra's own groups and those left out."""
    return {
        str(group): str(choice)
        for group, choice in chosen.items()
        if choice is not None and not str(group).startswith("hydra")
    }


def _is_group(override: Any, loader: Any) -> bool:
    return bool(options_of(override.key_or_group, loader)) or "/" in override.key_or_group


def _check_choice(override: Any, loader: Any) -> None:
    group, options = override.key_or_group, options_of(override.key_or_group, loader)
    value = override.value()
    if override.is_delete():
        return
    if value is None and group in OPTIONAL:
        raise UserError(f"{group}=null: expected one of {', '.join(options)}; for none of them leave {group} out")
    if not options:
        raise UserError(f"{override.input_line}: there is no configuration group '{group}'")
    for choice in value if isinstance(value, list) else [value]:
        if not _is_choice(str(choice), group, loader):
            said, hint = "null" if choice is None else choice, did_you_mean(str(choice), options)
            raise UserError(f"{group}={said}: expected one of {', '.join(sorted(options))}{hint}")


def _check_keys(overrides: Sequence[Any], groups: Sequence[Any]) -> None:
    """Refuse a key that what ``groups`` alone compose to does not have, unless the override adds one (``+key=value``).

    Hydra has refused it already, in words that need a reader who knows Hydra.
    """
    base = _compose(groups)
    known = [name for name in _keys(base) if not name.startswith("hydra")]
    for override in overrides:
        key = override.key_or_group
        if override in groups or override.is_add() or override.is_force_add() or _has(base, key):
            continue
        parent, _, _ = key.rpartition(".")
        siblings = [name for name in known if name.rpartition(".")[0] == parent]
        raise UserError(f"{override.input_line}: there is no key '{key}'{_suggestion(key, known, siblings, parent)}")


def _suggestion(key: str, known: list[str], siblings: list[str], parent: str) -> str:
    if hint := did_you_mean(key, known):
        return hint
    if siblings:
        where = f"{parent} has" if parent else "the configuration has"
        return f"; {where} {', '.join(name.rpartition('.')[2] for name in siblings)}"
    return ""


def _has(config: Any, key: str) -> bool:
    from omegaconf import DictConfig, OmegaConf

    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and last in node.keys()  # noqa: SIM118  (`in` hides keys whose value is missing)


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    from omegaconf import DictConfig

    for key in config:
        yield f"{prefix}{key}"
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from _keys(node, f"{prefix}{key}.")


def _sentence(error: Exception, cell: Iterable[Any]) -> str:
    """Say an error of Hydra or OmegaConf in one line, with the override that it is about."""
    cause = error.__cause__ or error
    text = " ".join(line.strip() for line in str(cause).splitlines() if line.strip())
    key = getattr(cause, "full_key", None) or ""
    for override in cell:
        if key and override.key_or_group == key:
            return f"{override.input_line}: {text.split(' full_key')[0]}"
    if "Missing mandatory value" in text or "???" in text:
        return f"{key} has no value and needs one; give it as {key}=VALUE"
    return text.split(" object_type=")[0]
