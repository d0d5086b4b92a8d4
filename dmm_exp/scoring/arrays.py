"""Arrays in files: ``.npy``, ``.npz``, ``.parquet`` and ``.safetensors``. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmm_exp.errors import UserError, did_you_mean, listed, reason_of
from dmm_exp.files.reading import check_archive, check_memory, check_parquet, read_json
from dmm_exp.files.writing import checksum

Array = NDArray[Any]
ENDS = (".npy", ".npz", ".parquet", ".safetensors")


@dataclass(frozen=True)
class ArrayFile:
    """A file that an option names.

    Attributes:
        key: the option.
        text: its value, as it was typed.
    """

    key: str
    text: str

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.text).expanduser()

    def error(self, text: str) -> UserError:
        """Return an error about this file."""
        return UserError(f"{self.key}={self.text}: {text}")

    def facts(self) -> dict[str, str]:
        """Return what identifies the file."""
        return {"file": self.text, "sha256": checksum(self.path)}

    def read(self, lists: bool = False) -> Array:
        """Return the array in the file, numbers or truth values.

        Of an archive with several arrays it is the one with the name of the option. A parquet table has a row for each
        entry of the first axis; the second axis is its columns, or the lists in its only column, which may hold lists.

        Args:
            lists: whether the file may be a ``.json`` that lists numbers.

        Raises:
            UserError: the file cannot be read, or its meaning is not clear.
        """
        end, ends = self.path.suffix.lower(), (*ENDS, ".json") if lists else ENDS
        if self.path.is_dir():
            raise self.error("is a folder; expected a file, or dataset= and model= beside folders of checkpoints")
        if not self.path.is_file():
            raise self.error("there is no such file")
        if end not in ends:
            raise self.error(f"expected a file ending in {', '.join(ends)}")
        readers = {".npy": self._npy, ".npz": self._npz, ".parquet": self._parquet, ".safetensors": self._safetensors}
        try:
            found = readers.get(end, self._json)()
        except UserError:
            raise
        except Exception as error:  # a damaged file may raise any exception in the readers of arrays
            raise self.error(f"cannot be read ({reason_of(error)})") from error
        if found.dtype.kind not in "biuf":
            raise self.error(f"holds {found.dtype}; expected numbers")
        return found

    def _npy(self) -> Array:
        found = np.load(self.path, allow_pickle=False, mmap_mode="r")
        check_memory(found.nbytes)
        return np.array(found)

    def _npz(self) -> Array:
        check_archive(self.path)
        with np.load(self.path, allow_pickle=False) as archive:
            return archive[self._name(archive.files)]

    def _safetensors(self) -> Array:
        from safetensors import safe_open

        with safe_open(self.path, framework="numpy") as archive:
            return archive.get_tensor(self._name(list(archive.keys())))

    def _name(self, names: Sequence[str]) -> str:
        """Return which of the arrays in an archive is meant."""
        if len(names) == 1 or self.key in names:
            return self.key if self.key in names else names[0]
        raise self.error(
            f"holds {len(names)} arrays ({listed(names) or 'none'}); expected one, or one named '{self.key}'"
            f"{did_you_mean(self.key, names)}"
        )

    def _parquet(self) -> Array:
        import pyarrow.parquet as pq

        check_parquet(self.path)
        table = pq.read_table(self.path)
        columns = [self._column(table.column(name), name) for name in table.column_names]
        if len(columns) == 1:
            return columns[0]
        if not columns or any(column.ndim > 1 for column in columns):
            raise self.error(f"has {len(columns)} columns, some of lists; expected columns of numbers, or one of lists")
        return np.stack(columns, axis=1)

    def _column(self, column: Any, name: str) -> Array:
        """Return a column ``[rows, …]`` of numbers, or of lists that are equally long."""
        import pyarrow as pa
        import pyarrow.compute as pc

        values, shape = (
            pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type),
            [len(column)],
        )
        while isinstance(values.type, (pa.ListType, pa.LargeListType, pa.FixedSizeListType)):
            lengths = pc.call_function("list_value_length", [values]).unique().to_pylist()
            if len(lengths) != 1 or lengths[0] is None:
                raise self.error(f"column '{name}' holds lists of several lengths; expected one length")
            shape.append(lengths[0])
            values = values.flatten()
        if values.null_count:
            raise self.error(f"column '{name}' has {values.null_count} empty values; expected a number in each")
        return values.to_numpy(zero_copy_only=False).reshape(shape)

    def _json(self) -> Array:
        found = read_json(self.path)
        if not isinstance(found, list):
            raise self.error("holds no list; expected a list of numbers")
        return np.array(found)
