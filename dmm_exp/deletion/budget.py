"""What a deletion may cost: seconds, or a share of a retraining."""

from __future__ import annotations

import math
import re

from dmm_exp.errors import UserError, shown

UNITS = {"": 1, "s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}
SHARE = "%"
_EXPECTED = (
    'expected seconds above 0 (30), a text with a unit ("10min", "2h") or, where a recipe is known, a share ("10%")'
)


def seconds_of(budget: float | str | None, key: str = "budget") -> float | None:
    """Return a budget in seconds, None if there is none.

    Raises:
        UserError: it is no such thing.

    >>> seconds_of("1.5h")
    5400.0
    """
    if budget is None:
        return None
    value, unit = _number(budget, key)
    if unit == SHARE:
        raise UserError(f"{key}={budget}: is a share of a retraining; expected seconds, or a text with a unit")
    return value * UNITS[unit]


def share_of(budget: float | str | None, key: str = "budget") -> float | None:
    """Return the share of a retraining that a budget is, None if it is not one.

    Raises:
        UserError: it is no budget at all.

    >>> share_of("25%")
    0.25
    """
    if budget is None:
        return None
    value, unit = _number(budget, key)
    return value / 100 if unit == SHARE else None


def _number(budget: float | str, key: str) -> tuple[float, str]:
    """Return the number and the unit of a budget."""
    match = re.fullmatch(r"\s*(\d*\.?\d+)\s*([a-z%]*)\s*", budget, re.ASCII) if isinstance(budget, str) else None
    number, unit = (match[1], match[2]) if match else (budget, "")
    wrong = UserError(f"{key}={shown(budget)}: {_EXPECTED}")
    if isinstance(number, (bool, bytes)) or unit not in (*UNITS, SHARE) or (match is None and isinstance(budget, str)):
        raise wrong
    try:
        value = float(number)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise wrong from error
    if not math.isfinite(value * UNITS.get(unit, 1)) or value <= 0:
        raise wrong
    return value, unit
