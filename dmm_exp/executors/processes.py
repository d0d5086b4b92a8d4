"""Work in persistent processes of this machine: one for each GPU, or for each group of cores.

Workers are forked from one server process that has imported torch and lightning, but computed nothing: what they need
is imported once, in the background (:mod:`dmm_exp.executors.preload`), and shared in memory.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from dmm_exp.errors import UserError
from dmm_exp.executors.devices import accelerators, begin_computing, check_counts, cores
from dmm_exp.executors.failures import RETRIES, died, portable

Job = TypeVar("Job")

START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PRELOAD = "dmm_exp.executors.preload"


class Processes:
    """Run jobs in worker processes that live as long as this object.

    Where CUDA devices are used, every worker sees one of them (``CUDA_VISIBLE_DEVICES``). A worker that dies (out of
    memory, killed) is replaced, and the job it was doing is done again, at most twice; other workers go on.

    Args:
        workers: number of processes; when None one for each CUDA device, else for each ``threads`` cores that this
            process may use.
        threads: torch threads of each worker.
        workers_per_device: number of processes for each CUDA device, when ``workers`` is None.
        accelerator: what the trainer computes on; devices are handed out unless it is ``cpu``.

    Raises:
        UserError: a number is below 1, or both ``workers`` and ``workers_per_device`` are set.
    """

    def __init__(
        self,
        workers: int | None = None,
        threads: int = 1,
        workers_per_device: int = 1,
        accelerator: str = "auto",
    ) -> None:
        check_counts(workers=workers, threads=threads, workers_per_device=workers_per_device)
        if workers is not None and workers_per_device > 1:
            raise UserError(
                f"executor.workers={workers}, executor.workers_per_device={workers_per_device}: expected one of them; "
                "workers=null takes as many as there are devices, times workers_per_device"
            )
        self.threads = threads
        self._wanted = workers
        self._per_device = workers_per_device
        self._accelerator = accelerator
        self._workers: list[_Worker] = []

    @property
    def workers(self) -> int:
        """Number of worker processes."""
        devices = accelerators(self._accelerator) if self._wanted is None else []
        return self._wanted or len(devices) * self._per_device or max(1, cores() // self.threads)

    def warm_up(self) -> None:
        """Let the server import what jobs need, while this process goes on."""
        if START == "forkserver":
            forkserver.set_forkserver_preload([PRELOAD])
            resource_tracker.ensure_running()
            with _interrupts_blocked():  # what is started inherits that: signals to end are for this process alone
                forkserver.ensure_running()

    def run(self, function: Callable[[Job], None], jobs: list[Job]) -> Iterator[Job]:
        """Run ``function`` on every job, yielding each when it is done. Busy workers are stopped when that fails.

        Raises:
            ChildProcessError: a job's workers died again and again.
            Exception: what a job raised.
        """
        waiting, deaths = deque(enumerate(jobs)), Counter[int]()
        workers = self._started(len(jobs))
        try:
            while waiting or any(worker.busy for worker in workers):
                for worker in workers:
                    if waiting and not worker.busy:
                        worker.give(function, *waiting.popleft())
                for place in _finished(workers):
                    index, job = workers[place].doing
                    try:
                        workers[place].result()
                    except EOFError:
                        workers[place] = workers[place].successor()
                        deaths[index] += 1
                        if deaths[index] > RETRIES:
                            raise died(len(workers)) from None
                        waiting.appendleft((index, job))
                    else:
                        yield job
        finally:
            self._forget_busy()

    def _started(self, jobs: int) -> list[_Worker]:
        """Return workers for some jobs, starting those that are missing: never more than there are jobs."""
        missing = min(self.workers, jobs) - len(self._workers)
        if missing > 0:
            self.warm_up()
            atexit.unregister(self.close)
            atexit.register(self.close)
            devices = accelerators(self._accelerator) or [None]
            for place in range(len(self._workers), len(self._workers) + missing):
                self._workers.append(_Worker(self.threads, devices[place % len(devices)]))
        return self._workers

    def _forget_busy(self) -> None:
        """Stop workers whose results nobody waits for any more."""
        for worker in self._workers:
            if worker.busy:
                worker.stop()
        self._workers = [worker for worker in self._workers if not worker.busy]

    def close(self) -> None:
        """Stop the workers; they start again when they are needed."""
        for worker in self._workers:
            worker.stop()
        self._workers = []


class _Worker:
    """One worker process, and what it is doing.

    Args:
        threads: its torch threads.
        device: the CUDA device that it sees; all when None.

    Attributes:
        busy: whether it has been given a job whose result has not been taken.
        doing: the index of that job and the job.
    """

    def __init__(self, threads: int, device: str | None) -> None:
        self._begins_with = threads, device
        self.busy = False
        self.doing: Any = None
        context: Any = multiprocessing.get_context(START)
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, threads, device))
        self._process.start()
        theirs.close()

    def give(self, function: Callable[[Any], None], index: int, job: Any) -> None:
        """Let the worker do a job; if it is dead already, that shows in its result."""
        self.busy, self.doing = True, (index, job)
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((function, job))

    def result(self) -> None:
        """Take note that the job is done, or raise what it raised; ``EOFError`` when the worker died."""
        try:
            error = self.connection.recv()
        except OSError:
            raise EOFError from None
        self.busy = False
        if error is not None:
            raise error

    def successor(self) -> _Worker:
        """Return a new worker like this one, which has died."""
        self.stop()
        return _Worker(*self._begins_with)

    def stop(self) -> None:
        """End the process at once: whatever it was writing does not count."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _finished(workers: list[_Worker]) -> list[int]:
    """Return the places of workers that have a result, or died; waits until there is one."""
    places = {worker.connection: place for place, worker in enumerate(workers) if worker.busy}
    return [places[connection] for connection in wait(list(places)) if isinstance(connection, Connection)]


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM for this thread and for what is started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, threads: int, device: str | None) -> None:
    """Be a worker: do jobs until the connection, or the main process, ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # a job may start processes, and end them
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin_computing(threads, device)
    with suppress(EOFError):
        while True:
            function, job = connection.recv()
            connection.send(_attempt(function, job))


def _attempt(function: Callable[[Any], None], job: Any) -> Exception | None:
    try:
        function(job)
    except Exception as error:
        return portable(error)
    return None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
