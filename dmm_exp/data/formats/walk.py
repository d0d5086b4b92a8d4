"""The files of a folder in a fixed order, and which of them are pictures."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dmm_exp.data.decoded import NOT_DECODED
from dmm_exp.errors import UserError, reason_of, shown

NAMED = 5  # number of skipped files that a warning lists
Identity = tuple[int, int]  # device and inode of a folder


@dataclass(frozen=True)
class FolderFile:
    """A file in a folder.

    Attributes:
        path: of the file.
        name: path in the folder, with ``/`` between its parts.
        is_picture: whether Pillow can read it.
    """

    path: Path
    name: str
    is_picture: bool


def files(folder: Path) -> Iterator[FolderFile]:
    """Yield the files of a folder and of those in it, in the order of ``torchvision.datasets.ImageFolder``.

    Folders are ordered by their paths as text, and the files in each by their names. Hidden files and folders are
    ignored. Links are followed, except to a folder that contains the link.

    Raises:
        UserError: a folder or a file cannot be read.
    """
    above = _holders(folder) | _holders(folder.absolute().parent)
    for place, names in sorted(_walk(folder, "", above)):
        for name in sorted(names):
            path = folder / place / name
            yield FolderFile(path, readable(f"{place}/{name}" if place else name), is_picture(path))


def divided(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the folders in a folder, sorted by name as text, and the names of its files, without hidden ones.

    Raises:
        UserError: it cannot be read.
    """
    inside, others = _listed(folder, _holders(folder))
    return [folder / name for name in sorted(inside)], sorted(map(readable, others))


def _walk(folder: Path, place: str, above: set[Identity]) -> Iterator[tuple[str, list[str]]]:
    """Yield (path in the folder, names of files) of a folder and of those in it."""
    inside, others = _listed(folder / place, above)
    for name, identity in inside.items():
        yield from _walk(folder, f"{place}/{name}" if place else name, above | {identity})
    yield place, others


def _listed(folder: Path, above: set[Identity]) -> tuple[dict[str, Identity], list[str]]:
    """Return the folders in a folder, and the names of its files; links to folders ``above`` count as files."""
    inside, others = {}, []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.name.startswith("."):
                    continue
                is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
                identity = _identity(entry.path) if is_folder else None
                if identity is None or identity in above:
                    others.append(entry.name)
                else:
                    inside[entry.name] = identity
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({reason_of(error)})") from error
    return inside, others


def _holders(folder: Path) -> set[Identity]:
    """Return the identities of a folder and of all folders above it."""
    there = folder.resolve()
    return {_identity(place) for place in (there, *there.parents)}


def _identity(path: str | Path) -> Identity:
    facts = os.stat(path)
    return facts.st_dev, facts.st_ino


def is_picture(path: Path) -> bool:
    """Return whether Pillow can read a file: by its ending if Pillow knows that ending, or by its first bytes.

    Raises:
        UserError: the file cannot be read.
    """
    from PIL import Image

    if not path.is_file():
        return False
    endings, signed = _formats()
    if path.suffix.lower() in endings:
        return True
    try:
        with Image.open(path, formats=signed):
            return True
    except Image.DecompressionBombError:
        return True
    except OSError as error:
        if error.errno is None:  # Pillow's own
            return False
        raise UserError(f"{path}: cannot be read ({reason_of(error)})") from error
    except Exception:  # a damaged file may raise any exception in one of Pillow's many readers
        return False


@cache
def _formats() -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the endings of pictures, and the formats that can be recognised by the first bytes."""
    from PIL import Image

    Image.init()
    known = {name: accept for name, (_, accept) in Image.OPEN.items() if name not in NOT_DECODED}
    endings = frozenset(ending for ending, name in Image.registered_extensions().items() if name in known)
    return endings, tuple(name for name, accept in known.items() if accept is not None)


def report_skipped(folder: Path, skipped: Iterable[str]) -> None:
    """Warn once about the files of a folder that were skipped, if there are any."""
    names = sorted(skipped)
    if names:
        more = ", …" if len(names) > NAMED else ""
        what = "file that is not a picture" if len(names) == 1 else "files that are not pictures"
        listed = ", ".join(shown(name) for name in names[:NAMED])
        _say_once(f"{folder}: skipped {len(names):,} {what} of a class: {listed}{more}")


@cache
def _say_once(text: str) -> None:
    logging.getLogger(__name__).warning(text)


def readable(name: str) -> str:
    """Return a file name that can be written and shown, even if it is not valid UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
