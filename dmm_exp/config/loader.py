"""What Hydra composes with here: every command line once, from files of a size that a machine can hold."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hydra import version
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import InputDefault, ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from dmm_exp.config.copies import copied
from dmm_exp.config.files import limited_files
from dmm_exp.config.folders import config_directory
from dmm_exp.config.loading import Files, is_group
from dmm_exp.config.overrides import parsed
from dmm_exp.config.schema import register
from dmm_exp.config.tables import register_tables
from dmm_exp.config.targets import drop_replaced

BEGINNINGS = 64  # merged beginnings of lists of files that a loader keeps
KNOWN = 1000  # choices or overrides that a loader knows when the next composition begins with a new one
_Files = tuple[tuple[str | None, str | None, bool], ...]  # path, package, and whether it is the primary configuration


class Repository(ConfigRepository):
    """Where Hydra looks for files, each of which it reads once; what it returns must not be changed."""

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        """Look in some places, of which nothing is known yet."""
        super().initialize_sources(config_search_path)
        self._known: dict[str, ConfigResult | None] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Return a file's content, None where there is no such file."""
        if config_path not in self._known:
            self._known[config_path] = super().load_config(config_path)
        return self._known[config_path]

    def __deepcopy__(self, memo: dict[int, Any]) -> Repository:
        """Return a copy that shares what is known: Hydra makes one for each composition, and may change its places."""
        return copy.copy(self)


@dataclass(frozen=True)
class Chosen:
    """What the choices of groups stand for.

    Attributes:
        files: in the order in which they are merged, Hydra's own left out.
        choices: group → choice, with Hydra's own.
        repository: where the files are found.
    """

    files: list[ResultDefault]
    choices: Mapping[str, Any]
    repository: Any


class Loader(ConfigLoaderImpl):
    """Hydra's own loader, which composes equal command lines once, without the arguments of replaced classes.

    The cells of a large job differ in few files. What the files before these merge to is kept, and so are the files
    that choices of groups stand for.

    A launcher that starts other processes sends it to them; there it begins again.

    Attributes:
        choices: of each group that was asked for.
        parsed: text → override.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository = Repository(config_search_path)
        self.choices: dict[str, list[str]] = {}
        self.parsed: dict[str, Any] = {}
        self._files = Files(self)
        self._chosen: dict[tuple[str | None, tuple[str, ...]], Chosen] = {}
        self._composed: dict[tuple[str | None, tuple[str, ...], RunMode], DictConfig] = {}
        self._merged: dict[_Files, DictConfig] = {}  # what files merge to that several compositions began with
        self._before: _Files = ()
        self._whole: tuple[Chosen, DictConfig] | None = None  # what the last choices of groups composed to

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Return what a command line composes to, with Hydra's own part; the caller may change it."""
        key = (config_name, tuple(overrides), run_mode)
        if key not in self._composed:
            config = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
            if run_mode == RunMode.RUN:
                self._drop_replaced(config, config_name, parsed(overrides, self))
            self._composed[key] = config
        return copied(self._composed[key])

    def own_part(self, config_name: str, overrides: Sequence[Any]) -> tuple[DictConfig, Mapping[str, Any]]:
        """Return what overrides compose to without Hydra's own part, half the work, and group → choice.

        Args:
            config_name: of the primary configuration.
            overrides: parsed, none of them for Hydra's own part.

        Raises:
            ConfigCompositionException: they compose to nothing.
        """
        chosen, values = self._chosen_by(config_name, overrides)
        if self._whole is None or self._whole[0] is not chosen:
            self._whole = chosen, self._compose_config_from_defaults_list(chosen.files, chosen.repository)
        config = copied(self._whole[1])
        OmegaConf.set_struct(config, True)
        try:
            self._apply_overrides_to_config(values, config)
        except OmegaConfBaseException as error:
            raise ConfigCompositionException().with_traceback(error.__traceback__) from error
        self._drop_replaced(config, config_name, overrides)
        return config, chosen.choices

    def __getstate__(self) -> dict[str, Any]:
        """Return what other processes get: nothing composed, which would be much for a large sweep."""
        repository = Repository(self.config_search_path)
        kept = ("choices", "parsed", "_chosen", "_composed", "_merged")
        return {**vars(self), "repository": repository, "_before": (), "_whole": None} | {name: {} for name in kept}

    def _chosen_by(self, config_name: str | None, overrides: Sequence[Any]) -> tuple[Chosen, list[Any]]:
        """Return what the choices of groups among some overrides stand for, and the other overrides."""
        groups = [one for one in overrides if is_group(one, self) and not isinstance(one.value(), dict)]
        key = (config_name, tuple(one.input_line for one in groups))
        if key not in self._chosen:
            choices, repository = self._parse_overrides_and_create_caching_repo(config_name, list(key[1]))
            found = defaults_list.create_defaults_list(repository, config_name, choices, True, False)
            files = [file for file in found.defaults if not _is_of_hydra(file)]
            self._chosen[key] = Chosen(files, found.overrides.known_choices, repository)
        return self._chosen[key], [one for one in overrides if one not in groups]

    def _drop_replaced(self, config: DictConfig, config_name: str | None, overrides: Sequence[Any]) -> None:
        """Remove the arguments of replaced classes from what overrides composed to."""
        chosen, _ = self._chosen_by(config_name, overrides)
        with flag_override(config, ["struct", "readonly"], [False, False]):
            drop_replaced(config, overrides, chosen.choices, chosen.files, self, self._files)

    def _load_single_config(self, default: ResultDefault, repo: Any) -> ConfigResult:
        """Return a file as Hydra merges it, which changes it: a copy."""
        copies: Any = _Copies(repo)
        return super()._load_single_config(default, copies)

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: Any) -> DictConfig:
        """Return what files merge to in their order, as Hydra's own does; a beginning that is known is not merged."""
        own_part = not any(map(_is_of_hydra, defaults))
        files = tuple((one.config_path, one.package, bool(one.primary)) for one in defaults)
        known = max((len(found) for found in self._merged if files[: len(found)] == found), default=0)
        shared = _shared(files, self._before)
        cfg = copied(self._merged[files[:known]]) if known else OmegaConf.create()
        for place, default in enumerate(defaults[known:], known):
            if place == shared > known:
                self._keep(files[:place], cfg)
            loaded: Any = self._load_single_config(default, repo).config
            _strip_defaults(loaded)
            if own_part and "hydra" in loaded:
                loaded.pop("hydra")
            with flag_override(cfg, "no_deepcopy_set_nodes", True):
                _merge(cfg, default, loaded)
        if len(files) == shared > known:
            self._keep(files, cfg)
        self._before = files
        return cfg

    def _keep(self, files: _Files, merged: DictConfig) -> None:
        """Remember what files merge to; the oldest is forgotten where there are many."""
        if len(self._merged) >= BEGINNINGS:
            del self._merged[next(iter(self._merged))]
        self._merged[files] = copied(merged)


class _Copies:
    """A repository whose files may be changed.

    Args:
        repository: that keeps them.
    """

    def __init__(self, repository: Any) -> None:
        self._repository = repository
        self.get_schema_source = repository.get_schema_source

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Return a copy of a file's content."""
        found = copy.copy(self._repository.load_config(config_path))
        if found is not None:
            found.config = copied(found.config)
        return found


def _is_of_hydra(file: ResultDefault) -> bool:
    """Say whether a file is one of Hydra's own part."""
    return (file.package or "").split(".")[0] == "hydra"


def _shared(files: _Files, before: _Files) -> int:
    """Return with how many files two lists begin alike."""
    pairs = zip(files, before, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(files), len(before)))


def _merge(cfg: DictConfig, default: ResultDefault, loaded: Any) -> None:
    """Merge a file into what is there.

    Raises:
        ConfigCompositionException: they do not fit.
    """
    try:
        cfg.merge_with(loaded)
    except OmegaConfBaseException as error:
        raise ConfigCompositionException(
            f"In '{default.config_path}': {type(error).__name__} raised while composing config:\n{error}"
        ) from None  # as Hydra's own does: what is said of it reads this text


def _strip_defaults(cfg: Any) -> None:
    """Remove the list of defaults of a file, wherever in the configuration it is laid."""
    if not isinstance(cfg, DictConfig) or cfg._is_missing() or cfg._is_none():
        return
    with flag_override(cfg, ["readonly", "struct"], False):
        if cfg._get_flag("HYDRA_REMOVE_TOP_LEVEL_DEFAULTS"):
            cfg._set_flag("HYDRA_REMOVE_TOP_LEVEL_DEFAULTS", None)
            cfg.pop("defaults", None)
        for _, value in cfg.items_ex(resolve=False):
            _strip_defaults(value)


@contextmanager
def _plain_lists() -> Iterator[None]:
    """Spare Hydra a map of all choices for each file whose list names none of them (``${…}``), while the body runs.

    Hydra makes it for every file, which takes a fifth of a composition.
    """
    whole = defaults_list._create_interpolation_map

    def only_where_needed(overrides: Any, entries: list[InputDefault], self_added: bool) -> DictConfig:
        named = any(not entry.is_self() and entry.is_interpolation() for entry in entries)
        return whole(overrides, entries, self_added) if named else OmegaConf.create()

    defaults_list._create_interpolation_map = only_where_needed
    try:
        yield
    finally:
        defaults_list._create_interpolation_map = whole


@contextmanager
def config_loader(config_dir: str, more: Sequence[str] = ()) -> Iterator[Loader]:
    """Let Hydra look for configuration in some folders while the body runs, also inside a run that Hydra started.

    Inside a body that looks in the same folders, the loader is the same: it has read their files.

    Args:
        config_dir: absolute path of the folder with the primary configuration.
        more: absolute paths of further folders to look for groups in (``--config-dir``).
    """
    register()
    version.setbase("1.3")
    search_path = create_config_search_path(config_dir)
    for folder in more:
        search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    current = GlobalHydra.instance()
    before = current.hydra
    outer = before.config_loader if before is not None else None
    try:
        with limited_files(), _plain_lists():
            if isinstance(outer, Loader) and str(outer.config_search_path) == str(search_path):
                yield outer
                return
            current.hydra = None
            register_tables(*more, config_dir)  # after Hydra's plugins: ours registers the tables of conf/ alone
            loader = Loader(search_path) if more or config_dir != config_directory() else _own_loader(search_path)
            current.initialize(Hydra(task_name="dmm_exp", config_loader=loader))
            yield loader
    finally:
        current.hydra = before


def _own_loader(search_path: ConfigSearchPath) -> Loader:
    """Return the loader of the configuration of this package: a process that composes again has read its files.

    Where a file or what Hydra has in its store changed since, or where it knows much, it is a new one.
    """
    store = list(_nodes(ConfigStore.instance().repo))  # held, so that no other node has one's place
    state = str(search_path), tuple(map(id, store)), tuple(_stamps(config_directory()))
    kept: Loader | None = _own.get("loader")
    if kept is None or _own["state"] != state or max(len(kept._chosen), len(kept.parsed)) > KNOWN:
        _own.update(loader=(kept := Loader(search_path)), state=state, store=store)
    kept._composed.clear()
    return kept


_own: dict[str, Any] = {}  # the loader of this package's own configuration, and what it has read


def _nodes(store: Mapping[str, Any]) -> Iterator[Any]:
    """Yield what lies in Hydra's store, and every group of it."""
    for node in store.values():
        yield node
        if isinstance(node, dict):
            yield from _nodes(node)


def _stamps(folder: str) -> Iterator[tuple[str, int, int]]:
    """Yield what tells whether the files below a folder have changed."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.is_dir():
                yield from _stamps(entry.path)
            else:
                yield entry.path, entry.stat().st_mtime_ns, entry.stat().st_size
