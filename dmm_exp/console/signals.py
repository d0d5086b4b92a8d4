"""Signals that end a process: Ctrl-C and SIGTERM break off a command, but not its clean-up."""

from __future__ import annotations

import atexit
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from dmm_exp.console.ranks import ranks

AGAIN = 0.05  # seconds after which an interruption that Python passed over comes again
CLEANING = 30.0  # seconds after a signal to end during which further ones are ignored, so that all is cleaned up


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end.

    It is no plain ``KeyboardInterrupt``: where one comes out of ``exec`` or ``eval`` of a text, as in a module that
    makes data classes, Python ends itself by SIGINT at its end, whoever caught it.
    """


@dataclass
class Interruptions:
    """Signals to end that this process got.

    Attributes:
        first: the number of the first one.
        since: when it came.
        raises: whether a signal breaks off what is done. It does while a command runs, and neither before, when the
            command has not begun, nor after, when only its exit code is left.
    """

    first: int | None = None
    since: float = 0.0
    raises: bool = False

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Let a signal that came before, or that comes while the body runs, raise ``KeyboardInterrupt``."""
        self.raises = True
        try:
            if self.first is not None:
                raise Interrupted
            yield
        finally:
            self.raises = False

    def note(self, number: int, frame: object) -> None:
        """Remember a signal and break off what is done; later ones do not break off the clean-up."""
        if self.first is not None and time.monotonic() - self.since < CLEANING:
            return
        self.first, self.since = self.first or number, time.monotonic()
        if self.raises:
            raise Interrupted

    def repeat(self, passed_over: Callable[[Any], object], lost: Any) -> None:
        """Raise an interruption again if Python ignored it, as it ignores errors in callbacks of its own.

        Args:
            passed_over: what is done about other errors of this kind.
            lost: what Python says of the error (see ``sys.unraisablehook``).
        """
        if not isinstance(lost.exc_value, Interrupted):
            passed_over(lost)
            return
        self.since = -CLEANING
        signal.signal(signal.SIGALRM, self.note)
        signal.setitimer(signal.ITIMER_REAL, AGAIN)


@contextmanager
def interruptions() -> Iterator[Interruptions]:
    """Handle SIGTERM and Ctrl-C while the body runs, and give an object that knows which of them came.

    Signals that come while Python itself ends are ignored, so that the exit code is that of the command. Signals that
    the caller of this process ignores stay ignored. Ranks of ``torchrun`` end at once, as it expects: they may be
    waiting for one another outside of Python.
    """
    found = Interruptions()
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    alone = threading.current_thread() is threading.main_thread() and ranks() == 1
    before = {number: handler for number, handler in usual.items() if alone and signal.getsignal(number) == handler}
    hook, alarm = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    for number in before:
        signal.signal(number, found.note)
    if before:
        sys.unraisablehook = partial(found.repeat, hook)
    try:
        yield found
    finally:
        sys.unraisablehook = hook
        if signal.getsignal(signal.SIGALRM) == found.note:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
        for number, handler in before.items():
            signal.signal(number, handler)
        atexit.unregister(_ignore)
        atexit.register(_ignore, list(before))  # the last that is registered is the first that is called


def _ignore(numbers: list[signal.Signals]) -> None:
    """Ignore signals for the rest of this process."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
