"""Locks between processes, also of several machines with one file system; no lock outlives its process for long.

A lock is a file that says who holds it, and whose time is renewed while it is held. It is stale when its holder is a
process of this machine that is gone, or when it was not renewed for a while: no clocks of two machines are compared.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from dmm_exp.files.reading import Json, parse_json, read_bytes

RENEWED_EVERY = 5.0  # seconds
STALE_AFTER = 60.0  # seconds without being renewed
LOOK_EVERY = 0.2  # seconds between two looks of who waits
LARGEST = 1 << 16  # bytes of a file that names a holder
BOOT = 36  # characters that name the start of a machine; the name of its numbering of processes follows


class Lock:
    """Holds a file while the body of its ``with`` runs; waits for another holder, and takes over from a stale one.

    The file is never moved away and put back: in between, others would find the place free. It is replaced, or removed,
    by the one process that has made the claim on its present holder, a file beside it that names that holder.

    Args:
        path: the file; its folder is made.
        waiting: called once with the holder, in words, when there is one to wait for.
    """

    def __init__(self, path: Path, waiting: Callable[[str], None] = lambda holder: None) -> None:
        self.path = path
        self._waiting = waiting
        self._text = json.dumps({**ourselves(), "token": uuid.uuid4().hex})
        self._released = threading.Event()
        self._claims: dict[Path, Watch] = {}

    def __enter__(self) -> Lock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._wait()
        except BaseException:  # interrupted, perhaps when the lock was ours already
            self._release()
            raise
        threading.Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._released.set()
        self._release()

    def _wait(self) -> None:
        watch, announced = Watch(self.path), False
        while not _created(self.path, self._text):
            if watch.stale() and self._took_over(watch.text):
                return
            if not announced and watch.text:
                announced = True
                self._waiting(in_words(watch.text))
            time.sleep(LOOK_EVERY)

    def _took_over(self, stale: str) -> bool:
        """Replace the file of a stale holder by our own, and return whether we could.

        A claim whose maker is gone is claimed in turn, so one process at a time gets there.
        """
        claims = [self._claim_on(stale)]
        while not _created(claims[-1], self._text):
            watch = self._claims.setdefault(claims[-1], Watch(claims[-1]))
            if not watch.stale():
                return False
            claims.append(self._claim_on(watch.text))
        try:
            if _read(self.path) != stale or not self.path.exists():
                return False  # it was taken over, or released, before our claim
            own = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}.tmp")
            own.write_text(self._text, encoding="utf-8")
            os.replace(own, self.path)
            return True
        finally:
            for claim in claims:
                claim.unlink(missing_ok=True)

    def _release(self) -> None:
        """Remove our file, unless another process has a claim on it, or has replaced it."""
        claim = self._claim_on(self._text)
        if _read(self.path) != self._text or not _created(claim, self._text):
            return
        try:
            if _read(self.path) == self._text:
                self.path.unlink(missing_ok=True)
        finally:
            claim.unlink(missing_ok=True)

    def _claim_on(self, holder: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{hashlib.sha256(holder.encode()).hexdigest()[:16]}.claim")

    def _renew(self) -> None:
        while not self._released.wait(RENEWED_EVERY):
            try:
                if _read(self.path) == self._text:
                    os.utime(self.path)
            except OSError:
                continue  # the file system may be back the next time


def _created(path: Path, text: str) -> bool:
    """Make a file that does not exist yet, and return whether it did not."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    try:
        os.write(file, text.encode())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    return True


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
        living = alive(holder_in(self.text))
        return not living if living is not None else time.monotonic() - self._since > STALE_AFTER


def holder_of(path: Path) -> str | None:
    """Return who holds a lock, in words; None when it is free, or held by a process of this machine that is gone."""
    text = _read(path)
    return in_words(text) if path.exists() and alive(holder_in(text)) is not False else None


def in_words(text: str) -> str:
    """Say who a lock's holder is."""
    holder = holder_in(text)
    if not holder:
        return "another process"
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
    return f"process {holder['pid']} of {holder['user']} on {holder['host']}, at work since {started}"


def ourselves() -> Json:
    """Return what tells this process from all others, as plain values."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": pid,
        "birth": _birth(pid),
        "user": _user(),
        "since": time.time(),
    }


def alive(holder: Json) -> bool | None:
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


def restarted(holder: Json) -> bool:
    """Return whether this machine was started again since a process of it wrote who it is."""
    ours = _boot()[:BOOT]
    return bool(ours) and holder["host"] == socket.gethostname() and holder["boot"][:BOOT] not in ("", ours)


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


def holder_in(text: str) -> Json:
    """Return what a file tells of its holder, as :func:`ourselves` does; empty where it does not tell."""
    try:
        found = parse_json(text)
        return found if {"host", "boot", "pid", "birth", "user", "since"} <= found.keys() else {}
    except (ValueError, AttributeError):
        return {}


def _read(path: Path) -> str:
    try:
        return read_bytes(path, LARGEST).decode("utf-8")
    except (OSError, ValueError):
        return ""
