"""Experiments in tables: a row of ``conf/experiment/TABLE.csv`` is chosen as ``experiment=TABLE/UNLEARNER``.

A row has an unlearner, its settings, and how a search found them. The columns ``unlearner`` and ``unlearner.KEY`` are
what the experiment sets; an empty cell sets nothing, and values are written as in JSON, words without quotes. Other
columns are for readers. A CSV file whose first column is not ``unlearner`` is no such table.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import DictConfig, OmegaConf

from dmm_exp.config.schema import Plain
from dmm_exp.errors import UserError, did_you_mean, listed
from dmm_exp.files.reading import YAML_BYTES, parse_json, read_bytes
from dmm_exp.files.writing import write_text

GROUP = "experiment"
UNLEARNER = "unlearner"  # the first column, which names a row
ENDING = ".csv"
PROVIDER = "tables of dmm_exp"
Row = dict[str, str]  # column → cell, without empty cells


def tables_of(folder: Path) -> dict[str, Path]:
    """Return name → file of every table in the folder of a configuration."""
    root = folder / GROUP
    files = sorted(root.rglob(f"*{ENDING}"))
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in files if _is_table(path)}


def check_settings(name: str, folders: Sequence[str], key: str) -> None:
    """Check that there are settings of this name: a table, or a folder of tables or experiments.

    Args:
        name: such as ``fair`` or ``fair/random``.
        folders: of configuration.
        key: that asks for it, for the error.

    Raises:
        UserError: there are none, and methods would silently be taken at their own settings.
    """
    places = [Path(folder) / GROUP for folder in folders]
    if any((place / name).is_dir() or (place / f"{name}{ENDING}").is_file() for place in places):
        return
    tables = sorted({table for folder in folders for table in tables_of(Path(folder))})
    raise UserError(
        f"{key}={name}: there is no such table; expected one of {listed(tables)}{did_you_mean(name, tables)}"
    )


def read_rows(path: Path) -> dict[str, Row]:
    """Return the rows of a table, by unlearner.

    Raises:
        UserError: it cannot be read, or a row has no unlearner, the same as another one, or too many cells.
    """
    rows: dict[str, Row] = {}
    for number, cells in enumerate(_lines(path), 2):
        name = cells.get(UNLEARNER)
        if not name or name in rows or None in cells:
            reason = "more cells than columns" if None in cells else f"'{name}' a second time" if name else "no name"
            raise UserError(f"{path}, line {number}: has {reason}; expected one row for each unlearner")
        rows[name] = {column: cell for column, cell in cells.items() if cell}
    return rows


def write_row(path: Path, row: Mapping[str, str]) -> None:
    """Write a row into a table, in place of the one of the same unlearner."""
    rows = {**(read_rows(path) if path.exists() else {}), row[UNLEARNER]: dict(row)}
    columns = {column: None for one in rows.values() for column in one}
    settings = [column for column in columns if _is_setting(column)]
    known = [*sorted(settings), *(column for column in columns if column not in settings)]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, known, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[name] for name in sorted(rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, buffer.getvalue())


def row_of(unlearner: str, settings: Plain, found: Mapping[str, str]) -> Row:
    """Return the row of an unlearner with some settings, by dotted key, and what else is to be read there."""
    return {UNLEARNER: unlearner, **{f"{UNLEARNER}.{key}": cell_of(value) for key, value in settings.items()}, **found}


def settings_in(row: Mapping[str, str]) -> Plain:
    """Return the settings of a row by dotted key of the unlearner's configuration."""
    start = f"{UNLEARNER}."
    return {column.removeprefix(start): value_of(row[column]) for column in row if column.startswith(start)}


def cell_of(value: Any) -> str:
    """Return a plain value as a cell: JSON, or a word as it is."""
    if isinstance(value, str) and value and value_of(value) == value:
        return value
    return json.dumps(value)


def value_of(cell: str) -> Any:
    """Return the value of a cell."""
    try:
        return parse_json(cell)
    except ValueError:
        return cell


def register_tables(*folders: str) -> None:
    """Make the rows of all tables in some folders of configuration known to Hydra, and no others.

    They become choices of ``experiment``. Of two rows with one name the one in the later folder counts.

    Raises:
        UserError: a table cannot be read.
    """
    repository = ConfigStore.instance().repo
    tables = [(name, path) for folder in folders for name, path in tables_of(Path(folder)).items()]
    stamp = [(path, path.stat().st_mtime_ns, path.stat().st_size) for _, path in tables]
    # Hydra may have replaced its repository since; the one that is remembered is held, so that no other has its place.
    if repository is _registered.get("repository") and stamp == _registered.get("stamp"):
        return
    _registered.clear()  # a table that cannot be read leaves nothing that a later call could take for whole
    _drop(repository.get(GROUP, {}))
    for table, path in tables:
        for name, row in read_rows(path).items():
            _store(f"{GROUP}/{table}/{name}", row)
    _registered.update(repository=repository, stamp=stamp)


_registered: dict[str, Any] = {}  # what the last call found, for calls that find the same


class _RowNode(ConfigNode):
    """A row in Hydra's store; it becomes a configuration when it is asked for, which most rows never are."""

    def __init__(self, name: str, group: str, row: Row) -> None:
        self.name, self.group, self.package, self.provider = name, group, "_global_", PROVIDER
        self._row = row

    @cached_property
    def node(self) -> DictConfig:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the row sets."""
        node = OmegaConf.create({"defaults": [{f"override /{UNLEARNER}": self._row[UNLEARNER]}]})
        for key, value in settings_in(self._row).items():
            OmegaConf.update(node, f"{UNLEARNER}.{key}", value)
        return node


def _store(choice: str, row: Row) -> None:
    *groups, name = f"{choice}.yaml".split("/")
    folder = ConfigStore.instance().repo
    for group in groups:
        folder = folder.setdefault(group, {})
    folder[name] = _RowNode(name, "/".join(groups), row)


def _drop(group: dict[str, Any]) -> None:
    """Remove what an earlier call stored."""
    for name, node in list(group.items()):
        if isinstance(node, dict):
            _drop(node)
        if node == {} or getattr(node, "provider", None) == PROVIDER:
            del group[name]


def _is_setting(column: str) -> bool:
    return column == UNLEARNER or column.startswith(f"{UNLEARNER}.")


def _is_table(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline(len(UNLEARNER) + 1).rstrip(b"\r\n,") == UNLEARNER.encode()


def _lines(path: Path) -> list[dict[Any, Any]]:
    try:
        return list(csv.DictReader(io.StringIO(read_bytes(path, YAML_BYTES).decode("utf-8"))))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a table ({error})") from error
