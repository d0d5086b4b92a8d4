"""Files that are either whole or absent: atomic writes, checksums, and the formats of an artifact.

Tensors are safetensors, tables parquet, everything else JSON. Nothing is ever pickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmm_exp.files.reading import JSON_BYTES, is_real_folder, parse_json

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


SETTLED = 3.0  # seconds after a change during which a further one could leave the same time: two seconds on some disks

_UMASK = os.umask(0)
os.umask(_UMASK)

_read: dict[Path, tuple[tuple[int, ...], str]] = {}  # what files were like when they were read, and their checksums


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_once(path: Path) -> str:
    """Return a file's checksum, from memory if this process has read the file and it has not been written since.

    Its inode, size and time of change show whether it was written. A file that changed a moment before it was read is
    read again the next time: a further change might have left the same time.

    Raises:
        OSError: it cannot be read.
    """
    found, began = path.stat(), time.time()
    now = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    before, known = _read.get(path, ((), ""))
    if now == before:
        return known
    known = checksum(path)
    if began - found.st_ctime > SETTLED:
        _read[path] = now, known
    return known


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary sibling, then rename it to ``path``: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # it might be a link that someone left there
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write plain containers as readable JSON, atomically. Raises ``ValueError`` for NaN and infinities."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def write_text(path: Path, text: str) -> None:
    """Write text, atomically."""
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def write_durably(path: Path, text: str) -> None:
    """Write text, atomically, and return when it is on the disk: then not even a power cut loses it."""

    def write(temporary: Path) -> None:
        _write_text(temporary, text)
        settle(temporary)

    write_atomically(path, write)
    settle(path.parent)


def settle(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot do this for folders
            raise
    finally:
        os.close(handle)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def write(temporary: Path) -> None:
        try:
            save_file(contiguous, temporary)
        except SafetensorError as error:
            raise _as_os_error(error, path) from error
        temporary.chmod(0o666 & ~_UMASK)  # which safetensors would keep for its owner alone

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, write)


def rows_at(path: Path, name: str) -> tuple[int, int]:
    """Return at which byte of a safetensors file a tensor begins, and how many bytes a row ``[rows, ...]`` of it has.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no whole safetensors file, or has no such tensor.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(JSON_BYTES, os.fstat(file.fileno()).st_size):
            raise ValueError(f"its header has {length:,} bytes")
        header = parse_json(file.read(length).decode("utf-8"))
    try:
        (start, stop), shape = header[name]["data_offsets"], header[name]["shape"]
        return 8 + length + start, (stop - start) // shape[0]
    except (LookupError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"its header says nothing of '{name}'") from error


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as parquet, atomically."""
    write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False))


def remove(path: Path) -> None:
    """Remove a file, a folder with what is in it, or a link, but not what it leads to; nothing where there is none."""
    if is_real_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link(path: Path, source: Path) -> None:
    """Make ``path`` the same file as ``source``, atomically; a copy where the file system has no hard links."""
    write_atomically(path, lambda temporary: _link_or_copy(source, temporary))


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _as_os_error(error: Exception, path: Path) -> Exception:
    """Return the operating system's error that a message of safetensors quotes, or the error itself."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1])), str(path)) if found else error


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
