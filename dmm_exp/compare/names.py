"""What people call metrics, and how a table heads them."""

from __future__ import annotations

from dmm_exp.metrics.tow import GROUPS

FLOOR_ROW = "independent retraining (floor)"
SCORES = {
    "tow": "ToW",
    "tow_mia": "ToW-MIA",
    "lds": "LDS",
    "cost/attribution": "cost of attribution",
    "mia/unlearned": "MIA",
}
BY_GROUP = {
    "klom/{}/p95": "P95 KLoM (nats)",
    "klom_reverse/{}/p95": "P95 reverse KLoM (nats)",
    "klom_sum/{}/p95": "P95 sum of KLoM (nats)",
    "accuracy/unlearned/{}": "accuracy",
    "lds/{}": "LDS",
    "effect/r2/{}": "R² of the effect",
}
_NAMES = {metric: (score, "") for metric, score in SCORES.items()}
_NAMES |= {form.format(group): (score, group) for form, score in BY_GROUP.items() for group in GROUPS}
_NAMES |= {"cost/ratio": ("cost", "unlearning"), "cost/shared": ("cost", "shared"), "cost/own": ("cost", "own")}
NOTES = {
    "cost/ratio": "Cost is in retrainings.",
    "cost/shared": "Shared is what all requests of a method share.",
    "cost/own": "Own are further models for one request alone.",
}


def name_of(metric: str) -> tuple[str, str]:
    """Return a metric's score and group of points, each as people write it; the group is empty where there is none.

    >>> name_of("klom/forget/p95"), name_of("tow"), name_of("ulira/accuracy")
    (('P95 KLoM (nats)', 'forget'), ('ToW', ''), ('ulira/accuracy', ''))
    """
    return _NAMES.get(metric, (metric, ""))


def words_of(metric: str) -> str:
    """Return a metric's score and group of points in one line.

    >>> words_of("klom/forget/p95")
    'P95 KLoM (nats), forget'
    """
    return ", ".join(filter(None, name_of(metric)))
