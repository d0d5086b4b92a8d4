"""Whether smaller or larger values of a metric are better."""

from __future__ import annotations

_LOWER = (
    *("klom", "cost", "ulira", "seconds", "effect/standard_error", "effect/expected_error"),
    *("single/outside", "single/distance", "competition/epsilon", "certified", "effect/doubt"),
)


def lower_is_better(name: str) -> bool:
    """Return whether a smaller value of a metric is better (distances, costs and attacks)."""
    measured = name.split("/", 2)[2] if name.startswith("audit/") else name  # audit/PROBE/METRIC
    return measured.startswith(_LOWER)
