"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MISSING = "–"


def number(value: float | None, form: str = ".2f") -> str:
    """Format a number; an absent (or NaN) one is a dash, never a zero."""
    return MISSING if value is None or math.isnan(value) else format(value, form)


def signed(value: float | None, form: str = ".2f") -> str:
    """Format a number that may be negative with a real minus sign, as axes of figures have it; see :func:`number`."""
    text = number(value, form)
    return f"−{text[1:]}" if text.startswith("-") else text


def two_digits(value: float | None) -> str:
    """Format a number with two significant digits."""
    return number(value, ".2g" if value is None or abs(value) < 100 else ".0f")


def trainings(cost: float) -> str:
    """Format a cost in trainings, ``1,705``; small ones with two digits."""
    return f"{cost:,.0f}" if cost >= 99.5 else f"{cost:.2g}"


def more(cost: float | None) -> str:
    """Format what comes on top of a cost, ``+ 1,705``; nothing for none, or where it is not known."""
    return f"+ {trainings(cost)}" if cost and not math.isnan(cost) else ""


def further(metrics: Mapping[Any, Any]) -> str:
    """Format all further models that a method looks at, those that requests share and those of this one alone."""
    known = [cost for name in ("shared", "own") if (cost := metrics.get(f"cost/{name}")) is not None]
    return more(sum(cost for cost in known if not math.isnan(cost)))


def percent(share: float) -> str:
    """Format a share; digits are kept near 0 and 100, so that neither is claimed unless it is meant."""
    value = 100 * share
    if value == 0 or 10 <= value <= 99 or value >= 100:
        return f"{value:.0f} %"
    return f"{value:.2g} %" if value < 10 else f"{value:.1f} %"
