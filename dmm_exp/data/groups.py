"""Columns that say from whom or where a row is: a user, a source, a session. Their values are texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dmm_exp.data.classes import comparable
from dmm_exp.errors import UserError, did_you_mean, listed, shown

HOW = (
    "name them with dataset.formats.table.group_by=[COLUMN], dataset.formats.npz.group_by=[ARRAY] or "
    "dataset.formats.folder.group_by=PATTERN (docs/datasets.md)"
)


def group_texts(values: Iterable[object], where: str) -> list[str]:
    """Return the values of a column as texts, missing ones as empty texts.

    Args:
        values: of all rows.
        where: they are, for errors.

    Raises:
        UserError: one is a list, or something else that is no single value.
    """
    return [_checked(value, where) for value in values]


def group_text(value: object) -> str:
    """Return a value as the text by which it is compared: whole numbers as 17, and no spaces around it.

    >>> [group_text(value) for value in (17, 17.0, " u17 ", b"u17")]
    ['17', '17', 'u17', 'u17']
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    return comparable(str(int(value) if isinstance(value, float) and value.is_integer() else value).strip())


def _checked(value: object, where: str) -> str:
    if isinstance(value, (list, tuple, dict, set, np.ndarray)):
        raise UserError(f"{where} holds values such as {shown(value)}; expected a number or a text in every row")
    return "" if value is None or value != value else group_text(value)


def group_values(columns: Mapping[str, Sequence[str]], column: str, key: str) -> Sequence[str]:
    """Return the value of every training row in a column.

    Args:
        columns: all of the dataset.
        column: name of one of them.
        key: of this name in the configuration.

    Raises:
        UserError: the dataset has no such column.
    """
    if column in columns:
        return columns[column]
    if not columns:
        raise UserError(f"{key}={column}: the dataset names no groups of rows; {HOW}")
    raise UserError(f"{key}={column}: expected one of {listed(list(columns))}{did_you_mean(column, columns)}")
