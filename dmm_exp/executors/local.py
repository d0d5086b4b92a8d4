"""Work in this process, one job after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dmm_exp.executors.devices import check_counts
from dmm_exp.executors.jobs import Job


class Local:
    """Run jobs in this process.

    Args:
        threads: torch threads of each job; None leaves torch's own number.
    """

    def __init__(self, threads: int | None = None) -> None:
        check_counts(threads=threads)
        self.threads = threads

    def run(self, function: Callable[[Job], None], jobs: list[Job]) -> Iterator[Job]:
        """Run ``function`` on every job in order, and yield each job when it is done."""
        for job in jobs:
            with self._threads():
                function(job)
            yield job

    @contextmanager
    def _threads(self) -> Iterator[None]:
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def warm_up(self) -> None:
        """Do nothing: no worker has to be started."""

    def close(self) -> None:
        """Do nothing: no worker has to be stopped."""
