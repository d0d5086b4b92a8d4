"""Data frames in R's own files (``.rda``, ``.RData``), read as data: nothing that stands in such a file is run.

``rdata`` parses a file into plain objects. Of these only numbers, truth values and factors become columns; functions,
calls, environments and whatever else R can save is refused by its type.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dmm_exp.errors import REASON, UserError, explained, listed
from dmm_exp.files.reading import check_memory, machine_memory

DataFrame = Any  # a pandas.DataFrame
RObject = Any  # an rdata.parser.RObject: a type in ``info``, a value, and attributes

ENDS = (".rda", ".rdata")
MAGIC = (b"RDX2\n", b"RDX3\n")  # R's save(), versions 2 and 3, in its binary format
PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}  # how save() packs, by the first bytes
PARSED = 75  # bytes of memory that one byte of a file takes when it is parsed, at most (an empty element of a list)
WHOLE = 2**53  # up to this value float64 represents all whole numbers exactly
NUMBERS = ("LGL", "INT", "REAL")
SEQUENCE = "compact_intseq"  # how R writes 1:n: n, the first number, and the step
FACTORS = (["factor"], ["ordered", "factor"])
WHAT = {
    **{"CLO": "a function", "ENV": "an environment", "LANG": "a call", "EXPR": "an expression", "S4": "an S4 object"},
    **{"LGL": "truth values", "INT": "numbers", "REAL": "numbers", "CPLX": "complex numbers", "STR": "texts"},
    **{"RAW": "bytes", "VEC": "a list"},
}


def read_frame(path: Path) -> DataFrame:
    """Return the data frame in a file, as pandas reads what R's ``write.csv(row.names = FALSE)`` writes of it.

    Whole numbers are int64, others float64 with NaN for ``NA``. A factor becomes its words, with NaN for ``NA``, or
    numbers if all its levels are numbers. Names of rows are left out.

    Raises:
        UserError: the package ``rdata`` is not there; the file is damaged or would not fit into memory, or holds
            something else than one data frame of numbers and factors.
    """
    import pandas as pd

    with explained("files of R need the package rdata: pip install 'dmm_exp[rdata]'", ImportError):
        from rdata.parser import parse_data
    damage = explained(f"{path} is not a complete file of R's save(): {REASON}")  # it may raise any exception
    with damage, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # rdata warns of what it cannot take as it stands
        parsed = parse_data(_content(path), extension=".rda", expand_altrep=False)
        columns = _columns(list(_pairs(parsed.object)))
        return pd.DataFrame({column.name: column.table_values() for column in columns})


def _content(path: Path) -> bytes:
    """Return what R saved, unpacked, if it can be parsed in this machine's memory."""
    with path.open("rb") as file:
        head = file.read(max(map(len, PACKED)))
    unpack = next((opener for mark, opener in PACKED.items() if head.startswith(mark)), open)
    with unpack(path, "rb") as file:
        content = file.read(int(min(machine_memory() / PARSED, 2**62)) + 1)
    check_memory(PARSED * len(content))
    if not content.startswith(MAGIC):
        raise ValueError("expected its binary format, RDX2 or RDX3")
    return content


def _columns(found: Sequence[tuple[str, RObject]]) -> list[_Column]:
    """Return the columns of the data frame that is the only object in a file."""
    if len(found) != 1:
        raise UserError(f"it holds {listed([name for name, _ in found]) or 'nothing'}; expected one data frame")
    ((name, frame),) = found
    facts = dict(_pairs(frame.attributes))
    if frame.info.type.name != "VEC" or "data.frame" not in _texts(facts.get("class")):
        raise UserError(f"it holds '{name}', {_what(frame)}; expected one data frame")
    columns = [_Column.of(*pair) for pair in zip(_texts(facts.get("names")), frame.value, strict=True)]
    names = [column.name for column in columns]
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise UserError(f"several columns are called {listed(twice)}; expected different names")
    if len({column.rows for column in columns}) > 1:
        raise ValueError("its columns differ in their numbers of rows")
    check_memory(8 * sum(column.rows for column in columns))
    return columns


@dataclass(frozen=True)
class _Column:
    """A column of a data frame as it stands in the file.

    Attributes:
        name: of the column.
        kind: one of NUMBERS, or SEQUENCE.
        values: ``[rows]``, those of integers masked where they are missing; ``[3]`` of a sequence.
        levels: of a factor, whose values are places in this list, from 1 on; None of other columns.
    """

    name: str
    kind: str
    values: np.ndarray
    levels: list[str] | None

    @classmethod
    def of(cls, name: str, found: RObject) -> _Column:
        """Return a column, out of the wrapper that R puts around values of which it knows more (sorted, complete)."""
        facts = dict(_pairs(found.value[2] if found.info.type.name == "ALTREP" else found.attributes))
        while _kind(found).startswith("wrap_"):
            found = found.value[1].value[0]
        kind, classes = _kind(found), _texts(facts.get("class"))
        if classes in FACTORS and kind == "INT":
            return cls(name, kind, found.value, _texts(facts.get("levels")))
        if classes or kind not in (*NUMBERS, SEQUENCE):
            what = f"of the class {listed(classes)}" if classes else _what(found)
            raise UserError(f"column '{name}' is {what}; expected numbers, truth values or a factor")
        return cls(name, kind, found.value[1].value if kind == SEQUENCE else found.value, None)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.values[0]) if self.kind == SEQUENCE else len(self.values)

    def table_values(self) -> Any:
        """Return the values ``[rows]`` as they stand in a table of pandas."""
        if self.kind == SEQUENCE:
            first, step = map(int, self.values[1:])
            return first + step * np.arange(self.rows)
        if self.levels is not None:
            return self._words(self.levels)
        if np.ma.is_masked(self.values) or self.kind == "REAL":
            return _whole(np.ma.filled(self.values.astype(np.float64), np.nan))
        return np.asarray(self.values, bool if self.kind == "LGL" else np.int64)

    def _words(self, levels: list[str]) -> Any:
        import pandas as pd

        places = np.ma.filled(self.values, 0)
        if places.min(initial=0) < 0 or places.max(initial=0) > len(levels):
            raise ValueError(f"column '{self.name}' has values that are none of its {len(levels)} levels")
        words: Any = pd.Series([np.nan, *levels], dtype=object)
        numbers: Any = pd.to_numeric(words, errors="coerce")
        return words[places].to_numpy() if numbers[1:].isna().any() else _whole(numbers[places].to_numpy())


def _whole(values: np.ndarray) -> np.ndarray:
    """Return numbers as int64 if all are whole."""
    with np.errstate(invalid="ignore"):
        is_whole = bool((np.abs(values) <= WHOLE).all() and (values == np.round(values)).all())
    return values.astype(np.int64) if is_whole else values


def _pairs(found: RObject | None) -> Iterator[tuple[str, RObject]]:
    """Yield the names and values of R's list of pairs, as attributes and what was saved are kept in."""
    while found is not None and found.info.type.name == "LIST":
        yield _symbol(found.tag), found.value[0]
        found = found.value[1]


def _symbol(found: RObject) -> str:
    return _text((found.referenced_object or found).value)


def _texts(found: RObject | None) -> list[str]:
    return [_text(one) for one in found.value] if found is not None and found.info.type.name == "STR" else []


def _text(found: RObject) -> str:
    from rdata.conversion import convert_char

    text = convert_char(found, default_encoding="utf-8")
    if not isinstance(text, str):
        raise ValueError("one of its names or levels is missing, or no text")
    return text


def _kind(found: RObject) -> str:
    """Return R's name of an object's type, or of the special form in which it stands in the file."""
    name = found.info.type.name
    return _symbol(found.value[0].value[0]) if name == "ALTREP" else name


def _what(found: RObject) -> str:
    return WHAT.get(found.info.type.name, f"of R's type {_kind(found)}")
