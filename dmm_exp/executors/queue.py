"""A folder from which workers on any machine take jobs, and the work of one of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmm_exp.executors.devices import begin_computing
from dmm_exp.executors.failures import portable

PATIENCE = 300.0  # seconds without a sign of life of the main process after which workers take no more jobs


class Queue:
    """Which jobs are taken, by which worker, and which are done: empty files on a file system that all can see.

    Args:
        folder: made by :meth:`begin`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._claims, self._done, self._alive = folder / "claims", folder / "done", folder / "alive"

    def begin(self) -> None:
        """Make the folder."""
        self._claims.mkdir(parents=True)
        self._done.mkdir()
        self.beat()

    def claim(self, index: int, worker: int) -> bool:
        """Take a job, unless it is taken."""
        try:
            os.close(os.open(self._claims / str(index), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        (self._claims / str(index)).write_text(str(worker), encoding="utf-8")
        return True

    def finish(self, index: int) -> None:
        """Say that a job is done."""
        (self._done / str(index)).touch()

    def done(self) -> set[int]:
        """Return the jobs that are done."""
        return {int(name) for name in os.listdir(self._done)}

    def release(self, worker: int) -> list[int]:
        """Let go of what a worker took and did not finish, and return it."""
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
        """Give a sign of life of the main process."""
        self._alive.touch()

    def last_beat(self) -> float | None:
        """Return the time of the last sign of life, by the file system's clock; None when the folder is gone."""
        try:
            return self._alive.stat().st_mtime
        except OSError:
            return None


@dataclass(eq=False)
class Worker:
    """Does jobs of a queue until none is left; started again under its number, it begins with what it had taken.

    Attributes:
        queue: where jobs are taken.
        number: of the worker.
        function: does one job.
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
        """Return what a job raised, if one did; the worker ends with it."""
        begin_computing(self.threads)
        self.queue.release(self.number)
        self._seen = (None, time.monotonic())
        for index, job in enumerate(self.jobs):
            if not self._awaited():
                break
            if self.queue.claim(index, self.number):
                try:
                    self.function(job)
                except Exception as error:
                    return portable(error)
                self.queue.finish(index)
        return None

    def checkpoint(self) -> Any:
        """Return what is submitted again when the cluster ends this worker before it is done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _awaited(self) -> bool:
        """Say whether the main process lives, as far as can be seen. Clocks of two machines are not compared."""
        beat = self.queue.last_beat()
        if beat is not None and beat != self._seen[0]:
            self._seen = beat, time.monotonic()
        return beat is not None and time.monotonic() - self._seen[1] < PATIENCE
