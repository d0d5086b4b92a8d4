"""Which way a metric is better (smaller, larger, or neither), and what retrained models have."""

from __future__ import annotations

from typing import Literal

Better = Literal["lower", "higher"]
_LOWER = (
    *("klom", "cost", "ulira", "seconds", "effect/standard_error", "effect/expected_error"),
    *("single/outside", "single/distance", "competition/epsilon", "certified", "effect/doubt"),
)
_HIGHER = ("tow", "lds", "effect/r2", "effect/correlation", "single/indistinguishable", "competition/")
_NEITHER = ("accuracy", "mia/", "effect/slope", "effect/error_ratio", "tow/std", "tow_mia/std")
_NEITHER_ENDS = ("/false_positive_rate", "/false_positive_rate_low", "/false_positive_rate_high")


def better(name: str) -> Better | None:
    """Return which way a metric is better; None where neither is.

    Accuracies and the share that a membership attack finds are best where they are those of retrained models, above or
    below. A rate of false alarms, a slope and a spread are no scores. A metric that is not known is not judged.

    >>> better("klom/forget/p95"), better("tow"), better("accuracy/unlearned/forget")
    ('lower', 'higher', None)
    """
    measured = (
        name.split("/", 2)[2] if name.startswith("audit/") and name.count("/") > 1 else name
    )  # audit/PROBE/METRIC
    if measured.startswith(_NEITHER) or measured.endswith(_NEITHER_ENDS):
        return None
    if measured.startswith(_LOWER):
        return "lower"
    return "higher" if measured.startswith(_HIGHER) else None


def floor_name(name: str) -> str:
    """Return what the same metric of an independent ensemble of retrained models is called, where it is measured.

    >>> [floor_name(name) for name in ("klom/forget/p95", "tow", "accuracy/unlearned/val", "mia/unlearned")]
    ['klom_floor/forget/p95', 'tow_floor', 'accuracy/floor/val', 'mia/floor']
    """
    if "/unlearned" in name:
        return name.replace("/unlearned", "/floor")
    kind, slash, rest = name.partition("/")
    return f"{kind}_floor{slash}{rest}"
