"""The last result of an estimator, kept in memory for experiments that share it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmm_exp.attribution import Learned
    from dmm_exp.store import Spec


class LastLearned:
    """Lets pipelines share what an estimator has learned, for forget sets with which it would learn the same.

    It holds one result at a time, which may be large, and releases it before the next one is computed.
    """

    def __init__(self) -> None:
        self._last: tuple[str, Learned] | None = None

    def obtain(self, spec: Spec, learn: Callable[[], Learned]) -> Learned:
        """Return the result that a spec identifies; it is computed by ``learn`` unless it is the last one."""
        if self._last is None or self._last[0] != spec.digest:
            self._last = None
            self._last = spec.digest, learn()
        return self._last[1]
