"""Tables in text files: separator, character encoding and decimal point are found, and pandas reads the values."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmm_exp.errors import UserError

DataFrame = Any  # a pandas.DataFrame; the type annotations of pandas are too narrow for this module

ENDS = (".csv", ".tsv")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
UNPACKED = 2 * 2**30  # largest size of a compressed file's content, in bytes
HEAD = 2**16  # number of bytes from which separator and encoding are found
FIRST, LAST = "Unnamed: 0", "Unnamed: last"  # columns without a name in the first line
MISSING = ("", "nan", "NaN", "-nan", "-NaN", "<NA>", "#N/A", "#N/A N/A", "#NA", "NaT")
NO_NUMBER = (*MISSING, "NA", "N/A", "n/a", "None", "NULL", "null", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN")
WHOLE, DECIMAL_COMMA = r"[+-]?\d+", r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?"


def _zipped(path: Path) -> Any:
    archive = zipfile.ZipFile(path)
    inside = [info for info in archive.infolist() if not info.is_dir()]
    if len(inside) != 1 or inside[0].flag_bits & 1:
        raise UserError(f"{path}: expected a .zip with one file that is not encrypted, found {len(inside)}; unpack it")
    return archive.open(inside[0])


PACKED: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zip": _zipped}


@dataclass(frozen=True)
class Text:
    """A table in a text file, which can be read more than once.

    Attributes:
        path: the file.
        content: the unpacked content, if the file is compressed.
        encoding: of its characters.
        separator: of its values.
        names: of its columns.
    """

    path: Path
    content: bytes | None
    encoding: str
    separator: str
    names: list[str]

    def read(self, **options: Any) -> DataFrame:
        """Return the table as pandas reads it."""
        import pandas as pd

        if {FIRST, LAST} & {self.names[0], self.names[-1]}:
            options = {"names": self.names, "header": 0, **options}
        source: Any = self.path if self.content is None else io.BytesIO(self.content)
        table = pd.read_csv(source, sep=self.separator, encoding=self.encoding, compression=None, **options)
        if not isinstance(table.index, pd.RangeIndex):
            raise ValueError("rows have more values than the first line has names")
        return table


def read_delimited(path: Path, label: str, texts: Collection[str] = ()) -> tuple[DataFrame, list[str]]:
    """Return a table, and notes on how it was read if it is not plain CSV in UTF-8.

    A column holds numbers (or true and false), or texts; a missing value is NaN in both. ``NA``, ``N/A``, ``None`` and
    ``null`` are missing values in a column of numbers, and ordinary texts in a column of texts.

    Args:
        path: the file, which may be compressed.
        label: name of a column; the separator is what separates this name from the others.
        texts: names of columns whose values are returned as they are written, missing ones as empty texts.

    Raises:
        UserError: the file cannot be unpacked.
        ValueError: pandas cannot read the file.
    """
    content = _unpacked(path) if path.suffix.lower() in PACKED else None
    head = _head(path) if content is None else content[:HEAD]
    for encoding in _encodings(head):
        try:
            separator, names = _layout(head, encoding, label)
            text = Text(path, content, encoding, separator, names)
            table, decimal = _columns(text)
            written = [place for place, name in enumerate(table.columns) if name in texts]
            if written:
                table[table.columns[written]] = text.read(usecols=written, dtype=str, keep_default_na=False)
        except UnicodeDecodeError:
            if encoding == "latin-1":
                raise
            continue
        facts = [f"values separated by {SEPARATORS[separator]}"] if separator != "," else []
        facts += ["decimal commas"] if decimal == "," else []
        facts += [f"characters in {encoding.upper()}"] if encoding != "utf-8" else []
        return table, facts
    raise ValueError("its characters are in no known encoding")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _encodings(head: bytes) -> Iterator[str]:
    """Yield the possible encodings of a file, the most likely first."""
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        yield "utf-16"
        return
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
        yield "utf-8"
    except UnicodeDecodeError:
        pass
    yield "latin-1"


def _layout(head: bytes, encoding: str, label: str) -> tuple[str, list[str]]:
    """Return the separator, and the names of all columns."""
    rows = {separator: _rows(head, encoding, separator) for separator in SEPARATORS}
    fitting = [separator for separator in SEPARATORS if label in rows[separator][0]]
    separator = (fitting or sorted(SEPARATORS, key=lambda one: -len(rows[one][0])))[0]
    names, *others = rows[separator]
    if names.count(label) > 1:
        raise UserError(f"{names.count(label)} columns are called '{label}'; expected one column of labels")
    if not others or any(len(row) != len(names) + 1 for row in others):
        return separator, names
    is_last = all(row[-1] == "" for row in others)  # every row ends with a separator
    return separator, [*names, LAST] if is_last else [FIRST, *names]


def _rows(head: bytes, encoding: str, separator: str) -> list[list[str]]:
    """Return the values of the first rows; one empty row at least."""
    text = codecs.getincrementaldecoder(encoding)().decode(head).removeprefix("\ufeff")
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row]
    except csv.Error:
        return [[""]]
    return (rows if len(head) < HEAD else rows[:-1]) or [[""]]


def _unpacked(path: Path) -> bytes:
    """Return the content of a compressed file, if it is not too large."""
    try:
        with PACKED[path.suffix.lower()](path) as file:
            content = file.read(UNPACKED + 1)
    except UserError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a complete {path.suffix} file: {error}") from error
    if len(content) > UNPACKED:
        raise UserError(f"{path} holds more than {UNPACKED:,} bytes; unpack it and give the unpacked file")
    return content


def _columns(text: Text) -> tuple[DataFrame, str]:
    """Return the table, and the decimal point of its numbers."""
    import pandas as pd

    decimal, table = ".", text.read()
    texts = _texts(text, table)
    if text.separator != "," and any(_has_decimal_commas(texts[name]) for name in texts.columns):
        decimal, table = ",", text.read(decimal=",")
        texts = _texts(text, table)
    for name in texts.columns:
        numbers, filled = (texts[name][~texts[name].isin(missing)] for missing in (NO_NUMBER, MISSING))
        if pd.Series(pd.to_numeric(numbers, errors="coerce")).isna().any() or (numbers.empty and filled.nunique() > 1):
            table[name] = texts[name].astype(object).where(~texts[name].isin(MISSING))
    return table, decimal


def _texts(text: Text, table: DataFrame) -> DataFrame:
    """Return the columns that are not plain numbers, as texts."""
    from pandas.api.types import is_numeric_dtype

    columns = [table.iloc[:, place] for place in range(table.shape[1])]
    places = [place for place, one in enumerate(columns) if not is_numeric_dtype(one.dtype) or one.isna().any()]
    return text.read(usecols=places, dtype=str, keep_default_na=False) if places else table.iloc[:, :0]


def _has_decimal_commas(column: Any) -> bool:
    """Return whether a column holds only numbers, some of them with a decimal comma."""
    filled = column[~column.isin(NO_NUMBER)]
    fractions = filled.str.fullmatch(DECIMAL_COMMA)
    return bool(fractions.any() and (fractions | filled.str.fullmatch(WHOLE)).all())
