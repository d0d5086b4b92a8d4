"""Files that list rows, read value by value without any guess."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dmm_exp.errors import UserError, did_you_mean, reason_of, shown
from dmm_exp.files.reading import Json, check_parquet

TEXTS = (".txt", ".csv", ".tsv")
ENDS = (*TEXTS, ".json", ".npy", ".parquet")
LARGEST = 64 * 2**20  # largest size of a file in bytes; Python needs many times as much for its values
MOST_LINES = 5_000_000
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
STORED_INDEX = re.compile(r"__index_level_\d+__|Unnamed: 0|")  # names under which pandas keeps its index
MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"),
         (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))  # fmt: skip


@dataclass(frozen=True)
class Entries:
    """The values of a list.

    Attributes:
        values: whole numbers, true or false, texts, or other values.
        source: where the values are, as in ``in column 'row' of rows.csv``; empty for a list in memory.
        lines: the line number of each value, for text files.
    """

    values: list[Any]
    source: str = ""
    lines: Sequence[int] | None = None

    def where(self, number: int) -> str:
        """Return the name of a value for errors."""
        return f"entry {number + 1}" if self.lines is None else f"line {self.lines[number]}"


@dataclass(frozen=True)
class ListFile:
    """A file that lists rows.

    Attributes:
        path: of the file.
        key: beginning of errors, as in ``forget.indices=rows.csv``.
        column: one of several columns, by its name, or by its position from 0 if columns have no names.
        header: whether the first line of a text names the columns; None if that is clear from the file.
        is_name: returns whether a text is the name of a training file.
    """

    path: Path
    key: str
    column: str | int | None
    header: bool | None
    is_name: Callable[[str], bool]

    def entries(self) -> Entries:
        """Return the values in the file.

        Raises:
            UserError: the file cannot be read, or its meaning is not clear.
        """
        end = self.path.suffix.lower()
        if end not in ENDS:
            raise self.error(f"expected a file ending in {', '.join(ENDS)}")
        if self.header is not None and end not in TEXTS:
            raise self.error(f"{self._option('header', self.header)} is for files ending in {', '.join(TEXTS)}")
        readers = {".json": self._json, ".npy": self._npy, ".parquet": self._parquet}
        try:
            self._check_size()
            return readers.get(end, self._text)()
        except UserError:
            raise
        except Exception as error:  # a damaged file may raise any exception in the readers of arrays
            raise self.error(f"cannot be read ({reason_of(error)})") from error

    def error(self, text: str) -> UserError:
        """Return an error about this file."""
        return UserError(f"{self.key}: {text}")

    def _option(self, name: str, value: object) -> str:
        """Return how an option is given, on the command line or in Python."""
        if self.key.startswith("forget.indices"):
            return f"forget.{name}={str(value).lower() if isinstance(value, bool) else _quoted(str(value))}"
        if self.key.startswith("request.record_ids"):
            return f"request.id_column={_quoted(str(value))}"
        return f"dmm_exp.forget.Indices(path, {name}={value!r})"

    def _check_size(self) -> None:
        if not self.path.exists():
            raise self.error("there is no such file")
        if not self.path.is_file():
            raise self.error("is not a file; expected a file that lists rows")
        size = self.path.stat().st_size
        if size > LARGEST:
            raise self.error(f"has {size:,} bytes; expected at most {LARGEST:,}")

    # ------------------------------------------------------------------ text

    def _decoded(self) -> str:
        content = self.path.read_bytes()
        encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            raise self.error("is not text in UTF-8, nor in UTF-16 or UTF-32 with a byte order mark") from error
        if "\0" in text:
            raise self.error("holds bytes that are not text; expected text in UTF-8")
        if text.count("\n") + text.count("\r") > MOST_LINES:
            raise self.error(f"has too many lines; expected at most {MOST_LINES:,}")
        return text

    def _text(self) -> Entries:
        table = self._table()
        if not table:
            return Entries([], f"in {self.path.name}", [])
        titles = table[0][1] if self._is_headed(table) else None
        body = table if titles is None else table[1:]
        place = self._place(titles, len(table[0][1]), [fields for _, fields in body])
        values = [_value(fields[place]) for _, fields in body]
        return Entries(values, self._source(titles, place, len(table[0][1])), [number for number, _ in body])

    def _table(self) -> list[tuple[int, list[str]]]:
        """Return the lines' numbers and fields, without empty lines and comments."""
        numbered = enumerate(re.split(r"\r\n|\n|\r", self._decoded()), 1)
        lines = [(number, line.strip(" ")) for number, line in numbered if line.strip()]
        lines = [(number, line) for number, line in lines if line[0] != "#" or self.is_name(line)]
        separator = self._separator([line for _, line in lines if not self.is_name(line)])
        table = [(number, self._fields(number, line, separator)) for number, line in lines]
        for number, fields in table:
            if len(fields) != len(table[0][1]):
                raise self.error(
                    f"line {number} has {len(fields)} columns, line {table[0][0]} has {len(table[0][1])}; expected "
                    "the same number in every line"
                )
        return table

    def _separator(self, lines: Sequence[str]) -> str:
        """Return the separator of columns; a comma if there is only one column."""
        bare = [re.sub(r'"[^"]*"', "", line) for line in lines]
        there = [mark for mark in SEPARATORS if any(mark in line for line in bare)]
        if len(there) > 1:
            raise self.error(f"holds {' and '.join(SEPARATORS[mark] for mark in there)}; expected one separator")
        return there[0] if there else ","

    def _fields(self, number: int, line: str, separator: str) -> list[str]:
        if self.is_name(line):
            return [line]
        try:
            return [field.strip() for field in next(csv.reader([line], delimiter=separator, strict=True,
                                                               skipinitialspace=True))]  # fmt: skip
        except csv.Error as error:
            raise self.error(f"line {number} cannot be read ({error})") from error

    def _is_headed(self, table: list[tuple[int, list[str]]]) -> bool:
        """Return whether the first line names the columns.

        Raises:
            UserError: it may be names or values.
        """
        if self.header is not None:
            return self.header
        number, first = table[0]
        below = [fields[0] for _, fields in table[1:]]
        if first[0] == "" and len(first) > 1 and _counts(below):
            return True  # pandas leaves the name of its index empty
        if all(self._is_title(text) or (text == "" and len(first) > 1) for text in first) and any(first):
            return len(first) > 1 or not self._is_doubtful(first[0], number, below)
        if len(first) > 1 or first[0] == "0":
            what = "column names or the first row" if len(first) > 1 else "row 0 or the name of a pandas column"
            choice = f"{self._option('header', True)} or {self._option('header', False)}"
            also = "" if self.column is not None or len(first) == 1 else f", and choose one of {len(first)} columns"
            also += "" if not also else f" with {self._option('column', 'COLUMN')}"
            raise self.error(f"line {number} ('{shown(','.join(first))}') may be {what}; say so with {choice}{also}")
        return False

    def _is_title(self, text: str) -> bool:
        """Return whether a text of a first line is the name of a column: it holds a letter, and is not a value."""
        if not any(letter.isalpha() for letter in text) or isinstance(_value(text), bool) or self.is_name(text):
            return False
        starts_a_number = text[0].isnumeric() or text[0] in "+-."
        is_path = "/" in text or "\\" in text or re.search(r"\.\w{1,5}$", text) is not None
        return not starts_a_number and not is_path and not _is_float(text)

    def _is_doubtful(self, text: str, line: int, below: Sequence[str]) -> bool:
        """Raise ``UserError`` if the name of the only column holds a number, or may be the name of a training file."""
        bare = any(self.is_name(value) and not re.search(r"[./]", value) for value in below)
        if bare or re.search(r"(?<!\w)\d+(?!\w)", text):
            raise self.error(
                f"line {line} ('{shown(text)}') may be the name of the column, or a row; say so with "
                f"{self._option('header', True)} or {self._option('header', False)}"
            )
        return False

    def _source(self, titles: Sequence[str] | None, place: int, count: int) -> str:
        if titles is None and count == 1:
            return f"in {self.path.name}"
        name = str(place) if titles is None else f"'{titles[place]}'"
        return f"in column {name} of {self.path.name}"

    def _place(self, titles: Sequence[str] | None, count: int, rows: Sequence[Sequence[Any]]) -> int:
        """Return the position of the chosen column, or of the only one."""
        if self.column is None:
            if count == 1:
                return 0
            likely = int(_counts([row[0] for row in rows])) if titles is None else _likely(titles)
            choice = self._option("column", likely)
            raise self.error(f"has {count} columns{_listed(titles)}; choose one, as in {choice}{_index(titles, rows)}")
        if titles is None:
            if isinstance(self.column, int) and 0 <= self.column < count:
                return self.column
            raise self.error(f"its columns have no names; expected {self._option('column', 0)} to {count - 1}")
        places = [place for place, title in enumerate(titles) if title == str(self.column)]
        if len(places) != 1:
            wrong = "no column" if not places else f"{len(places)} columns"
            hint = did_you_mean(str(self.column), titles) if not places else ""
            raise self.error(f"has {wrong} named '{self.column}'{_listed(titles)}{hint}")
        return places[0]

    # ------------------------------------------------------------------ other formats

    def _json(self) -> Entries:
        found = json.loads(self._decoded(), object_pairs_hook=_without_repetition)
        records = isinstance(found, list) and bool(found) and all(isinstance(value, dict) for value in found)
        if not records and not isinstance(found, dict):
            if not isinstance(found, list):
                raise self.error(f"holds {_json_kind(found)}; expected a list of rows")
            if self.column is not None:
                raise self.error(f"is a list without columns; expected no {self._option('column', self.column)}")
            return Entries(found, f"in {self.path.name}")
        titles = list(dict.fromkeys(name for record in (found if records else [found]) for name in record))
        if self.column is None:
            example = self._option("column", _likely(titles))
            raise self.error(f"holds objects{_listed(titles)}; choose which of their values are rows, as in {example}")
        name = titles[self._place(titles, len(titles), [])]
        values = [record.get(name) for record in found] if records else found[name]
        if not isinstance(values, list):
            raise self.error(f"holds {_json_kind(values)} under '{name}'; expected a list of rows")
        return Entries(values, f"in column '{name}' of {self.path.name}")

    def _npy(self) -> Entries:
        if self.column is not None:
            raise self.error(f"an array has no columns; expected no {self._option('column', self.column)}")
        found = np.load(self.path, allow_pickle=False, mmap_mode="r")
        if not isinstance(found, np.ndarray):
            raise self.error("is an archive of arrays; expected one array")
        if found.ndim != 1:
            raise self.error(f"has the shape {list(found.shape)}; expected one dimension")
        if found.dtype.kind not in "iubU":
            raise self.error(f"holds {found.dtype}; expected whole numbers, or true and false")
        return Entries(found.tolist(), f"in {self.path.name}")

    def _parquet(self) -> Entries:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            check_parquet(self.path)
            with pq.ParquetFile(self.path) as file:
                titles, facts = file.schema_arrow.names, file.metadata
                size = sum(facts.row_group(number).total_byte_size for number in range(facts.num_row_groups))
                if max(size, 8 * facts.num_rows) > LARGEST:
                    raise self.error(f"holds {max(size, 8 * facts.num_rows):,} bytes; expected at most {LARGEST:,}")
                rows = [] if len(titles) == 1 else file.read(titles[:1]).column(0).to_pylist()
                place = self._place(titles, len(titles), [[value] for value in rows])
                values = file.read([titles[place]]).column(0).to_pylist()
        except UserError:
            raise
        except (pa.ArrowException, ValueError) as error:
            raise self.error(f"is not a complete parquet file ({reason_of(error)})") from error
        return Entries(values, f"in column '{titles[place]}' of {self.path.name}")


def _value(text: str) -> int | bool | str:
    """Return a text of a file as a whole number or truth value if it is one, or unchanged."""
    if re.fullmatch(r"0|-?[1-9][0-9]{0,4000}", text):
        return int(text)
    return {"true": True, "false": False}.get(text.lower(), text)


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _counts(values: Sequence[Any]) -> bool:
    """Return whether values are 0, 1, 2, ..., like the index of pandas."""
    return len(values) > 0 and all(str(value) == str(number) for number, value in enumerate(values))


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"\w+", name) else f"'{name}'"


def _likely(titles: Sequence[str]) -> str:
    """Return the column to name in an example: the only one besides the index of pandas, if there is only one."""
    others = [title for title in titles if not STORED_INDEX.fullmatch(title)]
    return others[0] if len(others) == 1 else "NAME"


def _listed(titles: Sequence[str] | None) -> str:
    return "" if titles is None else f" ({shown(', '.join(_quoted(title) for title in titles))})"


def _index(titles: Sequence[str] | None, rows: Sequence[Sequence[Any]]) -> str:
    """Return a clause about a column with the index of pandas, if there is one."""
    counts = _counts([row[0] for row in rows])
    if titles is None:
        return "; column 0 only counts 0, 1, 2, …, as the index of pandas does" if counts else ""
    place = next((place for place, title in enumerate(titles) if STORED_INDEX.fullmatch(title)), None)
    if place is None:
        return ""
    only = ", which only counts 0, 1, 2, …" if counts and place == 0 else ""
    return f"; {_quoted(titles[place])} is the index of pandas{only}"


def _without_repetition(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _json_kind(value: object) -> str:
    return {dict: "an object", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")
