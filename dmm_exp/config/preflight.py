"""Refuse a bad command line in one sentence, before anything is computed or written.

Hydra's own messages need a reader who knows Hydra; here every override is compared with what exists, and what does not
exist gets a suggestion.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import hydra
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dmm_exp.config.files import limited_files
from dmm_exp.config.folders import further_folders
from dmm_exp.config.loader import Loader, config_loader
from dmm_exp.config.loading import groups_of, is_group, options_of, readable_files
from dmm_exp.config.overrides import MULTIRUN, cells_of, in_shell, parsed
from dmm_exp.config.scale import scaled
from dmm_exp.config.schema import Config, Node, register
from dmm_exp.config.suggestions import did_you_mean_key
from dmm_exp.config.targets import TARGET, names_class, together
from dmm_exp.config.texts import as_typed
from dmm_exp.errors import UserError, did_you_mean

OPTIONAL = ("experiment", "hparams_search", "scale")  # groups that may be left out
FEW = 3  # more groups than that have a choice of such a name (default) that nobody means by mistake
PRIMARY = "config"  # the name of the primary configuration
Task = Callable[[Any], object]  # gets what Hydra composed, without Hydra's own part
Compose = Callable[[Sequence[Any]], tuple[DictConfig, Mapping[Any, Any]]]  # a cell → its configuration and choices
Composed = list[tuple[Config, dict[str, str]]]  # a configuration and group → choice for every cell


def check_overrides(config_dir: str, overrides: Sequence[str], more: Sequence[str] = ()) -> list[Config]:
    """Compose every configuration that a command line stands for, and return each resolved.

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
def composer(config_dir: str, more: Sequence[str] = (), name: str = PRIMARY) -> Iterator[Composer]:
    """Give a function that does what :func:`compose_cells` does, for many command lines.

    Args:
        config_dir: absolute path of the folder with the primary configuration.
        more: absolute paths of further folders to look for groups in (``--config-dir``).
        name: of the primary configuration.
    """
    with config_loader(config_dir, more) as loader:
        yield Composer(loader, name)


class Composer:
    """Composes command lines to configurations, and refuses those that are wrong.

    Args:
        loader: of Hydra, which is asked.
        name: of the primary configuration.
    """

    def __init__(self, loader: Loader, name: str = PRIMARY) -> None:
        self._loader = loader
        self._name = name
        self._files: dict[tuple[str, ...], Any] = {}  # what choices of groups compose to

    def __call__(self, overrides: Sequence[str]) -> Composed:
        """Return the configuration and the choices of every cell that a command line stands for."""
        cells = cells_of(self._parsed(overrides), self._loader)
        return [self._resolved(cell, self._own_part) for cell in cells]

    def to_start(self, overrides: Sequence[str], *, multirun: bool = False) -> Composed:
        """Do the same for a command line that Hydra will start: it composes each of its cells with its own part.

        Args:
            overrides: as on the command line.
            multirun: whether they are those of a sweep, also where every key has one value.
        """
        cells = cells_of(self._parsed(overrides), self._loader, multirun=multirun)
        return [self._resolved(cell, self._with_hydras) for cell in cells]

    def several(self, overrides: Sequence[str]) -> str | None:
        """Return an override with several values; None where a command line stands for one configuration."""
        found = self._parsed(overrides)
        sweeps = len(list(cells_of(found, self._loader))) > 1
        return next(override.input_line for override in found if override.is_sweep_override()) if sweeps else None

    def has(self, group: str, choice: str) -> bool:
        """Say whether a group has a choice, which may lie in a folder of the group."""
        return _is_choice(choice, group, self._loader)

    def start(self, overrides: Sequence[str], task: Task, *, multirun: bool = False) -> None:
        """Let Hydra run a task on what a command line composes to, or a sweep's launcher on each of its cells."""
        application = _application()
        begin = application.multirun if multirun else application.run
        with _one_sentence():
            begin(self._name, task, [*self.understood(overrides), *([MULTIRUN] if multirun else [])])

    def show(self, overrides: Sequence[str], part: str, package: str | None, *, resolve: bool) -> None:
        """Print what a command line composes to with Hydra's own part (``all``), or that part alone (``hydra``)."""
        with _one_sentence():
            _application().show_cfg(self._name, self.understood(overrides), part, package, resolve)

    def first(self, overrides: Sequence[str]) -> Any:
        """Return what a command line composes to (of a sweep, its first cell), unresolved and with Hydra's own part."""
        return self._composed(next(cells_of(self._parsed(overrides), self._loader)), self._with_hydras)[0]

    def understood(self, overrides: Sequence[str]) -> list[str]:
        """Return a command line as Hydra understands it as it is meant.

        Beside a ``X._target_=…`` other keys of ``X`` are those of the new class and need no plus; a value that YAML
        would take for something else is in quotes where its key takes a text.
        """
        values = [override for override in parsed(overrides, self._loader) if not is_group(override, self._loader)]
        typed = as_typed(values, lambda: self._files_alone(overrides))
        nodes = list(_with_class(values))
        added = {one.input_line for one in values if any(_is_within(one.key_or_group, node) for node in nodes)}
        plus = {text: "++" for text in added if text[0] not in "+~"}
        return [f"{plus.get(text, '')}{typed.get(text, text)}" for text in overrides]

    def _parsed(self, overrides: Sequence[str]) -> list[Any]:
        return parsed(self.understood(overrides), self._loader)

    def _files_alone(self, overrides: Sequence[str]) -> Any:
        """Return what the chosen files compose to, the first ones of a sweep, as plain unresolved containers."""
        cell = next(cells_of(parsed(overrides, self._loader), self._loader))
        groups = [one for one in cell if is_group(one, self._loader)]
        compose = self._with_hydras if any(one.is_hydra_override() for one in cell) else self._own_part
        key = (compose.__name__, *(one.input_line for one in groups))
        if key not in self._files:
            self._files[key] = OmegaConf.to_container(self._composed(groups, compose)[0])
        return self._files[key]

    def _resolved(self, cell: Sequence[Any], compose: Compose) -> tuple[Config, dict[str, str]]:
        """Return a cell's configuration and choices."""
        config, chosen = self._composed(cell, compose)
        config.pop("hydra", None)
        try:
            return resolved(config), choices_of(chosen)
        except OmegaConfBaseException as error:
            raise UserError(_sentence(error, cell)) from error

    def _composed(self, cell: Sequence[Any], compose: Compose) -> tuple[DictConfig, Mapping[Any, Any]]:
        """Return what a cell composes to, which may be changed, and its choices."""
        groups = [override for override in cell if is_group(override, self._loader)]
        for override in groups:
            _check_choice(override, self._loader)
        values = [override for override in cell if override not in groups]
        for override in values:
            _check_deletion(override)
        try:
            with readable_files(self._loader):
                config, chosen = compose(cell)
        except (HydraException, AssertionError) as error:  # OmegaConf asserts that no parent of a key is null
            self._check_keys(values, groups)
            raise UserError(_sentence(error, cell)) from error
        except OmegaConfBaseException as error:
            raise UserError(_sentence(error, cell)) from error
        OmegaConf.set_struct(config, False)
        OmegaConf.set_readonly(config, False)
        return config, chosen

    def _own_part(self, cell: Sequence[Any]) -> tuple[DictConfig, Mapping[Any, Any]]:
        """Return what a cell composes to, without Hydra's own part where it sets nothing of that."""
        own = [override for override in cell if override.input_line != MULTIRUN]
        if any(override.is_hydra_override() for override in own):
            return self._with_hydras(cell)
        return self._loader.own_part(self._name, own)

    def _with_hydras(self, cell: Sequence[Any]) -> tuple[DictConfig, Mapping[Any, Any]]:
        """Return what a cell composes to, with Hydra's own part."""
        lines = [override.input_line for override in cell]
        config = hydra.compose(self._name, overrides=lines, return_hydra_config=True)
        return config, config.hydra.runtime.choices

    def _check_keys(self, values: Sequence[Any], groups: Sequence[Any]) -> None:
        """Refuse a key that what ``groups`` alone compose to does not have, unless it is added (``+key=value``).

        Hydra has refused it already, in words that need a reader who knows Hydra.
        """
        try:
            with readable_files(self._loader):
                base, _ = self._with_hydras(groups)
        except HydraException as error:
            raise UserError(_sentence(error, groups)) from error
        known = [name for name in _keys(base) if not name.startswith("hydra")]
        for override in values:
            key = override.key_or_group
            if override.is_add() or override.is_force_add() or _has(base, key):
                continue
            raise UserError(f"{override.input_line}: there is no key '{key}'{_suggestion(key, known)}")


def resolved(config: Any) -> Config:
    """Return what Hydra composed, resolved and typed, within the bounds of ``scale``."""
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return Config.of(scaled({str(key): value for key, value in container.items()}))


def ask_hydra(config_dir: str) -> None:
    """Let Hydra answer what the command line of this process asks of it: its help, information, completions."""
    register()
    with limited_files(), _one_sentence():
        hydra.main(version_base="1.3", config_path=config_dir, config_name=PRIMARY)(lambda config: None)()


def _application() -> Hydra:
    application = GlobalHydra.instance().hydra
    assert application is not None
    return application


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Say in one sentence what Hydra cannot compose."""
    try:
        yield
    except (ConfigCompositionException, MissingConfigException, OverrideParseException) as error:
        raise UserError(str(error.__cause__ or error)) from error


def _with_class(values: Sequence[Any]) -> Iterator[str]:
    """Yield the dotted keys of the nodes that overrides give a class."""
    for override in values:
        key, _, last = override.key_or_group.rpartition(".")
        if last == TARGET:
            yield key
        elif names_class({} if override.is_sweep_override() else together([override])):
            yield override.key_or_group


def _is_within(key: str, node: str) -> bool:
    return f"{key}.".startswith(f"{node}.") and key != f"{node}.{TARGET}"


def _is_choice(choice: str, group: str, loader: Any) -> bool:
    folder, _, name = choice.rpartition("/")
    return name in options_of(f"{group}/{folder}" if folder else group, loader)


def compose_forget_sets(config_dir: str, texts: Sequence[str]) -> dict[str, Node]:
    """Return the configuration of forget sets written as ``CHOICE key=value …``, by what was written.

    Raises:
        UserError: there is no such choice, or it has no such key.
    """
    with composer(config_dir, further_folders()) as compose:
        return {text: compose(forget_overrides(text))[0][0].forget for text in texts}


def forget_overrides(text: str) -> list[str]:
    """Return what ``CHOICE key=value …`` stands for: ``random seed=1`` is ``forget=random forget.seed=1``.

    Raises:
        UserError: the text is empty.
    """
    choice, *values = _words(text)
    if not choice or "=" in choice:
        raise UserError(f"'{text}' is not a forget set; expected a choice and, if need be, values: 'random seed=1'")
    return [f"forget={choice}", *(f"forget.{value}" for value in values)]


def _words(text: str) -> list[str]:
    """Return the words of a choice with its values, which are quoted as in a shell."""
    try:
        return shlex.split(text) or [""]
    except ValueError as error:
        raise UserError(f"'{text}': cannot be read ({error}); quote values as in a shell") from error


def compose_unlearner(config_dir: str, text: str) -> Node:
    """Return the configuration of an unlearner written as in :func:`unlearner_overrides`.

    Raises:
        UserError: there is no such choice, or it has no such key.
    """
    return check_overrides(config_dir, unlearner_overrides(text), further_folders())[0].unlearner


def unlearner_overrides(text: str) -> list[str]:
    """Return what ``CHOICE key=value …`` stands for, or the name of an experiment, whose unlearner is meant.

    ``finetune epochs=2`` is ``unlearner=finetune unlearner.epochs=2``; a choice with a slash, such as
    ``fair/rum_high_mem/salun``, is an experiment.

    Raises:
        UserError: the text is empty.
    """
    choice, *values = _words(text)
    if not choice or "=" in choice:
        raise UserError(f"'{text}' is not an unlearner; expected a choice and, if need be, values: 'finetune epochs=2'")
    group = "experiment" if "/" in choice else "unlearner"
    return [f"{group}={choice}", *(f"unlearner.{value}" for value in values)]


def choices_of(chosen: Mapping[Any, Any]) -> dict[str, str]:
    """Return group → choice as composed, without Hydra's own groups, the job and those left out."""
    return {
        str(group): str(choice)
        for group, choice in chosen.items()
        if choice is not None and group != "job" and not str(group).startswith("hydra")
    }


def _check_choice(override: Any, loader: Any) -> None:
    group, options = override.key_or_group, options_of(override.key_or_group, loader)
    if override.is_delete():
        return _check_deletion(override)
    value = override.value()
    if value is None and group in OPTIONAL:
        raise UserError(f"{group}=null: expected one of {', '.join(options)}; for none of them leave {group} out")
    if not options:
        raise UserError(f"{override.input_line}: there is no configuration group '{group}'")
    for choice in value if isinstance(value, list) else [value]:
        if not _is_choice(str(choice), group, loader):
            said = "null" if choice is None else choice
            hint = _elsewhere(str(choice), loader) or did_you_mean(str(choice), options)
            raise UserError(f"{group}={said}: expected one of {', '.join(sorted(options))}{hint}")


def _elsewhere(choice: str, loader: Any) -> str:
    """Return ``"; did you mean group=choice?"`` where another group has this very choice, an empty string otherwise."""
    found = [
        group for group in groups_of(loader) if not group.startswith("hydra") and choice in options_of(group, loader)
    ]
    return f"; did you mean {' or '.join(f'{group}={choice}' for group in found)}?" if 0 < len(found) < FEW else ""


def _check_deletion(override: Any) -> None:
    """Refuse to leave out what every run has."""
    if override.is_delete() and override.key_or_group in [field.name for field in fields(Config)]:
        key = override.key_or_group
        raise UserError(f"{override.input_line}: every run has {key}; expected {key}=VALUE, or nothing to keep it")


def _suggestion(key: str, known: list[str]) -> str:
    if hint := did_you_mean_key(key, known):
        return hint
    parent = key.rpartition(".")[0]
    siblings = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == parent]
    where = f"{parent} has" if parent else "the configuration has"
    return f"; {where} {', '.join(siblings)}" if siblings else ""


def _has(config: Any, key: str) -> bool:
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and last in node.keys()  # noqa: SIM118  (`in` hides keys whose value is missing)


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    for key in config:
        yield f"{prefix}{key}"
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from _keys(node, f"{prefix}{key}.")


# what Hydra says of an experiment whose keys it lays below a key "experiment"
NESTED = re.compile(
    r"In '(experiment/[^']+)': .*(Key 'experiment' not in 'Config'|Could not override '\S+@experiment\.)"
)


def _sentence(error: Exception, cell: Iterable[Any]) -> str:
    """Say an error of Hydra or OmegaConf in one line, with the override that it is about."""
    cause = error.__cause__ or error
    text = " ".join(line.strip() for line in str(cause).splitlines() if line.strip())
    key = getattr(cause, "full_key", None) or ""
    if (nested := NESTED.match(text)) is not None:
        return f"{nested[1]}.yaml: expected '# @package _global_' as its first line; then its keys are those of a run"
    if "Missing mandatory value" in text or "???" in text:
        return f"{key} has no value and needs one; give it as {key}=VALUE"
    for override in reversed(list(cell)):  # the last one is in force
        if key and f"{key}.".startswith(f"{override.key_or_group}."):
            return f"{override.input_line.lstrip('+')}: {text.split(' full_key')[0]}{_literal(override, text)}"
    return text.split(" object_type=")[0]


def _literal(override: Any, text: str) -> str:
    """Return how a value with ``${`` is typed that means no other key."""
    return f"; for this very text: {in_shell(override.input_line)}" if "nterpolation" in text else ""
