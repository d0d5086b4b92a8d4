"""Locks between processes and machines that share a file system, and that survive none of them.

A lock is a file that says who holds it, and whose time is renewed while it is held. It is stale when its holder is a
process of this machine that is gone, or when it was not renewed for a while: no clocks of two machines are compared.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

RENEWED_EVERY = 5.0  # seconds
STALE_AFTER = 60.0  # seconds without being renewed
LOOK_EVERY = 0.2  # seconds between two looks of who waits


class Lock:
    """Holds a file while the body of its ``with`` runs; waits for another holder, and removes a stale one's file.

    Args:
        path: the file; its folder is made.
        waiting: called once with the holder, in words, when there is one to wait for.
    """

    def __init__(self, path: Path, waiting: Callable[[str], None] = lambda holder: None) -> None:
        self.path = path
        self._waiting = waiting
        self._text = json.dumps({**_ourselves(), "token": uuid.uuid4().hex})
        self._released = threading.Event()

    def __enter__(self) -> Lock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        watch, told = Watch(self.path), False
        while not self._created():
            if watch.stale():
                self._remove(watch.text)
                continue
            if not told and watch.text:
                told = True
                self._waiting(in_words(watch.text))
            time.sleep(LOOK_EVERY)
        threading.Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._released.set()
        if _read(self.path) == self._text:
            self.path.unlink(missing_ok=True)

    def _created(self) -> bool:
        try:
            file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        try:
            os.write(file, self._text.encode())
        except OSError:
            self.path.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        return True

    def _remove(self, stale: str) -> None:
        """Remove a stale lock: only one of several processes can move it aside, and a new one is put back."""
        aside = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}.tmp")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        if _read(aside) == stale:
            aside.unlink()
        else:
            os.rename(aside, self.path)

    def _renew(self) -> None:
        while not self._released.wait(RENEWED_EVERY):
            try:
                if _read(self.path) == self._text:
                    os.utime(self.path)
            except OSError:
                continue  # the file system may be back the next time


class Watch:
    """Looks at a lock again and again, to say whether it is stale.

    Attributes:
        text: what the lock says of its holder; empty when it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[str, float] | None = None
        self._since = 0.0
        self.text = ""

    def stale(self) -> bool:
        """Look once: whether the holder is gone, or was not heard of for :data:`STALE_AFTER` seconds."""
        try:
            self.text = _read(self._path)
            seen = self.text, self._path.stat().st_mtime
        except OSError:
            return False  # it has just been released
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        alive = _alive(_holder(self.text))
        return not alive if alive is not None else time.monotonic() - self._since > STALE_AFTER


def holder_of(path: Path) -> str | None:
    """Return who holds a lock, in words; None when it is free, or held by a process of this machine that is gone."""
    text = _read(path)
    return in_words(text) if path.exists() and _alive(_holder(text)) is not False else None


def in_words(text: str) -> str:
    """Say who a lock's holder is."""
    holder = _holder(text)
    if not holder:
        return "another process"
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
    return f"process {holder['pid']} of {holder['user']} on {holder['host']}, at work since {started}"


def _ourselves() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": pid,
        "birth": _birth(pid),
        "user": _user(),
        "since": time.time(),
    }


def _alive(holder: dict[str, Any]) -> bool | None:
    """Return whether a process of this machine lives; None for those of others, and when nothing is known."""
    if not holder or (holder["host"], holder["boot"]) != (socket.gethostname(), _boot()):
        return None
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _birth(holder["pid"]) == holder["birth"]


def _birth(pid: int) -> str:
    """Return what tells a process from a later one of the same number; empty where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return ""
    return fields[19] if fields[0] not in "ZX" else "dead"


def _boot() -> str:
    """Return what tells this machine since its start, and its numbering of processes, from others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _holder(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
        return found if {"host", "boot", "pid", "birth", "user", "since"} <= found.keys() else {}
    except (ValueError, AttributeError):
        return {}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
