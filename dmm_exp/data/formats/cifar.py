"""The binary version of CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dmm_exp.data.formats.format import TEST, TRAIN, Format, Part, Reading
from dmm_exp.errors import UserError, reason_of
from dmm_exp.files.reading import check_memory, machine_memory, read_bytes

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class CifarBinary(Format):
    """Records of label bytes and 3,072 pixels (red, green, blue planes), in a folder or the ``.tar.gz`` as published.

    Attributes:
        train: names of the files with training records, in order.
        test: names of the files with test records.
        label_bytes: bytes before the pixels: 1, or 2 for CIFAR-100 (superclass, class).
        label: position of the label among these bytes.
    """

    train: Sequence[str]
    test: Sequence[str]
    label_bytes: int = 1
    label: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.label < self.label_bytes:
            raise UserError(f"label={self.label} of a CIFAR record: expected 0 to {self.label_bytes - 1}")

    @property
    def expected(self) -> str:
        """A description of the files, for errors."""
        return f"{', '.join([*self.train, *self.test])}, or the .tar.gz that holds them"

    def found(self, path: Path) -> bool:
        """Return whether ``path`` is an archive, or a folder with one of the files."""
        return path.name.endswith(".tar.gz") or self._folder(path) is not None

    def read(self, path: Path) -> Reading:
        """Return inputs uint8 ``[n, 3, 32, 32]``."""
        names = {TRAIN: self.train, TEST: self.test}
        if path.is_file():
            contents = self._archived(path)
            files = (path,)
        else:
            folder = self._folder(path) or path
            files = tuple(folder / name for name in [*self.train, *self.test])
            contents = {file.name: _content(file) for file in files}
        where = path if path.is_file() else files[0].parent
        parts = {part: self._part([(where / name, contents[name]) for name in names[part]]) for part in names}
        return Reading(parts, files=files)

    def advice(self, path: Path) -> str:
        """Return which files to use instead of pickled batches."""
        places = [path, *(child for child in (path.iterdir() if path.is_dir() else ()) if child.is_dir())]
        pickled = ("data_batch_1", "batches.meta", "train", "meta")
        python = any((place / name).is_file() for place in places for name in pickled)
        return "; pickled Python batches are never loaded: use the binary version of this dataset" if python else ""

    def _folder(self, path: Path) -> Path | None:
        """Return the folder, or the folder in it, that has one of the files."""
        if not path.is_dir():
            return None
        places = [path, *sorted(child for child in path.iterdir() if child.is_dir())]
        return next((at for at in places if any((at / name).is_file() for name in [*self.train, *self.test])), None)

    def _archived(self, path: Path) -> dict[str, bytes]:
        wanted, contents = {*self.train, *self.test}, {}
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    file = archive.extractfile(member) if Path(member.name).name in wanted else None
                    if file is not None:
                        check_memory(member.size)
                        contents[Path(member.name).name] = file.read()
        except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
            raise UserError(f"{path} is not a complete .tar.gz archive: {error}") from error
        if missing := sorted(wanted - set(contents)):
            raise UserError(f"{path} lacks {', '.join(missing)}{self._python(path)}")
        return contents

    @staticmethod
    def _python(path: Path) -> str:
        return (
            "; the Python version is pickled and never loaded: use the binary version" if "python" in path.name else ""
        )

    def _part(self, contents: list[tuple[Path, bytes]]) -> Part:
        size = self.label_bytes + PIXELS
        for path, content in contents:
            if not content or len(content) % size:
                raise UserError(
                    f"{path} has {len(content)} bytes, expected complete records of {size}: it is truncated"
                )
        records = np.concatenate([np.frombuffer(content, np.uint8).reshape(-1, size) for _, content in contents])
        inputs = np.ascontiguousarray(records[:, self.label_bytes :]).reshape(-1, *SHAPE)
        return Part(inputs, records[:, self.label].astype(np.int64))


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path.parent} lacks the file {path.name}")
    try:
        return read_bytes(path, machine_memory())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason_of(error)})") from error
