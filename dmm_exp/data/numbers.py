"""Numbers as float32: what they hold, what is lost on the way there, and whether two parts are on one scale."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from dmm_exp.errors import UserError

EXACT = 2**24  # whole numbers up to here are all different in float32
LOST = 0.25  # share of a column's different values that may become equal in float32
COLUMNS = 100  # columns of large numbers that are looked at
SMALL, FACTOR = 10, 50  # one part within ±10, another one 50 times larger: 255 or 65,535, less what the draw may do
FEW = 8  # values from which a column's size can be judged


def numbers(values: np.ndarray, where: str, way_out: str = "") -> np.ndarray:
    """Return values as float32, of the same shape.

    Args:
        values: ``[examples, ...]``.
        where: what errors call them.
        way_out: a clause for columns that float32 cannot hold, such as how to leave them out.

    Raises:
        UserError: they are no numbers, some are missing or infinite, or float32 makes different ones equal.
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
        values: finite numbers ``[examples, ...]`` as they were given.
        single: the same in float32.
        where: what errors call them.
        way_out: a clause that says how to leave a column out.
    """
    if values.dtype.kind not in "iuf" or values.dtype.itemsize < 4 or values.dtype == np.float32 or not values.size:
        return
    before, after = values.reshape(len(values), -1), single.reshape(len(values), -1)
    large = np.maximum(after.max(0), -after.min(0)) >= EXACT
    for column in np.flatnonzero(large)[:COLUMNS]:
        told_apart, different = len(np.unique(after[:, column])), len(np.unique(before[:, column]))
        if told_apart < (1 - LOST) * different:
            name = f"column {column} of {where}" if before.shape[1] > 1 else where
            raise UserError(
                f"{name}: float32 makes {told_apart:,} of its {different:,} different numbers (the largest is "
                f"{before[:, column].max()}), as happens with identifiers and times; take less of them, for example "
                f"their difference from the first{way_out}"
            )


def check_scales(parts: Mapping[str, np.ndarray], way_out: str = "") -> None:
    """Raise ``UserError`` where one part of the inputs was scaled and another was not, such as 0 to 1 and 0 to 255.

    Args:
        parts: floating-point inputs ``[examples, columns or channels, ...]`` by their name in errors.
        way_out: a clause that says what to do.
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
    """Return how many times larger the numbers of one part are, in the median column or channel; 0 where unknown."""
    chosen = np.unique(np.linspace(0, small.shape[1] - 1, COLUMNS).astype(int))
    found = [(_size(small[:, column]), _size(large[:, column])) for column in chosen]
    ratios = [high / low for low, high in found if low and high]
    return float(np.median(ratios)) if ratios else 0.0


def _size(values: np.ndarray) -> float:
    """Return how large most numbers are, zeros apart; 0 for too few of them."""
    sizes = np.abs(values[values != 0])
    return float(np.quantile(sizes, 0.9)) if len(sizes) >= FEW else 0.0
