"""Conversion of numbers to float32, with checks for lost precision and for parts on different scales."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from dmm_exp.errors import UserError

EXACT = 2**24  # up to this value float32 represents all whole numbers exactly
LOST = 0.25  # accepted share of a column's different values that become equal in float32
COLUMNS = 100  # number of columns that are checked
SMALL, FACTOR = 10, 50  # parts differ in scale if one is within ±10 and the other 50 times larger (255 or 65,535)
FEW = 8  # number of values that a column needs for its scale to be judged


def numbers(values: np.ndarray, where: str, way_out: str = "") -> np.ndarray:
    """Return values as float32, of the same shape.

    Args:
        values: ``[examples, ...]``.
        where: name of the values in errors.
        way_out: a clause for errors, such as how to leave a column out.

    Raises:
        UserError: the values are not numbers, some are missing or infinite, or different ones are equal in float32.
    """
    if values.dtype.kind not in "biuf":
        raise UserError(f"{where}: expected numbers, found {values.dtype}")
    with np.errstate(over="ignore"):
        result = values.astype(np.float32)
    wrong = int((~np.isfinite(result)).sum())
    if wrong and np.isfinite(values).all():
        raise UserError(f"{where}: {wrong} numbers are too large for float32 (3.4e38); scale them{way_out}")
    if wrong:
        raise UserError(f"{where}: expected finite numbers, but {wrong} are not{way_out}")
    check_distinct(values, result, where, way_out)
    return result


def check_distinct(values: np.ndarray, single: np.ndarray, where: str, way_out: str = "") -> None:
    """Raise ``UserError`` where different values of a column become equal in float32, as identifiers and times do.

    Args:
        values: the original finite numbers ``[examples, ...]``.
        single: the same in float32.
        where: name of the values in errors.
        way_out: a clause that says how to leave a column out.
    """
    if values.dtype.kind not in "iuf" or values.dtype.itemsize < 4 or values.dtype == np.float32 or not values.size:
        return
    before, after = values.reshape(len(values), -1), single.reshape(len(values), -1)
    large = np.maximum(after.max(0), -after.min(0)) >= EXACT
    for column in np.flatnonzero(large)[:COLUMNS]:
        remaining, different = len(np.unique(after[:, column])), len(np.unique(before[:, column]))
        if remaining < (1 - LOST) * different:
            name = f"column {column} of {where}" if before.shape[1] > 1 else where
            raise UserError(
                f"{name}: in float32 only {remaining:,} of its {different:,} different numbers remain different (the "
                f"largest is {before[:, column].max()}), as is usual with identifiers and times; make the numbers "
                f"smaller, for example by subtracting the first{way_out}"
            )


def check_scales(parts: Mapping[str, np.ndarray], way_out: str = "") -> None:
    """Raise ``UserError`` if one part of the inputs was scaled and another was not, such as 0 to 1 and 0 to 255.

    Args:
        parts: floating-point inputs ``[examples, columns or channels, ...]`` by their name in errors.
        way_out: a clause for the error that says what to do.
    """
    for (one, small), (other, large) in combinations(parts.items(), 2):
        if np.abs(small).max() > np.abs(large).max():
            (one, small), (other, large) = (other, large), (one, small)
        are_pixels = np.abs(small).max() <= SMALL and large.min() >= 0 and large.max() <= 65535
        if are_pixels and _ratio(small, large) > FACTOR:
            raise UserError(
                f"{one} inputs go up to {small.max():.4g}, {other} inputs up to {large.max():.4g}: only one of them "
                f"seems to be scaled; expected both in the same units{way_out}"
            )


def _ratio(small: np.ndarray, large: np.ndarray) -> float:
    """Return by which factor one part is larger, as the median over columns or channels; 0 where unknown."""
    chosen = np.unique(np.linspace(0, small.shape[1] - 1, COLUMNS).astype(int))
    found = [(_size(small[:, column]), _size(large[:, column])) for column in chosen]
    ratios = [high / low for low, high in found if low and high]
    return float(np.median(ratios)) if ratios else 0.0


def _size(values: np.ndarray) -> float:
    """Return the typical size of numbers other than zero; 0 if there are too few of them."""
    sizes = np.abs(values[values != 0])
    return float(np.quantile(sizes, 0.9)) if len(sizes) >= FEW else 0.0
