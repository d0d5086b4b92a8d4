"""Counts what a piece of work asks of the file system: files opened, looked at, listed, renamed and removed."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

EVENTS = {
    "open": "open",
    "os.listdir": "list",
    "os.scandir": "list",
    "os.remove": "remove",
    "os.rename": "rename",
    "os.utime": "utime",
    "os.link": "link",
    "os.mkdir": "mkdir",
}
LOOKS = ("stat", "lstat")  # functions that Python announces to nobody
MODULES = [os, *([sys.modules["posix"]] if "posix" in sys.modules else [])]  # ``import`` looks for files by the second

_counting: list[Counter[str]] = []


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the operations of the body, of this thread and all others, by kind; reads of an open file are not counted.

    >>> with counted() as found:
    ...     exists = os.path.isdir("/"), os.listdir("/")
    >>> found["list"], found["stat"]
    (1, 0)
    """
    _listen()
    found = Counter[str]()
    originals = [(module, name, getattr(module, name)) for module in MODULES for name in LOOKS]
    for module, name, original in originals:
        setattr(module, name, _noted(original, found))
    _counting.append(found)
    try:
        yield found
    finally:
        _counting.remove(found)
        for module, name, original in originals:
            setattr(module, name, original)


def _noted(original: Callable[..., Any], found: Counter[str]) -> Callable[..., Any]:
    def look(*arguments: Any, **options: Any) -> Any:
        found["stat"] += 1
        return original(*arguments, **options)

    return look


def _hear(event: str, _: tuple[Any, ...]) -> None:
    if _counting and event in EVENTS:
        for found in _counting:
            found[EVENTS[event]] += 1


def _listen() -> None:
    """Let Python announce what it does, from now on: that cannot be taken back."""
    if not _listening:
        _listening.append(True)
        sys.addaudithook(_hear)


_listening: list[bool] = []
