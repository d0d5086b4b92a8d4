"""Whether smaller or larger values of a metric are better, and what retrained models have."""

from __future__ import annotations

_LOWER = (
    *("klom", "cost", "ulira", "seconds", "effect/standard_error", "effect/expected_error"),
    *("single/outside", "single/distance", "competition/epsilon", "certified", "effect/doubt"),
)


def lower_is_better(name: str) -> bool:
    """Return whether a smaller value of a metric is better (distances, costs and attacks)."""
    measured = name.split("/", 2)[2] if name.startswith("audit/") else name  # audit/PROBE/METRIC
    return measured.startswith(_LOWER)


def floor_name(name: str) -> str:
    """Return what the same metric of an independent ensemble of retrained models is called, where it is measured.

    >>> [floor_name(name) for name in ("klom/forget/p95", "tow", "accuracy/unlearned/val", "mia/unlearned")]
    ['klom_floor/forget/p95', 'tow_floor', 'accuracy/floor/val', 'mia/floor']
    """
    if "/unlearned" in name:
        return name.replace("/unlearned", "/floor")
    kind, slash, rest = name.partition("/")
    return f"{kind}_floor{slash}{rest}"
