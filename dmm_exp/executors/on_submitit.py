"""Work on a SLURM cluster, through submitit."""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from dmm_exp.errors import UserError
from dmm_exp.executors.devices import check_counts, check_gpus
from dmm_exp.executors.jobs import RETRIES, Job, died
from dmm_exp.executors.queue import PATIENCE, Queue, Worker

LARGEST_ARRAY = 1000  # workers of one array: SLURM takes 1,001 unless its MaxArraySize was changed
LOOKING = 0.1  # share of the main process's time that it looks at the queue and its workers; the rest it sleeps
LONGEST_PAUSE = PATIENCE / 10  # seconds between two looks, so that workers hear of it in time


class Submitit:
    """Run jobs in arrays of workers, each a SLURM job that takes jobs from a shared folder until none is left.

    submitit puts a worker that is preempted or runs out of time into the queue again; a worker that dies is submitted
    again. Both continue with the job that they had not finished. Workers stop when this process has not updated the
    queue for some minutes.

    Args:
        folder: for queues, and for submitit's scripts and logs; on a file system that the cluster shares.
        workers: number of SLURM jobs; an array has at most 1,000 of them.
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
        self._options |= {"name": "dmm_exp", "slurm_array_parallelism": LARGEST_ARRAY, **(parameters or {})}
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
        array = self.array(function, jobs)
        try:
            array.submit(min(self.workers, len(jobs)), self.threads)
            while array.missing:
                begun = time.monotonic()
                for index in array.newly_done():
                    yield jobs[index]
                array.look_after_workers()
                pause = (1 / LOOKING - 1) * (time.monotonic() - begun)
                time.sleep(min(max(self._interval, pause), LONGEST_PAUSE))
        finally:
            array.end()

    def array(self, function: Callable[[Job], None], jobs: list[Job]) -> Array:
        """Return workers for some jobs; none is submitted yet."""
        queue = Queue(self.folder / f"queue-{uuid.uuid4().hex[:12]}")
        return Array(self._started(), self.cluster == "slurm", queue, function, jobs)

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


class Array:
    """The workers of some jobs.

    Args:
        executor: of submitit.
        is_slurm: whether workers are SLURM jobs, and no processes of this machine.
        queue: of the jobs; not created yet.
        function: runs one job.
        jobs: all of them.

    Attributes:
        missing: indices of jobs that are not known to be done.
    """

    def __init__(
        self, executor: Any, is_slurm: bool, queue: Queue, function: Callable[[Any], None], jobs: list[Any]
    ) -> None:
        self.missing = set(range(len(jobs)))
        self._executor = executor
        self._is_slurm = is_slurm
        self._queue = queue
        self._work = function, jobs
        self._workers: dict[Worker, Any] = {}
        self._deaths = Counter[int]()  # by job; by -1 - number for workers that had taken no job

    def submit(self, count: int, threads: int) -> None:
        """Create the queue, and submit its workers in as few arrays as SLURM takes.

        Each begins at a place of its own, so that they do not all try the same jobs.
        """
        import cloudpickle

        function, jobs = self._work
        self._queue.begin(function, jobs, cloudpickle.dumps)
        for start in range(0, count, LARGEST_ARRAY):
            numbers = range(start, min(start + LARGEST_ARRAY, count))
            workers = [Worker(self._queue, number, number * len(jobs) // count, threads) for number in numbers]
            with self._executor.batch():
                submitted = [self._executor.submit(worker) for worker in workers]
            self._workers |= zip(workers, submitted, strict=True)

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
        running = [submitted for submitted in self._workers.values() if not submitted.done()]
        if arrays := sorted({job.job_id.partition("_")[0] for job in running}) if self._is_slurm else []:
            subprocess.call(["scancel", *arrays])  # one command, and not one for each worker
        for submitted in [] if self._is_slurm else running:
            submitted.cancel(check=False)
        shutil.rmtree(self._queue.folder, ignore_errors=True)
