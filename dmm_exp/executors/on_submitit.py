"""Work on a SLURM cluster, through submitit."""

from __future__ import annotations

import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from dmm_exp.errors import UserError
from dmm_exp.executors.devices import check_counts, check_gpus
from dmm_exp.executors.jobs import RETRIES, Job, died
from dmm_exp.executors.queue import Queue, Worker


class Submitit:
    """Run jobs in an array of workers, each a SLURM job that takes jobs from a shared folder until none is left.

    submitit puts a worker that is preempted or runs out of time into the queue again; a worker that dies is submitted
    again. Both continue with the job that they had not finished. Workers stop when this process has not updated the
    queue for some minutes.

    Args:
        folder: for queues, and for submitit's scripts and logs; on a file system that the cluster shares.
        workers: number of SLURM jobs of the array.
        threads: torch threads, and CPUs, of each worker.
        gpus: CUDA devices of each worker.
        timeout_min: minutes after which SLURM ends a worker.
        cluster: ``slurm``, or ``local`` for processes of this machine.
        parameters: further parameters of submitit, such as ``slurm_partition`` or ``mem_gb``.

    Raises:
        UserError: a number is out of range, submitit is not installed, or SLURM is not available.
    """

    def __init__(
        self,
        folder: str,
        workers: int = 4,
        threads: int = 1,
        gpus: int = 0,
        timeout_min: int = 240,
        cluster: Literal["slurm", "local"] = "slurm",
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        check_counts(workers=workers, threads=threads, timeout_min=timeout_min)
        check_gpus(gpus)
        self.folder = Path(folder).expanduser().absolute()
        self.workers = workers
        self.threads = threads
        self.cluster = cluster
        self._options = {"timeout_min": timeout_min, "cpus_per_task": threads, "gpus_per_node": gpus}
        self._options |= {"name": "dmm_exp", **(parameters or {})}
        self._executor: Any = None
        self._interval = 0.1 if cluster == "local" else 2.0  # seconds between two looks at the queue

    def warm_up(self) -> None:
        """Create the executor, so that wrong settings are reported before any work starts."""
        self._started()

    def run(self, function: Callable[[Job], None], jobs: list[Job]) -> Iterator[Job]:
        """Run ``function`` on every job, and yield each job when it is done. After an error workers are cancelled.

        Raises:
            ChildProcessError: the worker of a job died at every attempt.
            Exception: the exception of a job.
        """
        if not jobs:
            return
        array = _Array(self._started(), Queue(self.folder / f"queue-{uuid.uuid4().hex[:12]}"), function, jobs)
        try:
            array.submit(range(min(self.workers, len(jobs))), self.threads)
            while array.missing:
                for index in array.newly_done():
                    yield jobs[index]
                array.look_after_workers()
                time.sleep(self._interval)
        finally:
            array.end()

    def close(self) -> None:
        """Do nothing: no worker runs between two calls of :meth:`run`."""

    def _started(self) -> Any:
        if self._executor is None:
            try:
                import submitit
            except ImportError as error:
                raise UserError(
                    "executor=submitit: submitit is not installed; expected: pip install 'dmm_exp[slurm]'"
                ) from error
            try:
                executor = submitit.AutoExecutor(self.folder / "logs", cluster=self.cluster)
                executor.update_parameters(**self._options)
            except RuntimeError as error:
                raise UserError(
                    f"executor.cluster={self.cluster}: {error}; expected 'local' on this machine"
                ) from error
            except (NameError, TypeError, ValueError) as error:
                raise UserError(f"executor.parameters: submitit refuses them: {error}") from error
            self._executor = executor
        return self._executor


class _Array:
    """The workers of some jobs.

    Attributes:
        missing: indices of jobs that are not known to be done.
    """

    def __init__(self, executor: Any, queue: Queue, function: Callable[[Any], None], jobs: list[Any]) -> None:
        self.missing = set(range(len(jobs)))
        self._executor = executor
        self._queue = queue
        self._work = function, jobs
        self._workers: dict[Worker, Any] = {}
        self._deaths = Counter[int]()  # by job; by -1 - number for workers that had taken no job

    def submit(self, numbers: range, threads: int) -> None:
        """Create the queue and submit its workers as one array."""
        self._queue.begin()
        workers = [Worker(self._queue, number, *self._work, threads) for number in numbers]
        with self._executor.batch():
            submitted = [self._executor.submit(worker) for worker in workers]
        self._workers = dict(zip(workers, submitted, strict=True))

    def newly_done(self) -> list[int]:
        """Return the jobs that were finished since the last call."""
        self._queue.beat()
        found = sorted(self._queue.done() & self.missing)
        self.missing -= set(found)
        return found

    def look_after_workers(self) -> None:
        """Raise the exception of a worker that failed; submit workers that died again."""
        from submitit.core.utils import UncompletedJobError

        for worker, submitted in list(self._workers.items()):
            if not submitted.done():
                continue
            try:
                error = submitted.result()
            except UncompletedJobError as death:
                self._count(worker.number, death)
                self._workers[worker] = self._executor.submit(worker)
                continue
            if error is not None:
                raise error
            del self._workers[worker]

    def _count(self, number: int, death: Exception) -> None:
        """Count the death of a worker for the job that it was running; raise when one job has had too many."""
        taken = self._queue.release(number)
        for cause in taken or [-1 - number]:
            self._deaths[cause] += 1
            if self._deaths[cause] > RETRIES:
                error = died(len(self._workers)) if taken else ChildProcessError(f"a worker does not start: {death}")
                raise error from death

    def end(self) -> None:
        """Cancel workers that still run, and remove the queue."""
        for submitted in self._workers.values():
            if not submitted.done():
                submitted.cancel(check=False)
        shutil.rmtree(self._queue.folder, ignore_errors=True)
