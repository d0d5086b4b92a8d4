"""Work in persistent processes of this machine.

Workers are forked from one server process that has imported torch and lightning, but computed nothing: what they need
is imported once, in the background (:mod:`dmm_exp.executors.preload`), and shared in memory.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from typing import TypeVar

from dmm_exp.errors import UserError

Job = TypeVar("Job")

RESTARTS = 2
START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PRELOAD = "dmm_exp.executors.preload"


class Processes:
    """Run jobs in worker processes that live as long as this object.

    A worker that dies (out of memory, killed) takes down the others; they are started again and what was unfinished
    is done again, at most twice.

    Args:
        workers: number of processes; one for each core that this process may use when None.
        threads: torch threads of each worker.

    Raises:
        UserError: a number is below 1.
    """

    def __init__(self, workers: int | None = None, threads: int = 1) -> None:
        if (workers is not None and workers < 1) or threads < 1:
            raise UserError(f"executor.workers={workers}, executor.threads={threads}: expected numbers of at least 1")
        self.workers = workers or max(1, cores() // threads)
        self.threads = threads
        self._pool: ProcessPoolExecutor | None = None

    def warm_up(self) -> None:
        """Let the server import what jobs need, while this process goes on."""
        if START == "forkserver":
            forkserver.set_forkserver_preload([PRELOAD])
            forkserver.ensure_running()

    def run(self, function: Callable[[Job], None], jobs: list[Job]) -> Iterator[None]:
        """Run ``function`` on every job, yielding once for each that is done.

        Raises:
            ChildProcessError: workers died again after being started anew.
            Exception: what a job raised.
        """
        waiting = dict(enumerate(jobs))
        for attempt in range(RESTARTS + 1):
            try:
                for index in self._run_once(function, waiting):
                    del waiting[index]
                    yield
                return
            except BrokenProcessPool as error:
                self.close()
                if attempt == RESTARTS:
                    raise ChildProcessError(
                        f"a worker process died {RESTARTS + 1} times (often for want of memory: try fewer "
                        f"executor.workers than {self.workers}, or a smaller model.chunk_size)"
                    ) from error

    def _run_once(self, function: Callable[[Job], None], jobs: dict[int, Job]) -> Iterator[int]:
        pool = self._started()
        pending: dict[Future[None], int] = {pool.submit(function, job): index for index, job in jobs.items()}
        try:
            while pending:
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    yield pending.pop(future)
        finally:
            for future in pending:
                future.cancel()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self.warm_up()
            self._pool = ProcessPoolExecutor(
                self.workers,
                mp_context=multiprocessing.get_context(START),
                initializer=_begin_worker,
                initargs=(self.threads,),
            )
        return self._pool

    def close(self) -> None:
        """Stop the workers; they start again when they are needed."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def cores() -> int:
    """Return the number of cores that this process may use; all of them where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin_worker(threads: int) -> None:
    """Prepare a worker: its threads, and an end of its own when the main process is killed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
