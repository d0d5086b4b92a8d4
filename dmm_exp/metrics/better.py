"""Whether smaller or larger values of a metric are better."""

from __future__ import annotations

_LOWER = (
    *("klom", "cost", "ulira", "seconds", "effect/standard_error", "effect/expected_error"),
    *("single/outside", "single/distance"),
)


def lower_is_better(name: str) -> bool:
    """Return whether a smaller value of a metric is better (distances, costs and attacks)."""
    return name.startswith(_LOWER)
