"""What an estimator learnt last, kept in memory for as long as whoever holds this."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmm_exp.attribution import Learned
    from dmm_exp.store import Spec


class LastLearned:
    """Shared by pipelines, it lets forget sets for which an estimator would learn the same share what it learnt.

    It holds one thing at a time, which may be large, and lets go of it before the next is learnt.
    """

    def __init__(self) -> None:
        self._last: tuple[str, Learned] | None = None

    def obtain(self, spec: Spec, learn: Callable[[], Learned]) -> Learned:
        """Return what was learnt from what a spec says; learn it, unless it was learnt last."""
        if self._last is None or self._last[0] != spec.digest:
            self._last = None
            self._last = spec.digest, learn()
        return self._last[1]
