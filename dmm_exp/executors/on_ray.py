"""Work on a Ray cluster."""

from __future__ import annotations

import atexit
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from dmm_exp.errors import UserError
from dmm_exp.executors.devices import begin_computing, check_counts, check_gpus, cores
from dmm_exp.executors.jobs import RETRIES, Job, attempt, died

LOCAL = "local"


class Ray:
    """Run jobs in persistent actors. When an actor dies, Ray starts it and its job again, at most twice.

    Args:
        address: ``local`` to start a cluster on this machine, or one to join: ``auto``, ``ray://host:10001``.
        workers: number of actors; None takes as many as the cluster has room for.
        threads: torch threads, and CPUs, of each actor.
        gpus: CUDA devices of each actor; several share one when this is a fraction.

    Raises:
        UserError: a number is out of range, ray is not installed, or there is no cluster at the address.
    """

    def __init__(
        self, address: str = LOCAL, workers: int | None = None, threads: int = 1, gpus: float | int = 0
    ) -> None:
        check_counts(workers=workers, threads=threads)
        check_gpus(gpus)
        self.address = address
        self.threads = threads
        self.gpus = gpus
        self._wanted = workers
        self._idle: list[Any] = []
        self._ray: Any = None

    def warm_up(self) -> None:
        """Start or join the cluster."""
        self._started()

    def run(self, function: Callable[[Job], None], jobs: list[Job]) -> Iterator[Job]:
        """Run ``function`` on every job, and yield each job when it is done. After an error busy actors are killed.

        Raises:
            ChildProcessError: the actor of a job died at every attempt.
            Exception: the exception of a job.
        """
        ray, waiting = self._started(), deque(jobs)
        self._add_actors(len(jobs))
        running: dict[Any, tuple[Any, Job]] = {}
        try:
            while waiting or running:
                while waiting and self._idle:
                    actor, job = self._idle.pop(), waiting.popleft()
                    running[actor.do.remote(function, job)] = actor, job
                (done,), _ = ray.wait(list(running), num_returns=1)
                try:
                    error = ray.get(done)
                except ray.exceptions.RayActorError as death:
                    raise died(self.workers) from death
                actor, job = running.pop(done)
                self._idle.append(actor)
                if error is not None:
                    raise error
                yield job
        finally:
            for actor, _ in running.values():
                ray.kill(actor)

    @property
    def workers(self) -> int:
        """Number of actors."""
        if self._wanted is not None:
            return self._wanted
        room = self._started().cluster_resources()
        by_cpu = int(room.get("CPU", 0) // self.threads)
        return max(1, min(by_cpu, int(room.get("GPU", 0) / self.gpus)) if self.gpus else by_cpu)

    def close(self) -> None:
        """Stop the actors, and the cluster if this object started it."""
        if self._ray is None:
            return
        for actor in self._idle:
            with suppress(Exception):  # the cluster may be gone
                self._ray.kill(actor)
        self._idle = []
        self._ray.shutdown()
        self._ray = None

    def _add_actors(self, jobs: int) -> None:
        kind = self._started().remote(_Actor)
        actor = kind.options(
            num_cpus=self.threads,
            num_gpus=self.gpus,
            max_restarts=-1,
            max_task_retries=RETRIES,
            scheduling_strategy="SPREAD",
        )
        for _ in range(min(self.workers, jobs) - len(self._idle)):
            self._idle.append(actor.remote(self.threads))

    def _started(self) -> Any:
        """Return ray, connected to its cluster."""
        if self._ray is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                import ray
            except ImportError as error:
                raise UserError("executor=ray: ray is not installed; expected: pip install 'dmm_exp[ray]'") from error
            new_cluster = {"include_dashboard": False, "num_cpus": max(cores(), self.threads * (self._wanted or 1))}
            try:
                ray.init(
                    address=self.address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **(new_cluster if self.address == LOCAL else {}),
                )
            except ConnectionError as error:
                raise UserError(
                    f"executor.address={self.address}: no Ray cluster answers there; expected the address of one, or "
                    "'local' to start one on this machine"
                ) from error
            self._ray = ray
            atexit.register(self.close)
        return self._ray


class _Actor:
    """One worker."""

    def __init__(self, threads: int) -> None:
        begin_computing(threads)

    def do(self, function: Callable[[Any], None], job: Any) -> Exception | None:
        """Run a job, and return the exception that it raised, if any."""
        return attempt(function, job)
