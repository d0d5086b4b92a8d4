"""What the runs of one process share: the last dataset that was read, and what an estimator learned last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dmm_exp.files.digests import digest_of

if TYPE_CHECKING:
    from dmm_exp.attribution import Learned
    from dmm_exp.pipeline.context import Data

T = TypeVar("T")


class Last(Generic[T]):
    """Keeps the last result of some work, for whoever asks for the same next.

    It holds one result at a time, which may be large, and releases it before the next one is computed.
    """

    def __init__(self) -> None:
        self._last: tuple[str, T] | None = None

    def obtain(self, key: str, make: Callable[[], T]) -> T:
        """Return the result that a key identifies; it is computed by ``make`` unless it is the last one."""
        if self._last is None or self._last[0] != key:
            self._last = None
            self._last = key, make()
        return self._last[1]


@dataclass(frozen=True)
class Shared:
    """What the runs of one process share.

    Attributes:
        data: the dataset, by its configuration. Its files are read once, even if they change meanwhile.
        learned: what the estimator learned, for forget sets with which it would learn the same.
        made: objects that configurations describe, by these; None where each run makes its own, as all do that compute.
    """

    data: Last[Data] = field(default_factory=Last)
    learned: Last[Learned] = field(default_factory=Last)
    made: dict[str, Any] | None = None

    def once(self, make: Callable[[], T], *described: Any) -> T:
        """Return what ``make`` does; runs that are only planned share it.

        Args:
            make: makes it.
            described: by what, as plain containers.
        """
        if self.made is None:
            return make()
        key = digest_of(described)
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]
