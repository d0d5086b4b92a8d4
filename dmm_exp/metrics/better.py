"""Which way a number of ``metrics.json`` is better."""

from __future__ import annotations

_LOWER = ("klom", "cost", "ulira", "seconds", "effect/standard_error", "effect/expected_error")


def lower_is_better(name: str) -> bool:
    """Say whether a smaller value of a metric is better (distances, costs and attacks), or a larger one."""
    return name.startswith(_LOWER)
