"""A folder from which workers on any machine take jobs, and one such worker.

What a worker does for one job costs the same however many jobs and workers there are. It tries the job after the one
that it did last; where others have taken that, it looks once which are free and remembers a few of them. Who finds none
says so for all. A worker notes the job that it tries in a file of its own, so that nobody has to search for it when the
worker dies.
"""

from __future__ import annotations

import os
import pickle
import random
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmm_exp.executors.devices import begin_computing
from dmm_exp.executors.jobs import attempt

PATIENCE = 300.0  # seconds without an update by the main process after which workers take no more jobs
REMEMBERED = 16  # free jobs that a worker remembers from one look at all of them
WIDTH = 20  # characters of a number in a file that is written again: cutting it off first would be slow on some disks
PLACE = 8  # bytes of a number that says where a job stands in the file of jobs


class Queue:
    """Which jobs are taken, by which worker, and which are done: small files on a shared file system.

    Args:
        folder: created by :meth:`begin`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._claims, self._done, self._tries = folder / "claims", folder / "done", folder / "tries"
        self._alive, self._jobs, self._all_taken = folder / "alive", folder / "jobs", folder / "all_taken"

    def begin(
        self, function: Callable[[Any], None], jobs: Sequence[Any], dumps: Callable[[Any], bytes] = pickle.dumps
    ) -> None:
        """Create the folder, with one file of all jobs, of which a worker reads only those that it takes.

        Args:
            function: runs one job.
            jobs: all of them.
            dumps: pickles a function with its job.
        """
        for folder in (self._claims, self._done, self._tries):
            folder.mkdir(parents=True)
        places = array("Q", [PLACE * (len(jobs) + 1)])
        with self._jobs.open("wb") as file:
            file.seek(places[0])
            for job in jobs:
                file.write(dumps((function, job)))
                places.append(file.tell())
            file.seek(0)
            places.tofile(file)
        self.beat()

    def job(self, index: int) -> tuple[Callable[[Any], None], Any]:
        """Return the function and one of the jobs."""
        with self._jobs.open("rb") as file:
            start, stop = self._places(file, index, 2)
            file.seek(start)
            return pickle.loads(file.read(stop - start))

    def count(self) -> int:
        """Return the number of jobs."""
        with self._jobs.open("rb") as file:
            return self._places(file, 0, 1)[0] // PLACE - 1

    @staticmethod
    def _places(file: Any, first: int, count: int) -> array[int]:
        file.seek(PLACE * first)
        places = array("Q")
        places.frombytes(file.read(PLACE * count))
        return places

    def claim(self, index: int, worker: int) -> bool:
        """Take a job, and return whether that succeeded: a job is taken only once."""
        _write(self._tries / str(worker), os.O_CREAT, f"{index:<{WIDTH}}")
        try:
            _write(self._claims / str(index), os.O_CREAT | os.O_EXCL, str(worker))
        except FileExistsError:
            return False
        return True

    def free(self) -> list[int]:
        """Return the jobs that nobody has taken: one look at the names of all that are."""
        taken = bytearray(self.count())
        for name in os.listdir(self._claims):
            taken[int(name)] = 1
        return [index for index, is_taken in enumerate(taken) if not is_taken]

    def say_all_taken(self) -> None:
        """Tell other workers that no job is free, so that they need not look."""
        self._all_taken.touch()

    def all_taken(self) -> bool:
        """Return whether a worker has said that no job is free; one that has died may have left some since."""
        return self._all_taken.exists()

    def finish(self, index: int) -> None:
        """Mark a job as done."""
        (self._done / str(index)).touch()

    def done(self) -> set[int]:
        """Return the jobs that are done."""
        return {int(name) for name in os.listdir(self._done)}

    def is_new(self, worker: int) -> bool:
        """Return whether a worker has not tried to take any job yet."""
        return not (self._tries / str(worker)).exists()

    def release(self, worker: int) -> list[int]:
        """Release the job that a worker took and did not finish, and return its index, if there is one."""
        try:
            index = int((self._tries / str(worker)).read_text(encoding="utf-8"))
            holder = (self._claims / str(index)).read_text(encoding="utf-8")
        except (FileNotFoundError, ValueError):  # it had tried none, or was killed before it could
            return []
        if holder not in ("", str(worker)) or (self._done / str(index)).exists():
            return []  # "" is a claim whose maker was killed before it could say who it is
        (self._claims / str(index)).unlink(missing_ok=True)
        self._all_taken.unlink(missing_ok=True)
        return [index]

    def beat(self) -> None:
        """Show that the main process is running."""
        self._alive.touch()

    def last_beat(self) -> float | None:
        """Return the time of the last :meth:`beat`, by the file system's clock; None when the folder does not exist."""
        try:
            return self._alive.stat().st_mtime
        except OSError:
            return None


def _write(path: Path, flags: int, text: str) -> None:
    """Write a short text at the beginning of a file, which is opened only once for that."""
    file = os.open(path, os.O_WRONLY | flags, 0o666)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


@dataclass(eq=False)
class Worker:
    """Runs jobs of a queue until none is left; a restarted worker of the same number continues its unfinished job.

    Attributes:
        queue: where jobs are taken.
        number: of the worker.
        first: index of the job that it tries first.
        threads: torch threads.
    """

    queue: Queue
    number: int
    first: int = 0
    threads: int = 1
    _seen: tuple[float | None, float] = field(default=(None, 0.0), init=False)

    def __call__(self) -> Exception | None:
        """Run jobs, and return the exception of the first job that failed, if any; the worker stops there."""
        begin_computing(self.threads)
        for index in self.taken():
            if (error := attempt(*self.queue.job(index))) is not None:
                return error
            self.queue.finish(index)
        return None

    def taken(self) -> Iterator[int]:
        """Take one job after another, and yield its index, until none is free.

        A restarted worker looks for itself whether any is free: what it had taken before is, and another worker may
        have looked before that was so.
        """
        is_new, count = self.queue.is_new(self.number), self.queue.count()
        candidates = deque([self.first] if is_new else self.queue.release(self.number))
        self._seen = (None, time.monotonic())
        while self._main_is_alive():
            if not candidates:
                if is_new and self.queue.all_taken():
                    return
                candidates.extend(self._some_free())
                if not candidates:
                    self.queue.say_all_taken()
                    return
            index = candidates.popleft()
            if self.queue.claim(index, self.number):
                yield index
                if index + 1 < count:
                    candidates.appendleft(index + 1)

    def _some_free(self) -> list[int]:
        """Return a few of the free jobs, others for every worker, so that they do not all try the same."""
        free = self.queue.free()
        return random.Random(self.number).sample(free, min(REMEMBERED, len(free)))

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
