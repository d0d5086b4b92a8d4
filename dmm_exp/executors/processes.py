"""Work in persistent processes of this machine: one for each GPU, or for each group of cores.

Workers are forked from one server process that has imported torch and lightning but has computed nothing. The modules
are imported once, in the background (:mod:`dmm_exp.executors.preload`), and workers share their memory.
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
from typing import Any

from dmm_exp.errors import UserError
from dmm_exp.executors.devices import accelerators, begin_computing, check_counts, cores
from dmm_exp.executors.jobs import RETRIES, Job, attempt, died

START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PRELOAD = "dmm_exp.executors.preload"
IDLE = 1.5 if START == "forkserver" else None  # seconds without a job after which a worker without a GPU ends


class Processes:
    """Run jobs in worker processes that live as long as this object.

    Where CUDA devices are used, every worker sees one of them (``CUDA_VISIBLE_DEVICES``). A worker that dies (out of
    memory, killed) is replaced, and its job is started again, at most twice; other workers continue. Where workers are
    forked, one without a GPU ends when it has been idle for a while, and another is forked when there is work again.
    That takes milliseconds, and meanwhile the main process has the memory.

    Args:
        workers: number of processes; None takes one for each CUDA device or, without devices, one for each ``threads``
            cores that this process may use.
        threads: torch threads of each worker.
        workers_per_device: number of processes for each CUDA device, when ``workers`` is None.
        accelerator: of the trainer; workers get CUDA devices unless it is ``cpu``.

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
        """Start the server, which imports what jobs need while this process continues."""
        if START == "forkserver":
            forkserver.set_forkserver_preload([PRELOAD])
            resource_tracker.ensure_running()
            with _interrupts_blocked():  # new processes inherit the mask: such signals are for this process alone
                forkserver.ensure_running()

    def run(self, function: Callable[[Job], None], jobs: list[Job]) -> Iterator[Job]:
        """Run ``function`` on every job, and yield each job when it is done. After an error busy workers are stopped.

        Raises:
            ChildProcessError: the worker of a job died at every attempt.
            Exception: the exception of a job.
        """
        waiting, deaths = deque(enumerate(jobs)), Counter[int]()
        workers = self._started(len(jobs))
        try:
            while waiting or any(worker.busy for worker in workers):
                for place, worker in enumerate(workers):
                    if waiting and not worker.busy:
                        workers[place] = worker if worker.alive else worker.successor()
                        workers[place].give(function, *waiting.popleft())
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
            self._stop_busy()

    def _started(self, jobs: int) -> list[_Worker]:
        """Return workers for some jobs; missing workers are started, but never more than there are jobs."""
        missing = min(self.workers, jobs) - len(self._workers)
        if missing > 0:
            self.warm_up()
            atexit.unregister(self.close)
            atexit.register(self.close)
            devices = accelerators(self._accelerator) or [None]
            for place in range(len(self._workers), len(self._workers) + missing):
                self._workers.append(_Worker(self.threads, devices[place % len(devices)]))
        return self._workers

    def _stop_busy(self) -> None:
        """Stop workers whose results are not needed any more."""
        for worker in self._workers:
            if worker.busy:
                worker.stop()
        self._workers = [worker for worker in self._workers if not worker.busy]

    def close(self) -> None:
        """Stop the workers; the next :meth:`run` starts new ones."""
        for worker in self._workers:
            worker.stop()
        self._workers = []


class _Worker:
    """One worker process, and its job.

    Args:
        threads: torch threads of the worker.
        device: the CUDA device that the worker sees; None for all devices.

    Attributes:
        busy: whether it has a job whose result has not been read.
        doing: the index of that job, and the job.
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

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    def give(self, function: Callable[[Any], None], index: int, job: Any) -> None:
        """Send a job to the worker; a worker that has died is noticed when the result is read."""
        self.busy, self.doing = True, (index, job)
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((function, job))

    def result(self) -> None:
        """Read the result: return if the job succeeded, raise its exception, or ``EOFError`` if the worker died."""
        try:
            error = self.connection.recv()
        except OSError:
            raise EOFError from None
        self.busy = False
        if error is not None:
            raise error

    def successor(self) -> _Worker:
        """Return a new worker with the same settings as this one, which has ended or died."""
        self.stop()
        return _Worker(*self._begins_with)

    def stop(self) -> None:
        """Kill the process; an unfinished file of it is not used."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _finished(workers: list[_Worker]) -> list[int]:
    """Wait until some workers have a result or have died, and return their places in the list."""
    places = {worker.connection: place for place, worker in enumerate(workers) if worker.busy}
    return [places[connection] for connection in wait(list(places)) if isinstance(connection, Connection)]


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM for this thread and for processes that are started inside the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, threads: int, device: str | None) -> None:
    """Run jobs in a worker until it is idle for long, or the connection or the main process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # a job may start processes, and end them
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin_computing(threads, device)
    with suppress(EOFError):
        while connection.poll(IDLE if device is None else None):
            function, job = connection.recv()
            connection.send(attempt(function, job))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
