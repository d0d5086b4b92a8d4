"""The choice of a table's input columns, and their conversion to numbers."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dmm_exp.data.formats.format import TRAIN
from dmm_exp.data.numbers import numbers
from dmm_exp.errors import UserError, listed, shown

KEY = "dataset.formats.table"
MOST_WORDS = 100  # largest number of different words of a column that is one-hot encoded
ENOUGH = 5  # rows of a class; with fewer, a column may have one value for all of them by chance
COUNTED = 10  # rows of a table; with fewer, a column may number them by chance
DATE = r"\d{4}-\d\d?-\d\d?(?:[T ].*)?|\d\d?[./]\d\d?[./]\d{2,4}(?: .*)?"


@dataclass(frozen=True)
class Columns:
    """The input columns of a table with several parts.

    Attributes:
        tables: data frames of every part, with the same columns.
        files: names of the files by part, for errors.
        labels: of training rows, ``[rows]`` int64.
        keep: columns that are inputs in any case.
        left_out: columns that are not used, with the reason; filled by :meth:`inputs`.
        words: columns of words, with the number of different words; filled by :meth:`inputs`.
    """

    tables: Mapping[str, Any]
    files: Mapping[str, str]
    labels: np.ndarray
    keep: Collection[str] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)

    def inputs(self) -> dict[str, np.ndarray]:
        """Return inputs float32 ``[rows, columns]`` by part: columns of numbers, then the one-hot columns of words.

        The columns and their order are those of ``pandas.get_dummies``.

        Raises:
            UserError: a column cannot be an input, or reveals the labels.
        """
        plain: dict[str, list[np.ndarray]] = {part: [] for part in self.tables}
        words: dict[str, list[np.ndarray]] = {part: [] for part in self.tables}
        for name in self.tables[TRAIN].columns:
            if self._is_left_out(name):
                continue
            kinds = {part: _kind(table[name]) for part, table in self.tables.items()}
            self._check_kinds(name, kinds)
            self._check_leak(name)
            into, read = (words, self._one_hot) if kinds[TRAIN] == "words" else (plain, self._numbers)
            for part, columns in read(name).items():
                into[part].append(columns)
        if not plain[TRAIN] + words[TRAIN]:
            raise UserError(f"{self.files[TRAIN]} has no column that can be an input; {self._gone()}")
        return {part: np.concatenate(plain[part] + words[part], axis=1) for part in self.tables}

    def _gone(self) -> str:
        return "; ".join(f"'{name}' is left out ({why})" for name, why in self.left_out.items())

    def _where(self, name: Any, part: str = TRAIN) -> str:
        return f"column '{name}' of {self.files[part]}"

    def _is_left_out(self, name: str) -> bool:
        """Return whether a column is not used: it has no name, and is empty or numbers the rows."""
        column = self.tables[TRAIN][name]
        if name in self.keep:
            return False
        if not str(name).startswith("Unnamed: "):
            if len(column) >= COUNTED and _counts(column):
                raise UserError(
                    f"{self._where(name)} numbers the rows ({column.min()} to {column.max()}); leave it out with "
                    f"{KEY}.leave_out=[{name}], or keep it as an input with {KEY}.keep=[{name}]"
                )
            return False
        if column.isna().all():
            self.left_out[name] = "it is empty"
        elif column.is_unique and _kind(column) != "fractions":
            self.left_out[name] = "it has no name, and a different value in every row"
        else:
            raise UserError(
                f"{self._where(name)} has no name; give it one, or leave it out with {KEY}.leave_out=[{name}]"
            )
        return True

    def _check_leak(self, name: str) -> None:
        """Raise ``UserError`` for a column that reveals the class of a row, such as a copy of the labels."""
        if name in self.keep:
            return
        import pandas as pd

        large = np.bincount(self.labels)[self.labels] >= ENOUGH
        codes, labels = pd.factorize(self.tables[TRAIN][name])[0][large], self.labels[large]
        first = np.zeros(self.labels.max() + 1, dtype=codes.dtype)
        first[labels[::-1]] = codes[::-1]
        if len(set(first[np.unique(labels)].tolist())) > 1 and (codes == first[labels]).all():
            raise UserError(
                f"{self._where(name)} has one value for all rows of a class, so that it reveals the labels; leave "
                f"it out with {KEY}.leave_out=[{name}], or keep it as an input with {KEY}.keep=[{name}]"
            )

    def _check_kinds(self, name: str, kinds: Mapping[str, str]) -> None:
        for part, table in self.tables.items():
            column, way_out = table[name], f"leave the column out with {KEY}.leave_out=[{name}]"
            if missing := int(column.isna().sum()):
                raise UserError(
                    f"{self._where(name, part)}: {missing:,} of {len(column):,} rows have no value; fill them in, "
                    f"leave these rows out, or {way_out}"
                )
            if kinds[part] == "dates":
                raise UserError(
                    f"{self._where(name, part)} holds dates such as {shown(column.iloc[0])}; expected numbers, such as "
                    f"days since the first; or {way_out}"
                )
            if kinds[part] == "others":
                raise UserError(
                    f"{self._where(name, part)} holds values such as {shown(column.iloc[0])} ({_type(column)}); "
                    f"expected numbers of at most 64 bits, or words; or {way_out}"
                )
            if (kinds[part] == "words") != (kinds[TRAIN] == "words"):
                raise UserError(
                    f"{self._where(name, part)} holds {kinds[part]}, {self._where(name)} {kinds[TRAIN]}; expected the "
                    f"same in both; or {way_out}"
                )

    def _numbers(self, name: str) -> dict[str, np.ndarray]:
        way_out = f"; or leave the column out with {KEY}.leave_out=[{name}]"
        return {
            part: numbers(table[name].to_numpy(), self._where(name, part), way_out)[:, None]
            for part, table in self.tables.items()
        }

    def _one_hot(self, name: str) -> dict[str, np.ndarray]:
        """Return a column for every word of the training part, 1 where a row has it."""
        texts = {part: _words(table[name]) for part, table in self.tables.items()}
        found, rows = np.unique(texts[TRAIN]), len(texts[TRAIN])
        way_out = f"leave it out with {KEY}.leave_out=[{name}]"
        if sum(map(_looks_like_a_number, found)) > len(found) / 2:
            others = [word for word in found if not _is_plain(word)] or found.tolist()
            raise UserError(
                f"{self._where(name)}: expected numbers, but it holds {listed(others, 3)}; write these as "
                f"numbers (of at most 64 bits, with a decimal point), or {way_out}"
            )
        if len(found) > min(MOST_WORDS, rows / 2):
            raise UserError(
                f"{self._where(name)} holds {len(found):,} different words in {rows:,} rows; expected numbers, or "
                f"words that repeat (at most {MOST_WORDS}, and half as many as rows); encode it, take it as texts with "
                f"{KEY}.text={{_target_: dmm_exp.data.HashedWords, column: {name}}}, or {way_out}"
            )
        for part, words in texts.items():
            if unknown := sorted(set(words) - set(found)):
                raise UserError(
                    f"{self._where(name, part)} holds {listed(unknown, 3)}, which {self.files[TRAIN]} does not; "
                    f"expected only words that are in it; or {way_out}"
                )
        self.words[name] = len(found)
        return {part: (words[:, None] == found).astype(np.float32) for part, words in texts.items()}


def _kind(column: Any) -> str:
    """Return the kind of a column: fractions, whole numbers (or true and false), dates, words, or others."""
    from pandas.api import types

    if isinstance(column.dtype, types.CategoricalDtype):
        return _kind(column.astype(column.cat.categories.dtype))
    if types.is_float_dtype(column.dtype) or types.is_complex_dtype(column.dtype):
        return "fractions"
    if types.is_numeric_dtype(column.dtype):
        return "whole numbers"
    if types.is_datetime64_any_dtype(column.dtype) or types.is_timedelta64_dtype(column.dtype):
        return "dates"
    filled = column.dropna()
    if not all(isinstance(value, str) for value in filled):
        return "others"
    return "dates" if len(filled) and filled.astype(str).str.fullmatch(DATE).all() else "words"


def _counts(column: Any) -> bool:
    """Return whether a column holds consecutive whole numbers, each once, in any order."""
    from pandas.api import types

    if not types.is_integer_dtype(column.dtype) or column.isna().any():
        return False
    return bool(column.is_unique) and int(column.max()) - int(column.min()) == len(column) - 1


def _words(column: Any) -> np.ndarray:
    return np.array([unicodedata.normalize("NFC", str(word)) for word in column])


def _is_plain(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _looks_like_a_number(text: str) -> bool:
    """Return whether a text is a number in everyday writing: ``3,5``, ``1.234,5``, ``12 %``, ``$3``."""
    return _is_plain(text) or _is_plain("".join(one for one in text if one not in ",.'  %$€£"))


def _type(column: Any) -> str:
    return type(column.iloc[0]).__name__
