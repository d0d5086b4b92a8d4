"""Checks of the metrics' inputs: an error in one sentence instead of a wrong number."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmm_exp.errors import UserError


def member_matrix(name: str, values: ArrayLike, *, fewest_members: int = 1) -> NDArray[np.floating]:
    """Return ``values`` as a finite floating array ``[members, points]``.

    Integers become float64; float32 stays float32, so that no large array is copied.

    Raises:
        UserError: when the shape is another, members are too few, there is no point, or a value is NaN or infinite.
    """
    array = np.asarray(values)
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    if array.ndim != 2 or array.shape[0] < fewest_members or array.shape[1] == 0:
        raise UserError(
            f"{name} has shape {list(array.shape)}; expected [members, points] with at least "
            f"{fewest_members} member(s) and one point."
        )
    unusable = array.size - int(np.count_nonzero(np.isfinite(array)))
    if unusable:
        raise UserError(
            f"{name} holds {unusable} values that are NaN or infinite (has a model diverged?); expected finite numbers."
        )
    return array


def same_shape(first_name: str, first: NDArray, second_name: str, second: NDArray) -> None:
    """Raise UserError unless both arrays have one shape."""
    if first.shape != second.shape:
        raise UserError(
            f"{first_name} has shape {list(first.shape)} and {second_name} has shape {list(second.shape)}; "
            "expected the same shape."
        )


def same_points(first_name: str, first: NDArray, second_name: str, second: NDArray) -> None:
    """Raise UserError unless both ``[members, points]`` arrays have as many points."""
    if first.shape[1] != second.shape[1]:
        raise UserError(
            f"{first_name} has {first.shape[1]} points and {second_name} has {second.shape[1]}; "
            "expected the same points in the same order."
        )


def open_unit(name: str, value: float) -> float:
    """Return ``value`` as a float; raise UserError unless it lies strictly between 0 and 1."""
    if not 0.0 < value < 1.0:
        raise UserError(f"{name} is {value}; expected a number between 0 and 1, both excluded.")
    return float(value)


def checked_logits(logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    """Return logits ``[members, points, classes]`` and labels ``[points]`` as arrays that fit each other.

    Raises:
        UserError: when the shapes do not fit, there are fewer than two classes, or a label is no class index.
    """
    scores, classes_of = np.asarray(logits), np.asarray(labels)
    if scores.ndim != 3 or scores.shape[2] < 2:
        raise UserError(
            f"logits has shape {list(scores.shape)}; expected [members, points, classes] with at least two classes."
        )
    if classes_of.shape != scores.shape[1:2] or classes_of.dtype.kind not in "iu":
        raise UserError(
            f"labels has shape {list(classes_of.shape)} and type {classes_of.dtype}; "
            f"expected {scores.shape[1]} whole numbers, one for each point."
        )
    if classes_of.size and not 0 <= classes_of.min() <= classes_of.max() < scores.shape[2]:
        raise UserError(
            f"labels runs from {classes_of.min()} to {classes_of.max()}; "
            f"expected class indices from 0 to {scores.shape[2] - 1}."
        )
    return scores, classes_of
