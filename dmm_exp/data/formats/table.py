"""Tables with a column of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dmm_exp.data.classes import classes_of
from dmm_exp.data.formats import delimited, rda
from dmm_exp.data.formats.columns import KEY, Columns
from dmm_exp.data.formats.format import TEST, TRAIN, Format, Part, Reading
from dmm_exp.data.groups import group_texts
from dmm_exp.data.words import Texts, WordEncoder, words_of
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
        text: how the words of one column become numbers; this column is then the only input.
    """

    label: str = "label"
    leave_out: Sequence[str] = ()
    keep: Sequence[str] | None = None
    group_by: Sequence[str] | None = None
    text: WordEncoder | None = None

    def __post_init__(self) -> None:
        if isinstance(self.label, Sequence) and not isinstance(self.label, str):
            raise UserError(f"{KEY}.label={list(self.label)}: expected one column, whose values are classes")
        if self.text is not None and not isinstance(self.text, WordEncoder):
            raise UserError(
                f"{KEY}.text={shown(self.text)}: expected null, or how words get numbers: "
                "{_target_: dmm_exp.data.HashedWords, column: COLUMN}"
            )
        if self.text is not None and not self.text.column:
            raise UserError(f"{KEY}.text.column: expected the name of the column that holds the texts")

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
        """Return inputs float32 ``[rows, columns]``, or texts."""
        candidates = {TRAIN: path} if path.is_file() else {part: _inside(path, part) for part in (TRAIN, TEST)}
        files = {part: file for part, file in candidates.items() if file is not None}
        groups = tuple(self.group_by or ())
        texts = [] if self.text is None else [str(self.text.column)]
        written = {part: [*(groups if part == TRAIN else ()), *texts] for part in files}
        read = {part: self._table(file, written[part]) for part, file in files.items()}
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
        facts = [*read[TRAIN][1], f"label '{self.label}' of {len(names)} classes ({listed(names)})"]
        if self.text is None:
            columns = Columns(inputs, {part: str(file) for part, file in files.items()}, coded[TRAIN], self.keep or ())
            found, more = columns.inputs(), _inputs_in_words(columns)
        else:
            found, more = _texts(inputs, self.text, files)
        parts = {part: Part(found[part], coded[part]) for part in tables}
        parts[TRAIN] = replace(parts[TRAIN], columns=grouped)
        taken = [f"{files[TRAIN].name}: {'; '.join([*facts, *more])}"]
        return Reading(parts, names, tuple(files.values()), tuple(taken), source)

    def _table(self, path: Path, written: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
        """Return a table, the values of some columns as they are written, and notes on how it was read."""
        import pandas as pd
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table

        facts: list[str] = []
        try:
            if _end(path) == PARQUET:
                check_parquet(path)
                table = pd.read_parquet(path)
                for name, values in read_table(path, columns=list(written)).to_pydict().items():
                    table[name] = pd.Series(values, table.index, object)  # whole numbers of 64 bits stay what they are
            elif _end(path) in rda.ENDS:
                table = rda.read_frame(path)
            else:
                check_memory(path.stat().st_size)
                table, facts = delimited.read_delimited(path, self.label, written)
        except UserError as error:
            raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
        except (ValueError, OSError, ArrowException, LookupError, TypeError, RecursionError, MemoryError) as error:
            raise UserError(f"{path} is not a complete {_end(path)} table: {error}") from error
        table.columns = [str(name) for name in table.columns]
        self._check_names(path, list(table.columns), written)
        if len(table) == 0:
            raise UserError(f"{path} has no rows")
        return table, facts

    def _used(self, table: pd.DataFrame, path: Path) -> pd.DataFrame:
        """Return a table without the columns to leave out and those that name groups."""
        used = table.drop(columns=[*self.leave_out, *(self.group_by or ())], errors="ignore")
        if used.shape[1] == 1:
            raise UserError(f"{path} has no column besides '{self.label}' and those left out")
        return used

    def _check_names(self, path: Path, names: list[str], written: Sequence[str]) -> None:
        text = [] if self.text is None else [str(self.text.column)]
        groups = [name for name in self.group_by or () if name in written]  # the test part needs none
        expected = {"label": [self.label], "leave_out": self.leave_out, "keep": self.keep or (), "group_by": groups}
        expected["text.column"] = text
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
        if used := [name for name in text if name in (self.label, *self.leave_out, *groups)]:
            raise UserError(
                f"{KEY}.text.column={used[0]}: is the label, or in {KEY}.leave_out or {KEY}.group_by; expected another "
                "column"
            )

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


def _inputs_in_words(columns: Columns) -> list[str]:
    """Return clauses that say how columns became inputs."""
    named = [name for name in columns.tables[TRAIN].columns if name not in columns.left_out]
    parts = [f"inputs {listed(named)}"]
    parts += [f"'{name}' as {count} columns, one for each word" for name, count in columns.words.items()]
    return parts + [f"'{name}' left out, since {why}" for name, why in columns.left_out.items()]


def _texts(
    tables: Mapping[str, pd.DataFrame], encoder: WordEncoder, files: Mapping[str, Path]
) -> tuple[dict[str, Texts], list[str]]:
    """Return the texts of every part, and clauses that say how they become inputs.

    Raises:
        UserError: there are other columns, or values are no texts.
    """
    name, found, empty = encoder.column, {}, 0
    for part, table in tables.items():
        if others := [str(one) for one in table.columns if one != name]:
            raise UserError(
                f"{KEY}.text.column={name}: texts are the only input, but {files[part]} has {listed(others)} besides; "
                f"leave out the others with {KEY}.leave_out=[{','.join(others)}]"
            )
        values = ["" if value is None or value != value else value for value in table[name]]
        if wrong := [value for value in values if not isinstance(value, str)]:
            raise UserError(
                f"column '{name}' of {files[part]} holds values such as {shown(wrong[0])} ({type(wrong[0]).__name__}); "
                "expected texts"
            )
        found[part] = Texts(values, encoder)
        empty += sum(not words_of(value) for value in values)
    clauses = [f"texts '{name}' as {encoder.length} numbers of words, {encoder.described}"]
    return found, [*clauses, *([f"{empty:,} texts have no word"] if empty else [])]
