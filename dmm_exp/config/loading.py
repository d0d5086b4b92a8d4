"""What Hydra finds where it looks for configuration: groups, choices, files."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmm_exp.config.schema import Plain
from dmm_exp.errors import UserError, reason_of
from dmm_exp.files.reading import YAML_BYTES, parse_yaml, read_bytes


def options_of(group: str, loader: Any) -> list[str]:
    """Return the choices of a group, sorted; Hydra's own function copies everything it knows whenever it is asked.

    A loader that keeps them (``choices``) is asked once.
    """
    from hydra.core.object_type import ObjectType

    kept: dict[str, list[str]] = getattr(loader, "choices", {})
    if group not in kept:
        kept[group] = sorted(set(_listed(group, ObjectType.CONFIG, loader)))
    return list(kept[group])


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


def is_group(override: Any, loader: Any) -> bool:
    """Say whether a parsed override chooses a file of a group, and does not set a value."""
    key = override.key_or_group
    return "/" in key or override.package is not None or bool(key and options_of(key, loader))


@contextmanager
def readable_files(loader: Any) -> Iterator[None]:
    """Turn what makes a configuration file unreadable into a sentence that names the file.

    Raises:
        UserError: a file is no YAML or no UTF-8 text, its first lines are none that Hydra knows, it is nested too
            deeply, or an invisible mark before its first line hides that line.
    """
    import yaml
    from hydra.errors import ConfigCompositionException

    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{mark.name}, line {mark.line + 1}" if mark else "a configuration file"
        raise UserError(f"{place}: is no YAML ({error.problem or error.context})") from error
    except yaml.YAMLError as error:
        raise UserError(f"a configuration file is no YAML ({reason_of(error)})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{_first(loader, _is_no_text)}: is no UTF-8 text; save it as UTF-8") from error
    except ConfigCompositionException as error:
        if marked := _first(loader, _is_marked):
            raise UserError(
                f"{marked}: begins with a byte order mark, which hides its first line; save it as UTF-8 without one"
            ) from error
        raise
    except UserError:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError, OSError) as error:
        place = _first(loader, _is_damaged) or "a configuration file"
        raise UserError(f"{place}: cannot be read as configuration ({reason_of(error)})") from error


def _first(loader: Any, holds: Callable[[bytes], bool]) -> Path | None:
    """Return the first configuration file of the user's whose bytes are as asked."""
    folders = [Path(source.path) for source in loader.get_sources() if source.scheme() == "file"]
    files = (path for folder in folders for path in sorted(folder.rglob("*.yaml")))
    return next((path for path in files if (content := _content(path)) is not None and holds(content)), None)


def _content(path: Path) -> bytes | None:
    try:
        return read_bytes(path, YAML_BYTES)
    except (OSError, ValueError):
        return None


def _is_damaged(content: bytes) -> bool:
    """Say whether a file is none of plain values, or its first lines are none that Hydra knows."""
    from hydra.plugins.config_source import ConfigSource

    try:
        text = content.decode("utf-8")
        ConfigSource._get_header_dict(text)
        found = parse_yaml(text, merges=True)  # as Hydra's own files may
    except ValueError:
        return True
    return not isinstance(found, (dict, type(None))) or not all(isinstance(key, str) for key in found or ())


def _is_no_text(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _is_marked(content: bytes) -> bool:
    return content.startswith(codecs.BOM_UTF8) and b"@package" in content[:200]


@dataclass(frozen=True)
class File:
    """A configuration file as it is written.

    Attributes:
        content: plain unresolved containers, without its list of defaults.
        everywhere: whether it is laid over the whole configuration (``# @package _global_``).
        builds_on: whether it names other files that it is merged with, beside other choices of groups and the files of
            groups within it that it says nothing more of.
    """

    content: Plain
    everywhere: bool
    builds_on: bool


class Files:
    """The files that a loader finds, each read once."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._known: dict[str, File] = {}

    def __getitem__(self, path: str) -> File:
        """Return a file by its path without ending, such as ``model/mlp``; an empty one where there is none."""
        if path not in self._known:
            self._known[path] = self._read(path)
        return self._known[path]

    def _read(self, path: str) -> File:
        from omegaconf import DictConfig, OmegaConf

        source = next((source for source in self._loader.get_sources() if source.is_config(path)), None)
        found = source.load_config(path) if source else None
        if found is None or not isinstance(found.config, DictConfig):
            return File({}, False, False)
        content: Any = OmegaConf.to_container(found.config, resolve=False)
        entries = [entry for entry in content.pop("defaults", None) or () if entry != "_self_"]
        builds_on = any(not (_is_choice(entry) or _is_apart(entry, content)) for entry in entries)
        return File(content, found.header.get("package") == "_global_", builds_on)


def _is_choice(entry: Any) -> bool:
    return isinstance(entry, Mapping) and all(str(key).startswith("override ") for key in entry)


def _is_apart(entry: Any, content: Plain) -> bool:
    """Say whether an entry chooses from groups within its file's own, of whose keys the file sets none."""
    return isinstance(entry, Mapping) and all(str(key).isidentifier() and key not in content for key in entry)
