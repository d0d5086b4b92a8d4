"""How Hydra reads configuration files: only those of a size that a machine can hold, and each once."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins import file_config_source as files
from hydra._internal.core_plugins import structured_config_source as structured
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult

from dmm_exp.config.copies import copied
from dmm_exp.errors import UserError
from dmm_exp.files.reading import YAML_BYTES, check_yaml, read_bytes


@contextmanager
def limited_files() -> Iterator[None]:
    """Let Hydra read configuration through the sources of this module while the body runs.

    Hydra knows no limit. A file of a few hundred bytes that repeats its values by alias can fill any memory.
    """
    Plugins.instance()  # which registers Hydra's own sources
    types = SourcesRegistry.instance().types
    before = dict(types)
    types |= {source.scheme(): source for source in (FileConfigSource, StructuredConfigSource)}
    try:
        yield
    finally:
        types |= before


class FileConfigSource(files.FileConfigSource):
    """A folder of configuration whose files are ordinary ones, and small also where all they repeat is written out.

    It has the name of Hydra's own class, by which Hydra knows sources again in other processes. A file is parsed once,
    as long as it does not change: most compositions of a process read the same files.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        """Return a file's content.

        Raises:
            UserError: it is too large, or nested too deeply.
        """
        path = Path(self.path, self._normalize_file_name(config_path))
        try:
            content = read_bytes(path, YAML_BYTES)
            _check(content)
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return super().load_config(config_path)  # Hydra, or who asked it, says what is wrong
        except ValueError as error:
            raise UserError(f"{path}: cannot be read as configuration ({error})") from error
        found = copy.copy(_parsed(self.provider, self.path, config_path, content))
        found.config = copied(found.config)  # Hydra changes what it gets
        return found


class StructuredConfigSource(structured.StructuredConfigSource):
    """What is in Hydra's store, which hands out copies.

    Hydra copies its sources for each composition: with the whole store, that takes a fifth of it. It has the name of
    Hydra's own class, by which Hydra finds the schema.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> StructuredConfigSource:
        """Return a copy that shares the store."""
        return copy.copy(self)


@lru_cache(maxsize=1024)
def _check(content: bytes) -> None:
    """Raise what :func:`check_yaml` does for a file with some content."""
    check_yaml(content.decode("utf-8"))


@lru_cache(maxsize=1024)
def _parsed(provider: str, folder: str, config_path: str, content: bytes) -> ConfigResult:
    """Return what Hydra makes of a file with some content."""
    return files.FileConfigSource(provider, folder).load_config(config_path)
