"""How a speed is measured: pairs of runs in turn, the median of their ratios, and a check of the answers."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Speed:
    """What came out of timing two ways to do one thing.

    Attributes:
        work: what was done.
        ratio, least, most: median and range over pairs of reference time ÷ our time, for the same amount of work.
        seconds: median time of ours.
        limit: what the ratio should reach, where there is such a number.
    """

    work: str
    ratio: float
    least: float
    most: float
    seconds: float
    limit: float | None = None

    @property
    def row(self) -> str:
        """One row of a Markdown table."""
        wanted = "–" if self.limit is None else f"{self.limit:g}: {'yes' if self.ratio >= self.limit else 'NO'}"
        spread = f"{self.least:.3g} to {self.most:.3g}"
        return f"| {self.work} | {self.ratio:.3g} | {spread} | {1e3 * self.seconds:.3g} ms | {wanted} |"


TABLE_HEAD = "| work | times as fast | range over pairs | ours | wanted |\n|---|---|---|---|---|"


def compare(
    work: str,
    reference: Callable[[], Any],
    ours: Callable[[], Any],
    same: Callable[[Any, Any], bool],
    *,
    share: float = 1.0,
    pairs: int = 7,
    limit: float | None = None,
    clock: Callable[[], float] = time.process_time,
) -> Speed:
    """Run both in turn and return their ratio.

    Args:
        work: what is done, for the table.
        reference: the way to compare with; it may do only a ``share`` of the work.
        ours: the way under test.
        same: whether two results (the reference's, ours) are the same answer.
        share: part of the work that ``reference`` does; its time is divided by this.
        pairs: how often; one more pair goes first and is not counted.
        limit: what the ratio should reach.
        clock: processor seconds of this process, which a busy machine changes least; wall seconds for several threads.

    Raises:
        ArithmeticError: when the answers differ.
    """
    times = np.empty((pairs + 1, 2))
    for pair in times:
        expected, pair[0] = _timed(reference, clock)
        found, pair[1] = _timed(ours, clock)
        if not same(expected, found):
            raise ArithmeticError(f"{work}: the two ways do not give the same answer")
    slow, fast = times[1:, 0] / share, times[1:, 1]
    ratios = slow / fast
    return Speed(work, float(np.median(ratios)), ratios.min(), ratios.max(), float(np.median(fast)), limit)


def processor_seconds() -> float:
    """Return the processor seconds, user and system, of this process and of its children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _timed(function: Callable[[], Any], clock: Callable[[], float]) -> tuple[Any, float]:
    start = clock()
    result = function()
    return result, clock() - start
