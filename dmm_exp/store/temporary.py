"""Temporary folders that do not outlive their makers: what a killed process left is removed by the next one."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmm_exp.store.lock import alive, holder_in, ourselves, restarted

PREFIX = "dmm_exp_"
HOLDER = ".holder.json"  # says which process a folder belongs to
YOUNG = 60.0  # seconds during which an empty folder may still get that file


@contextmanager
def temporary_folder(within: Path | None = None, prefix: str = PREFIX) -> Iterator[Path]:
    """Give a folder that is removed afterwards, after removing those of processes that are gone.

    Args:
        within: where it is made; the system's temporary folder by default.
        prefix: start of its name; only folders with this start are looked at.
    """
    place = Path(tempfile.gettempdir()) if within is None else within
    sweep(place, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    try:
        (folder / HOLDER).write_text(json.dumps(ourselves()), encoding="utf-8")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(place: Path | None = None, prefix: str = PREFIX) -> list[Path]:
    """Remove the folders that killed processes of this user and this machine left, and return them.

    Folders of other users, of other machines and of processes that live are left alone. No link is followed.

    Args:
        place: where they are; the system's temporary folder by default.
        prefix: start of their names.
    """
    removed = []
    try:
        found = [entry.path for entry in os.scandir(place or tempfile.gettempdir()) if entry.name.startswith(prefix)]
    except OSError:
        return []
    for path in map(Path, found):
        if _is_left(path):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
    return removed


def _is_left(folder: Path) -> bool:
    """Return whether a folder of this user belongs to a process that is gone."""
    try:
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
            return False
        marker = folder / HOLDER
        if not stat.S_ISREG(marker.lstat().st_mode):
            return False
        holder = holder_in(marker.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _is_empty_and_old(folder)
    except (OSError, ValueError):
        return False
    return bool(holder) and (alive(holder) is False or restarted(holder))


def _is_empty_and_old(folder: Path) -> bool:
    """Return whether a process was killed before it could say whose folder this is."""
    try:
        return not any(folder.iterdir()) and time.time() - folder.lstat().st_mtime > YOUNG
    except OSError:
        return False
