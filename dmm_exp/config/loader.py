"""What Hydra composes with here: every command line once, from files of a size that a machine can hold."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, flag_override

from dmm_exp.config.files import limited_files
from dmm_exp.config.loading import Files
from dmm_exp.config.overrides import parsed
from dmm_exp.config.schema import register
from dmm_exp.config.tables import register_tables
from dmm_exp.config.targets import drop_replaced


class Loader(ConfigLoaderImpl):
    """Hydra's own loader, which composes equal command lines once, without the arguments of replaced classes.

    A launcher that starts other processes sends it to them; there it begins anew.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._files = Files(self)
        self._composed: dict[tuple[str | None, tuple[str, ...], RunMode], DictConfig] = {}

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
                with flag_override(config, ["struct", "readonly"], [False, False]):
                    drop_replaced(config, parsed(overrides, self), self, self._files)
            self._composed[key] = config
        return copy.deepcopy(self._composed[key])

    def __getstate__(self) -> dict[str, Any]:
        """Return what other processes get: nothing composed, which would be much for a large sweep."""
        return {**vars(self), "_composed": {}}


@contextmanager
def config_loader(config_dir: str, more: Sequence[str] = ()) -> Iterator[Loader]:
    """Let Hydra look for configuration in some folders while the body runs, also inside a run that Hydra started.

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
    before, current.hydra = current.hydra, None
    try:
        with limited_files():
            loader = Loader(search_path)
            current.initialize(Hydra(task_name="dmm_exp", config_loader=loader))
            register_tables(*more, config_dir)  # after Hydra's plugins: ours registers the tables of conf/ alone
            yield loader
    finally:
        current.hydra = before
