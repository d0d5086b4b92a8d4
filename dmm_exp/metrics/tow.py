"""ToW: the tug-of-war between forgetting, retaining and generalising (Zhao et al., arXiv 2406.01257)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmm_exp.errors import UserError

GROUPS = ("forget", "retain", "val")
"""Groups of points, in the order in which every table and figure shows them."""
ATTACK_GROUPS = ("mia", "retain", "val")


def tow(unlearned: Mapping[str, ArrayLike], oracle: Mapping[str, ArrayLike]) -> float | NDArray[np.float64]:
    """Return the product over forget, retain and val of ``1 - |accuracy of unlearned - accuracy of oracle|``.

    1 is retraining itself, 0 the worst.

    Args:
        unlearned: accuracies in [0, 1], each a number or an array ``[members]``, for exactly the three groups.
        oracle: the same for the retrained models, paired with the unlearned ones member by member.

    Returns:
        A float for numbers, ``[members]`` where any value is an array.

    Raises:
        UserError: when a group is missing or unknown, a value lies outside [0, 1], or the shapes do not fit.
    """
    return _product(unlearned, oracle, GROUPS)


def tow_mia(unlearned: Mapping[str, ArrayLike], oracle: Mapping[str, ArrayLike]) -> float | NDArray[np.float64]:
    """Return ToW with the score of a membership inference attack in place of the forget accuracy.

    As ``tow``, for exactly the groups mia, retain and val.
    """
    return _product(unlearned, oracle, ATTACK_GROUPS)


def _product(
    unlearned: Mapping[str, ArrayLike], oracle: Mapping[str, ArrayLike], groups: tuple[str, ...]
) -> float | NDArray[np.float64]:
    """Return the product of the closeness in every group."""
    first, second = _checked("unlearned", unlearned, groups), _checked("oracle", oracle, groups)
    shapes = {values.shape for side in (first, second) for values in side.values() if values.ndim}
    if len(shapes) > 1:
        raise UserError(f"the accuracies have shapes {sorted(shapes)}; expected one number of members throughout.")
    result = np.ones(max(shapes, default=()))
    for group in groups:
        result = result * (1.0 - np.abs(first[group] - second[group]))
    return result if shapes else float(result)


def _checked(name: str, accuracies: Mapping[str, ArrayLike], groups: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
    """Return the accuracies as arrays, all in [0, 1]."""
    if set(accuracies) != set(groups):
        raise UserError(f"{name} has the groups {sorted(accuracies)}; expected exactly {', '.join(groups)}.")
    arrays = {group: np.asarray(accuracies[group], dtype=np.float64) for group in groups}
    for group, values in arrays.items():
        if values.ndim > 1 or not np.all((values >= 0) & (values <= 1)):
            raise UserError(f"{name}['{group}'] is {accuracies[group]}; expected a number or [members], all in [0, 1].")
    return arrays
