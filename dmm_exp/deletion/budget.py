"""What a deletion may cost: seconds, or a share of a retraining."""

from __future__ import annotations

import math
import re

from dmm_exp.errors import UserError

UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}
_EXPECTED = 'expected seconds (30), a text with a unit ("10min", "2h") or, where a recipe is known, a share ("10%")'


def seconds_of(budget: float | str | None, key: str = "budget") -> float | None:
    """Return a budget in seconds, None if there is none or it is a share of a retraining.

    Raises:
        UserError: it is no such thing.

    >>> seconds_of("1.5h")
    5400.0
    """
    if budget is None or share_of(budget) is not None:
        return None
    value = budget
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", budget)
        if match is None or (match[2] or "s") not in UNITS:
            raise UserError(f"{key}={budget}: {_EXPECTED}")
        value = float(match[1]) * UNITS[match[2] or "s"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise UserError(f"{key}={budget}: {_EXPECTED}, above 0")
    return float(value)


def share_of(budget: float | str | None) -> float | None:
    """Return the share of a retraining that a budget is, None if it is not one.

    Raises:
        UserError: the share is not a number above 0.

    >>> share_of("25%")
    0.25
    """
    if not isinstance(budget, str) or not budget.strip().endswith("%"):
        return None
    try:
        share = float(budget.strip()[:-1]) / 100
    except ValueError:
        share = 0.0
    if not math.isfinite(share) or share <= 0:
        raise UserError(f"budget={budget}: {_EXPECTED}, above 0")
    return share
