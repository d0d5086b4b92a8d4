"""Which points are forgotten, retained and for validation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dmm_exp.errors import UserError
from dmm_exp.metrics.tow import GROUPS
from dmm_exp.scoring.arrays import ArrayFile

KEYS = {"forget": 0, "retain": 1, "validation": 2}
"""Options that list points of a group → the group's number."""


def read_groups(files: Mapping[str, ArrayFile], points: int) -> NDArray[np.int64]:
    """Return the group of every point ``[points]``: 0 forget, 1 retain, 2 validation.

    Args:
        files: by option: ``groups`` alone, or ``forget`` with or without ``validation`` and ``retain``. Without
            ``retain`` the points in no other group are retained.
        points: how many there are.

    Raises:
        UserError: a file lists no points of these, groups overlap, a point is in none, or there is no forget point.
    """
    lists = [files[key] for key in KEYS if key in files]
    if "groups" in files:
        if lists:
            raise lists[0].error("says what groups= says; expected one of them")
        return _by_number(files["groups"], points)
    if "forget" not in files:
        raise UserError("forget: is missing; expected forget=FILE with the indices of forget points, or groups=FILE")
    return _by_lists(lists, points)


def _by_number(file: ArrayFile, points: int) -> NDArray[np.int64]:
    groups = file.read()
    if groups.shape != (points,) or groups.dtype.kind not in "iu" or not np.isin(groups, range(len(GROUPS))).all():
        raise file.error(
            f"holds {groups.dtype} of the shape {list(groups.shape)}; expected a whole number for each of {points} "
            "points: 0 (forget), 1 (retain) or 2 (validation)"
        )
    if not (groups == KEYS["forget"]).any():
        raise file.error("has no forget point; expected a 0 for each of them")
    return groups.astype(np.int64)


def _by_lists(files: list[ArrayFile], points: int) -> NDArray[np.int64]:
    groups, owner = np.full(points, -1), {-1: ""}
    for file in files:
        found, number = _indices(file, points), KEYS[file.key]
        if len(taken := found[groups[found] >= 0]):
            raise file.error(
                f"shares {len(taken)} points with {owner[int(groups[taken[0]])]}, the first {taken[0]}; expected no "
                "point in two groups"
            )
        groups[found], owner[number] = number, f"{file.key}={file.text}"
    if "retain" not in (file.key for file in files):
        groups[groups < 0] = KEYS["retain"]
    elif len(left := np.flatnonzero(groups < 0)):
        raise UserError(
            f"retain: {len(left)} of {points} points are in no group, the first {left[0]}; expected all in one, or no "
            "retain= to take the rest"
        )
    return groups


def _indices(file: ArrayFile, points: int) -> NDArray[np.intp]:
    """Return the points that a file lists, or marks as true."""
    found = file.read(lists=True)
    if found.dtype.kind == "b" and found.shape == (points,):
        found = np.flatnonzero(found)
    if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
        raise file.error(
            f"holds {found.dtype} of the shape {list(found.shape)}; expected indices of points, one or more, or true "
            f"and false for each of {points} points"
        )
    if not 0 <= found.min() <= found.max() < points:
        raise file.error(f"lists points from {found.min()} to {found.max()}; expected some from 0 to {points - 1}")
    if len(np.unique(found)) < len(found):
        raise file.error(f"lists {len(found) - len(np.unique(found))} points twice; expected each once")
    return found.astype(np.intp)
