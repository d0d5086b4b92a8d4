"""Parquet files with encoded images in a column, as on Hugging Face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmm_exp.data.formats.format import TEST, TRAIN, Format, Part, Reading, fingerprint, label_values
from dmm_exp.data.pictures import Pictures, file_content
from dmm_exp.errors import UserError, did_you_mean
from dmm_exp.files.reading import check_parquet, parse_json


@dataclass(frozen=True)
class Parquet(Format):
    """Files whose names (or whose folders' names) begin with the part: ``train-00000.parquet``, ``test/0.parquet``.

    The column of images holds bytes, or structs with a field ``bytes``.

    Attributes:
        image: name of the column of images.
        label: name of the column of labels.
        train: prefix of the names of training files.
        test: possible prefixes of the names of test files; the first with files is read.
    """

    image: str = "image"
    label: str = "label"
    train: str = "train"
    test: Sequence[str] = ("test", "valid", "val")

    @property
    def expected(self) -> str:
        """A description of the files, for errors."""
        return f"{self.train}-*.parquet and {self.test[0]}-*.parquet with images in the column '{self.image}'"

    def found(self, path: Path) -> bool:
        """Return whether ``path`` is a folder with training files somewhere in it."""
        return bool(_files(path, self.train))

    def read(self, path: Path) -> Reading:
        """Return encoded images."""
        files = {TRAIN: _files(path, self.train)}
        if not files[TRAIN]:
            raise UserError(f"{path} has no {self.expected}")
        if test := next(filter(None, (_files(path, name) for name in self.test)), None):
            files[TEST] = test
        tables = {part: self._table(found) for part, found in files.items()}
        parts = {part: self._part(table, files[part]) for part, table in tables.items()}
        names = _class_names(tables[TRAIN].schema, self.label)
        source = f"dataset.formats.parquet.label={self.label}"
        return Reading(parts, names, tuple(file for found in files.values() for file in found), source=source)

    def _table(self, files: list[Path]) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables = []
        for file in files:
            try:
                names = pq.read_schema(file).names
                self._check(names, file)
                check_parquet(file)
                tables.append(pq.read_table(file, columns=[self.image, self.label]))
            except UserError:
                raise
            except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
                raise UserError(f"{file} is not a complete parquet file: {error}") from error
        try:
            return pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            raise UserError(f"{files[0]} and the other files have columns of different types: {error}") from error

    def _check(self, names: list[str], file: Path) -> None:
        for key, name in (("image", self.image), ("label", self.label)):
            if name not in names:
                raise UserError(
                    f"dataset.formats.parquet.{key}={name}: {file} has no such column, it has {', '.join(names)}"
                    f"{did_you_mean(name, names)}"
                )

    def _part(self, table: Any, files: list[Path]) -> Part:
        column, where = table.column(self.image), ", ".join(file.name for file in files)
        pictures = Pictures(
            count=len(table),
            content=lambda row: encoded(column[row].as_py(), f"{where}, row {row}", files[0].parent),
            name=lambda row: f"{where}, row {row}",
            fingerprint=fingerprint(files),
        )
        return Part(pictures, label_values(table.column(self.label).to_numpy(), f"column '{self.label}' of {where}"))


def encoded(value: Any, name: str, folder: Path | None = None) -> bytes:
    """Return the bytes of an encoded image, given as bytes or as a mapping with ``bytes`` or a ``path``.

    Args:
        value: of the column of images.
        name: of the image in error messages.
        folder: that holds the files of paths; None accepts any path.

    Raises:
        UserError: it is something else.
    """
    if isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str):
        path = Path(value["path"]) if folder is None else folder / value["path"]
        if folder is not None and not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{name}: the file '{value['path']}' does not lie in {folder}")
        return file_content(path)
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise UserError(f"{name}: expected an encoded image (bytes), found {type(content).__name__}")
    return content


def _files(path: Path, prefix: str) -> list[Path]:
    """Return files whose own name or folder's name begins with ``prefix``, sorted."""
    if not path.is_dir():
        return []
    found = (file for file in path.rglob("*.parquet") if file.name.startswith(prefix) or file.parent.name == prefix)
    return sorted(file for file in found if file.is_file())


def _class_names(schema: Any, label: str) -> list[str] | None:
    """Return the class names in the metadata that Hugging Face writes into a file, if there are any."""
    try:
        features = parse_json(schema.metadata[b"huggingface"].decode())["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return None
