"""Trackers get a thread of their own, so that a slow or failing tracker never delays or stops the work."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path

from dmm_exp.config.schema import Plain
from dmm_exp.console.progress import StageRecord
from dmm_exp.errors import UserError, reason_of
from dmm_exp.runs.result import RunResult
from dmm_exp.runs.trackers import Tracker

START_WAIT = 20.0  # seconds for a tracker to begin, so that wrong settings are reported before any work
END_WAIT = 120.0  # seconds for a tracker to take the results of work that is done
MOST_WAITING = 1000  # reports of progress that wait for a slow tracker; later ones are dropped


class Aside:
    """Calls a tracker from its own thread, one call after another.

    Args:
        tracker: the tracker. After its first error it is not called again.
        warn: prints a warning.
    """

    def __init__(self, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self._tracker, self._warn, self._name = tracker, warn, type(tracker).__name__
        self._calls: queue.SimpleQueue[tuple[Callable[[], None], threading.Event]] = queue.SimpleQueue()
        self._error: Exception | None = None
        threading.Thread(target=self._work, name="tracker", daemon=True).start()

    def start(self, run_name: str, config: Plain, folder: Path) -> None:
        """Start the tracker. If that takes long, the work does not wait for it.

        Raises:
            UserError: the tracker's settings cannot work.
        """
        begun = self._call(lambda: self._tracker.start(run_name, config, folder))
        if not begun.wait(START_WAIT):
            self._warn(f"{self._name}: has not begun after {START_WAIT:.0f} s; the run goes on without waiting for it")
        elif isinstance(self._error, UserError):
            raise self._error
        self._say()

    def stage(self, record: StageRecord) -> None:
        """Report a finished stage to the tracker."""
        self._unless_slow(lambda: self._tracker.stage(record))

    def progress(self, name: str, done: int, total: int, loss: float | None) -> None:
        """Report to the tracker how far a stage is."""
        self._unless_slow(lambda: self._tracker.progress(name, done, total, loss))

    def finish(self, result: RunResult) -> None:
        """Let the tracker record the results of a run, and wait for it, but not for long."""
        self._end(lambda: self._tracker.finish(result))

    def fail(self, error: str) -> None:
        """Let the tracker record that a run ended without a result."""
        self._end(lambda: self._tracker.fail(error))

    def _end(self, call: Callable[[], None]) -> None:
        if not self._call(call).wait(END_WAIT):
            self._warn(f"{self._name}: has not taken the results after {END_WAIT:.0f} s, and is not called again")
        self._say()

    def _say(self) -> None:
        """Warn of an error, once."""
        if self._error is not None and self._warn is not _nothing:
            self._warn(f"{self._name}: {reason_of(self._error)}; the run goes on without it")
            self._warn = _nothing

    def _unless_slow(self, call: Callable[[], None]) -> None:
        if self._error is None and self._calls.qsize() < MOST_WAITING:
            self._call(call)
        self._say()

    def _call(self, call: Callable[[], None]) -> threading.Event:
        """Queue a call for the thread; the event that is returned is set when the call has ended."""
        made = threading.Event()
        self._calls.put((call, made))
        return made

    def _work(self) -> None:
        while True:
            call, made = self._calls.get()
            try:
                if self._error is None:
                    call()
            except Exception as error:
                self._error = error
            finally:
                made.set()


def _nothing(text: str) -> None:
    """Print nothing: the warning was printed before."""
