"""A folder from which workers on any machine take jobs, and one such worker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmm_exp.executors.devices import begin_computing
from dmm_exp.executors.jobs import attempt

PATIENCE = 300.0  # seconds without an update by the main process after which workers take no more jobs


class Queue:
    """Which jobs are taken, by which worker, and which are done: small files on a shared file system.

    Args:
        folder: created by :meth:`begin`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._claims, self._done, self._alive = folder / "claims", folder / "done", folder / "alive"

    def begin(self) -> None:
        """Create the folder."""
        self._claims.mkdir(parents=True)
        self._done.mkdir()
        self.beat()

    def claim(self, index: int, worker: int) -> bool:
        """Take a job, and return whether that succeeded: a job is taken only once."""
        try:
            os.close(os.open(self._claims / str(index), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        (self._claims / str(index)).write_text(str(worker), encoding="utf-8")
        return True

    def finish(self, index: int) -> None:
        """Mark a job as done."""
        (self._done / str(index)).touch()

    def done(self) -> set[int]:
        """Return the jobs that are done."""
        return {int(name) for name in os.listdir(self._done)}

    def release(self, worker: int) -> list[int]:
        """Release the jobs that a worker took and did not finish, and return their indices."""
        done = self.done()
        held = [
            int(claim.name)
            for claim in self._claims.iterdir()
            if int(claim.name) not in done and claim.read_text(encoding="utf-8") == str(worker)
        ]
        for index in held:
            (self._claims / str(index)).unlink()
        return held

    def beat(self) -> None:
        """Show that the main process is running."""
        self._alive.touch()

    def last_beat(self) -> float | None:
        """Return the time of the last :meth:`beat`, by the file system's clock; None when the folder does not exist."""
        try:
            return self._alive.stat().st_mtime
        except OSError:
            return None


@dataclass(eq=False)
class Worker:
    """Runs jobs of a queue until none is left; a restarted worker of the same number continues its unfinished job.

    Attributes:
        queue: where jobs are taken.
        number: of the worker.
        function: runs one job.
        jobs: all of them.
        threads: torch threads.
    """

    queue: Queue
    number: int
    function: Callable[[Any], None]
    jobs: list[Any]
    threads: int
    _seen: tuple[float | None, float] = field(default=(None, 0.0), init=False)

    def __call__(self) -> Exception | None:
        """Run jobs, and return the exception of the first job that failed, if any; the worker stops there."""
        begin_computing(self.threads)
        self.queue.release(self.number)
        self._seen = (None, time.monotonic())
        for index, job in enumerate(self.jobs):
            if not self._main_is_alive():
                break
            if self.queue.claim(index, self.number):
                if (error := attempt(self.function, job)) is not None:
                    return error
                self.queue.finish(index)
        return None

    def checkpoint(self) -> Any:
        """Return what submitit submits again when the cluster stops this worker before it is done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _main_is_alive(self) -> bool:
        """Return whether the main process seems to be running; clocks of two machines are never compared."""
        beat = self.queue.last_beat()
        if beat is not None and beat != self._seen[0]:
            self._seen = beat, time.monotonic()
        return beat is not None and time.monotonic() - self._seen[1] < PATIENCE
