"""A person's own ids of rows, from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmm_exp.forget.files import TEXTS, ListFile

KEY = "request.record_ids"


def ids_in(name: str, column: str | None) -> list[Any]:
    """Return the values of a file, or of one of its columns, as they stand there.

    A text file without a ``column`` has an id on each line, the first one too; with one, its first line names columns.

    Raises:
        UserError: the file cannot be read, or its columns are not clear.
    """
    path = Path(name).expanduser()
    header = column is not None if path.suffix.lower() in TEXTS else None
    return ListFile(path, f"{KEY}={name}", column, header, lambda _: False).entries().values
