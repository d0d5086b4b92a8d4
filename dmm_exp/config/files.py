"""How Hydra reads configuration files: each once, and only those of a size that a machine can hold."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from hydra._internal.core_plugins import file_config_source as hydras
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult

from dmm_exp.errors import UserError
from dmm_exp.files.reading import YAML_BYTES, check_yaml, read_bytes


@contextmanager
def limited_files() -> Iterator[None]:
    """Let Hydra read configuration through :class:`FileConfigSource` while the body runs.

    Hydra knows no limit. A file of a few hundred bytes that repeats its values by alias can fill any memory.
    """
    Plugins.instance()  # which registers Hydra's own sources
    types, scheme = SourcesRegistry.instance().types, FileConfigSource.scheme()
    before, types[scheme] = types[scheme], FileConfigSource
    try:
        yield
    finally:
        types[scheme] = before


class FileConfigSource(hydras.FileConfigSource):
    """A folder of configuration files that are regular files, and small even when their aliases are written out.

    It has the name of Hydra's own class, by which Hydra knows sources again in other processes.
    """

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self._known: dict[str, ConfigResult] = {}

    def load_config(self, config_path: str) -> ConfigResult:
        """Return a file's content, which the caller may change.

        Raises:
            UserError: it is too large, or nested too deeply.
        """
        if config_path not in self._known:
            self._known[config_path] = self._read(config_path)
        return copy.deepcopy(self._known[config_path])

    def _read(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        try:
            check_yaml(read_bytes(path, YAML_BYTES).decode("utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            pass  # Hydra, or who asked it, says what is wrong
        except ValueError as error:
            raise UserError(f"{path}: cannot be read as configuration ({error})") from error
        return super().load_config(config_path)
