"""Tables with a column of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dmm_exp.data.classes import classes_of
from dmm_exp.data.formats import delimited, rda
from dmm_exp.data.formats.columns import KEY, Columns
from dmm_exp.data.formats.format import TEST, TRAIN, Format, Part, Reading
from dmm_exp.data.groups import group_texts
from dmm_exp.errors import UserError, did_you_mean, listed, shown
from dmm_exp.files.reading import check_memory, check_parquet

if TYPE_CHECKING:
    import pandas as pd

PARQUET = ".parquet"


@dataclass(frozen=True)
class Table(Format):
    """A CSV, parquet or R file, or a folder with ``train`` and perhaps ``test`` files of these kinds.

    Values in text files may be separated by commas, semicolons (also with decimal commas) or tabs, the characters may
    be UTF-8, UTF-16 or Latin-1, and files may be compressed. A file of R's ``save()`` holds one data frame. Every
    column but the labels is an input: numbers, or words that repeat, which are one-hot encoded. Columns without a name
    that are empty or number the rows are left out. Labels may be of any kind: the classes are their sorted distinct
    values.

    Attributes:
        label: name of the column of labels.
        leave_out: columns that are not used.
        keep: columns that are inputs although they seem to number the rows or to reveal the labels.
        group_by: columns that say from whom or where each training row is. They are no inputs.
    """

    label: str = "label"
    leave_out: Sequence[str] = ()
    keep: Sequence[str] | None = None
    group_by: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.label, Sequence) and not isinstance(self.label, str):
            raise UserError(f"{KEY}.label={list(self.label)}: expected one column, whose values are classes")

    @property
    def expected(self) -> str:
        """A description of the files, for errors."""
        return (
            "a .csv, .tsv, .parquet or .rda file (.csv.gz and the like, too), or a folder with train.csv and perhaps "
            "test.csv"
        )

    def found(self, path: Path) -> bool:
        """Return whether ``path`` is such a file or folder."""
        return (path.is_file() and _end(path) is not None) or _inside(path, TRAIN) is not None

    def read(self, path: Path) -> Reading:
        """Return inputs float32 ``[rows, columns]``."""
        candidates = {TRAIN: path} if path.is_file() else {part: _inside(path, part) for part in (TRAIN, TEST)}
        files = {part: file for part, file in candidates.items() if file is not None}
        groups = tuple(self.group_by or ())
        read = {part: self._table(file, groups if part == TRAIN else ()) for part, file in files.items()}
        grouped = {name: group_texts(read[TRAIN][0][name], f"column '{name}' of {files[TRAIN]}") for name in groups}
        used = {part: self._used(table, files[part]) for part, (table, _) in read.items()}
        tables, first = {}, used[TRAIN]
        for part, table in used.items():
            self._check_columns(table, first, files[part], files[TRAIN])
            tables[part] = table[list(first.columns)]
        source = f"{KEY}.label={self.label}"
        labels = {part: _values(table, self.label) for part, table in tables.items()}
        coded, names = classes_of(labels, source)
        inputs = {part: table.drop(columns=self.label) for part, table in tables.items()}
        columns = Columns(inputs, {part: str(file) for part, file in files.items()}, coded[TRAIN], self.keep or ())
        arrays = columns.inputs()
        parts = {part: Part(arrays[part], coded[part]) for part in tables}
        parts[TRAIN] = replace(parts[TRAIN], columns=grouped)
        taken = [_sentence(files[TRAIN], read[TRAIN][1], self.label, names, columns)]
        return Reading(parts, names, tuple(files.values()), tuple(taken), source)

    def _table(self, path: Path, groups: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
        """Return a table, the values of groups as they are written, and notes on how it was read."""
        import pandas as pd
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table

        facts: list[str] = []
        try:
            if _end(path) == PARQUET:
                check_parquet(path)
                table = pd.read_parquet(path)
                for name, values in read_table(path, columns=list(groups)).to_pydict().items():
                    table[name] = pd.Series(values, table.index, object)  # whole numbers of 64 bits stay what they are
            elif _end(path) in rda.ENDS:
                table = rda.read_frame(path)
            else:
                check_memory(path.stat().st_size)
                table, facts = delimited.read_delimited(path, self.label, groups)
        except UserError as error:
            raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
        except (ValueError, OSError, ArrowException, LookupError, TypeError, RecursionError, MemoryError) as error:
            raise UserError(f"{path} is not a complete {_end(path)} table: {error}") from error
        table.columns = [str(name) for name in table.columns]
        self._check_names(path, list(table.columns), groups)
        if len(table) == 0:
            raise UserError(f"{path} has no rows")
        return table, facts

    def _used(self, table: pd.DataFrame, path: Path) -> pd.DataFrame:
        """Return a table without the columns to leave out and those that name groups."""
        used = table.drop(columns=[*self.leave_out, *(self.group_by or ())], errors="ignore")
        if used.shape[1] == 1:
            raise UserError(f"{path} has no column besides '{self.label}' and those left out")
        return used

    def _check_names(self, path: Path, names: list[str], groups: Sequence[str]) -> None:
        expected = {"label": [self.label], "leave_out": self.leave_out, "keep": self.keep or (), "group_by": groups}
        for key, wanted in expected.items():
            for name in wanted:
                if name not in names:
                    values = [one for one in names if one.replace(".", "").lstrip("+-").isdigit()]
                    first = f"; the first line holds the value {values[0]}, expected names of columns" if values else ""
                    raise UserError(
                        f"{KEY}.{key}: {path} has no column '{name}', it has {', '.join(names)}"
                        f"{did_you_mean(name, names)}{first}"
                    )
        if self.label in (*self.leave_out, *(self.keep or ())):
            raise UserError(f"{KEY}.leave_out, {KEY}.keep: '{self.label}' is the label; expected other columns")
        if inputs := [name for name in groups if name in (self.label, *(self.keep or ()))]:
            raise UserError(f"{KEY}.group_by: '{inputs[0]}' is the label or in {KEY}.keep; expected other columns")

    def _check_columns(self, table: pd.DataFrame, first: pd.DataFrame, file: Path, train: Path) -> None:
        """Raise ``UserError`` unless a part has the training part's columns, in any order."""
        missing, more = (
            [name for name in one.columns if name not in other.columns]
            for one, other in ((first, table), (table, first))
        )
        if missing or more:
            lacks = f"lacks the column {listed(missing)}" if missing else f"has the column {listed(more)} besides"
            raise UserError(f"{file} {lacks}; expected the columns of {train}")


def _end(path: Path) -> str | None:
    """Return the ending of a table file's name, without that of the compression; None for other files."""
    name = path.name.lower()
    if plain := next((end for end in (PARQUET, *rda.ENDS) if name.endswith(end)), None):
        return plain
    packed = next((end for end in delimited.PACKED if name.endswith(end)), "")
    return next((end for end in delimited.ENDS if name.endswith(end + packed)), None)


def _inside(folder: Path, part: str) -> Path | None:
    """Return the file of a part: text before others, plain before compressed."""
    if not folder.is_dir():
        return None
    found = [
        file for file in folder.iterdir() if file.name.lower().startswith(f"{part}.") and _end(file) and file.is_file()
    ]
    return min(found, key=lambda file: (_end(file) not in delimited.ENDS, len(file.name), file.name), default=None)


def _values(table: pd.DataFrame, label: str) -> np.ndarray:
    missing, values = table[label].isna().to_numpy(), table[label].to_numpy()
    if missing.any():
        raise UserError(f"column '{label}': {int(missing.sum())} labels are missing")
    if values.dtype.kind == "O" and (several := [one for one in values if isinstance(one, (np.ndarray, list, dict))]):
        raise UserError(
            f"{KEY}.label={label}: {len(several):,} rows have labels such as {shown(several[0])} "
            f"({type(several[0]).__name__}); expected one class for each row"
        )
    return values if values.dtype.kind in "biuf" else values.astype(str)


def _sentence(file: Path, facts: list[str], label: str, names: list[str], columns: Columns) -> str:
    """Return a sentence that says how a table was read."""
    named = [name for name in columns.tables[TRAIN].columns if name not in columns.left_out]
    parts = [*facts, f"label '{label}' of {len(names)} classes ({listed(names)})", f"inputs {listed(named)}"]
    parts += [f"'{name}' as {count} columns, one for each word" for name, count in columns.words.items()]
    parts += [f"'{name}' left out, since {why}" for name, why in columns.left_out.items()]
    return f"{file.name}: {'; '.join(parts)}"
