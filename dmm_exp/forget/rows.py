"""Reads rows to forget from a file, a list, an array, a set, a mask or file names."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from collections.abc import Set as AnySet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dmm_exp.data import Examples, Rows
from dmm_exp.errors import UserError, reason_of, shown
from dmm_exp.forget.files import TEXTS, Entries, ListFile
from dmm_exp.forget.names import FileNames

SHOWN = 10  # number of rows that a description lists


def read_rows(
    source: Any,
    examples: Examples,
    key: str = "forget",
    *,
    column: str | int | None = None,
    header: bool | None = None,
) -> Rows:
    """Return the training rows that a file or a value lists.

    Whole numbers are training indices, each at most once. True and false, one for each training example, are a mask.
    Texts are names of training files, if the data has such names. Nothing is guessed: input with two possible meanings
    is refused.

    Args:
        source: path of a file (:data:`dmm_exp.forget.files.ENDS`); or a list, tuple, range, set, array, tensor, pandas
            Series or Index; or :class:`Rows`.
        examples: the dataset.
        key: beginning of errors.
        column: one of several columns of a file, by its name, or by its position if columns have no names.
        header: whether the first line of a text file names its columns; None if that is clear from the file.

    Raises:
        UserError: there are no such rows, or it is not clear which rows are meant.
    """
    if isinstance(source, Rows):
        return source
    names = None if examples.names is None else FileNames(examples.names)
    if isinstance(source, (str, os.PathLike)):
        path = Path(os.path.expanduser(source))
        key = f"{key}={source}"
        entries = ListFile(path, key, column, header, lambda text: bool(names and names.find(text))).entries()
        if names is not None and path.suffix.lower() in TEXTS:
            _check_numbers_are_no_names(entries, names, key)
    else:
        entries = Entries(_values(source, key))
    return _Reader(entries, examples, names, key).rows()


def described(rows: Sequence[object]) -> str:
    """Return a description of rows: the first ones, and their number.

    >>> described([30, 7, 19])
    '30, 7, 19 (3 rows)'
    """
    more = ", …" if len(rows) > SHOWN else ""
    return f"{', '.join(shown(row) for row in rows[:SHOWN])}{more} ({counted(rows)})"


def counted(rows: Sequence[object] | Rows) -> str:
    """Return the number of rows, in words: ``1 row`` or ``23 rows``."""
    return f"{len(rows):,} row{'' if len(rows) == 1 else 's'}"


def distinct(rows: Sequence[int], n_train: int, key: str, entries: Entries | None = None) -> Tensor:
    """Return training indices sorted.

    Args:
        rows: training indices.
        n_train: number of training examples.
        key: beginning of errors.
        entries: the values from which the rows were read, so that errors can name the place of a wrong one.

    Raises:
        UserError: there are none, one is out of range or repeated, or no training example would be left.
    """
    if not len(rows):
        raise UserError(f"{key}: is empty; expected at least one row")
    wrong = next((number for number, row in enumerate(rows) if not 0 <= row < n_train), None)
    if wrong is not None:
        raise UserError(
            f"{key}: {_at(entries, wrong)}{_short(rows[wrong])} is out of range; expected indices from 0 to "
            f"{n_train - 1}"
        )
    first: dict[int, int] = {}
    for number, row in enumerate(rows):
        if first.setdefault(row, number) != number:
            bits = "; a mask holds true and false, not 1 and 0" if len(rows) == n_train and set(rows) <= {0, 1} else ""
            name = row if entries is None else _short(entries.values[number])
            raise UserError(
                f"{key}: {_at(entries, number)}{name} is listed more than once; expected distinct indices{bits}"
            )
    if len(rows) == n_train:
        raise UserError(f"{key}: is the whole training set; expected some of it to be retained")
    return torch.tensor(rows, dtype=torch.long).sort().values


def _at(entries: Entries | None, number: int) -> str:
    """Return the place of a row in a file, for errors; empty for a list in memory."""
    return f"{entries.where(number)}: " if entries is not None and entries.source else ""


@dataclass(frozen=True)
class _Reader:
    """Converts the values of a list to rows."""

    entries: Entries
    examples: Examples
    names: FileNames | None
    key: str

    def rows(self) -> Rows:
        values = self.entries.values
        kinds = [_kind(value) for value in values]
        if wrong := self._wrong(kinds):
            raise self._error(wrong - 1)
        place = self.entries.source and f" {self.entries.source}"
        if kinds and kinds[0] is bool:
            rows = self._masked(values)
            place = f", those that are true{place}" if place else ", those that a mask says are true"
            return self._checked(rows, rows, place, None)
        rows = [self._row(number) for number in range(len(values))] if kinds and kinds[0] is str else values
        return self._checked(rows, values, place, self.entries)

    def _checked(self, rows: Sequence[int], written: Sequence[object], place: str, entries: Entries | None) -> Rows:
        """Return checked rows; ``written`` is how each stands in its source, and ``place`` where that is."""
        n_train = self.examples.n_train
        indices = distinct(rows, n_train, self.key, entries)
        return Rows(indices, n_train, described(written) + place, self.key, tuple(rows))

    def _wrong(self, kinds: Sequence[type | None]) -> int:
        """Return the number, from 1, of the first value of a wrong kind; 0 if there is none."""
        accepted = {int, bool} if self.names is None else {int, bool, str}
        for number, kind in enumerate(kinds, 1):
            if kind not in accepted or kind is not kinds[0]:
                return number
        return 0

    def _error(self, number: int) -> UserError:
        value, n_train = self.entries.values[number], self.examples.n_train
        what = f"'{_short(value)}'"
        if self.entries.lines is None:
            what += f" ({type(value).__name__})"
        expected = f"expected whole numbers from 0 to {n_train - 1}, or true or false for each of {n_train} rows"
        if self.names is not None:
            expected += f", or names of training files such as {self.names.names[0]}"
        if self.entries.lines is not None:
            expected += "; one on each line"
        return UserError(f"{self.key}: {self.entries.where(number)} holds {what}; {expected}")

    def _masked(self, values: Sequence[bool]) -> list[int]:
        n_train = self.examples.n_train
        if len(values) != n_train:
            raise UserError(
                f"{self.key}: is a mask of {len(values):,} rows; expected true or false for each of the {n_train:,} "
                "training rows"
            )
        return [row for row, chosen in enumerate(values) if chosen]

    def _row(self, number: int) -> int:
        text, names = self.entries.values[number], self.names
        assert names is not None
        found = names.find(text)
        if len(found) == 1:
            return found[0]
        where = self.entries.where(number)
        if not found:
            unknown = [text for text in self.entries.values if not names.find(text)]
            others = f" ({len(unknown):,} are none)" if len(unknown) > 1 else ""
            raise UserError(
                f"{self.key}: {where}: '{shown(text)}' is no training file{others}; expected paths in the folder of "
                f"training images, such as {names.names[0]}{names.hint(text)}"
            )
        several = " and ".join(names.names[row] for row in found[:2])
        raise UserError(f"{self.key}: {where}: '{shown(text)}' may be {several}; expected the whole path of one")


def _check_numbers_are_no_names(entries: Entries, names: FileNames, key: str) -> None:
    """Raise ``UserError`` if a text of digits may be a row number and also the name of a file."""
    for number, value in enumerate(entries.values):
        found = names.find(str(value)) if _kind(value) is int else []
        if found:
            raise UserError(
                f"{key}: {entries.where(number)}: '{value}' may be row {value} or the file {names.names[found[0]]}; "
                "expected names with their folders"
            )


def _values(source: Any, key: str) -> list[Any]:
    """Return the values of a list, an array, a tensor, a set or a similar object as Python's own."""
    expected = "expected a list of whole numbers, a mask, or the path of a file that lists them"
    if isinstance(source, (bytes, bytearray, memoryview, Mapping, pd.DataFrame)) or not hasattr(source, "__len__"):
        raise UserError(f"{key} is a {type(source).__name__}; {expected}")
    in_order = not isinstance(source, pd.Series) or source.index.equals(pd.RangeIndex(len(source)))
    if not in_order and any(_kind(_plain(value)) is bool for value in source):
        raise UserError(f"{key} is a mask whose index is not 0, 1, 2, …; expected mask.to_numpy(), in order of rows")
    try:
        if isinstance(source, AnySet):
            return sorted(_plain(value) for value in source)
        if isinstance(source, (list, tuple, range, pd.Series, pd.Index)):
            return [_plain(value) for value in source]
        values = source.detach().cpu().to_dense() if isinstance(source, Tensor) else np.asanyarray(source)
        shape, found = list(values.shape), values.tolist()
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise UserError(f"{key} cannot be read as rows ({reason_of(error)}); {expected}") from error
    if len(shape) != 1 or (isinstance(values, np.ndarray) and values.dtype.kind in "mMV"):
        kind = f"has the shape {shape}" if len(shape) != 1 else f"holds {values.dtype}"
        raise UserError(f"{key} {kind}; {expected}")
    return [_plain(value) for value in found]


def _plain(value: Any) -> Any:
    """Return a whole number, a truth value or a text as Python's own; anything else as it is."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, str) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        return value
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return value


def _kind(value: Any) -> type | None:
    """Return the kind of a value: ``bool``, ``int`` or ``str``; None for anything else."""
    return next((kind for kind in (bool, int, str) if isinstance(value, kind)), None)


def _short(value: object) -> str:
    try:
        return shown(value)
    except ValueError:  # Python does not convert numbers of more than 4,300 digits
        return "a huge number"
