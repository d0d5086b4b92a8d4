"""Work in this process, one job after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

Job = TypeVar("Job")


class Local:
    """Run jobs in this process, with all of torch's threads."""

    def run(self, function: Callable[[Job], None], jobs: list[Job]) -> Iterator[Job]:
        """Run ``function`` on every job in order, yielding each when it is done."""
        for job in jobs:
            function(job)
            yield job

    def warm_up(self) -> None:
        """Nothing needs to be started."""

    def close(self) -> None:
        """Nothing needs to be stopped."""
