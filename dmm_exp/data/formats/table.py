"""Tables with a column of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dmm_exp.data.formats.format import TEST, TRAIN, Format, Part, Reading
from dmm_exp.data.formats.npz import numbers
from dmm_exp.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

ENDS = (".csv", ".parquet")


@dataclass(frozen=True)
class Table(Format):
    """A CSV or parquet file, or a folder with ``train`` and perhaps ``test`` files of these kinds.

    Every other column is an input, a number. Labels may be anything: classes are their sorted distinct values.

    Attributes:
        label: name of the column of labels.
        leave_out: columns that are neither.
    """

    label: str = "label"
    leave_out: Sequence[str] = ()

    @property
    def expected(self) -> str:
        """The files in words."""
        return "a .csv or .parquet file, or a folder with train.csv (or .parquet) and perhaps test.csv"

    def found(self, path: Path) -> bool:
        """Say whether ``path`` is such a file or folder."""
        return (path.is_file() and path.suffix in ENDS) or _inside(path, TRAIN) is not None

    def read(self, path: Path) -> Reading:
        """Return inputs float32 ``[rows, columns]``."""
        files = {TRAIN: path} if path.is_file() else {part: _inside(path, part) for part in (TRAIN, TEST)}
        tables = {part: self._table(file) for part, file in files.items() if file is not None}
        first = tables[TRAIN]
        for part, table in tables.items():
            if list(table.columns) != list(first.columns):
                raise UserError(f"{files[part]}: expected the columns of {files[TRAIN]}, in the same order")
        labels = {part: _values(table, self.label) for part, table in tables.items()}
        classes = np.unique(np.concatenate(list(labels.values())))
        parts = {
            part: Part(self._inputs(table, str(files[part])), np.searchsorted(classes, labels[part]))
            for part, table in tables.items()
        }
        names = [str(value) for value in classes]
        return Reading(parts, names, tuple(file for file in files.values() if file is not None))

    def _table(self, path: Path) -> pd.DataFrame:
        import pandas as pd
        from pyarrow import ArrowException

        try:
            table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        except (ValueError, OSError, ArrowException) as error:  # pandas' own are ValueErrors
            raise UserError(f"{path} is not a whole {path.suffix} table: {error}") from error
        names = [str(name) for name in table.columns]
        for name in (self.label, *self.leave_out):
            if name not in names:
                key = "label" if name == self.label else "leave_out"
                raise UserError(
                    f"dataset.formats.table.{key}: {path} has no column '{name}', it has {', '.join(names)}"
                    f"{did_you_mean(name, names)}"
                )
        if len(table) == 0:
            raise UserError(f"{path} has no rows")
        if len(names) == 1 + len(self.leave_out):
            raise UserError(f"{path} has no column beside '{self.label}' and those left out")
        return table.drop(columns=list(self.leave_out))

    def _inputs(self, table: pd.DataFrame, where: str) -> np.ndarray:
        columns = [name for name in table.columns if name != self.label]
        return np.stack([_numbers(table[name].to_numpy(), f"column '{name}' of {where}") for name in columns], axis=1)


def _inside(folder: Path, part: str) -> Path | None:
    return next((folder / f"{part}{end}" for end in ENDS if (folder / f"{part}{end}").is_file()), None)


def _numbers(values: np.ndarray, where: str) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        raise UserError(f"{where}: expected numbers; encode it, or leave it out with dataset.formats.table.leave_out")
    return numbers(values, where)


def _values(table: pd.DataFrame, label: str) -> np.ndarray:
    missing, values = table[label].isna().to_numpy(), table[label].to_numpy()
    if missing.any():
        raise UserError(f"column '{label}': {int(missing.sum())} labels are missing")
    return values if values.dtype.kind in "biuf" else values.astype(str)
