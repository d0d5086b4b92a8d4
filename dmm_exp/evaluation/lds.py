"""Linear datamodeling scores by group of points."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dmm_exp.metrics import lds_interval


def lds_metrics(name: str, scores: NDArray[np.floating], groups: Mapping[str, NDArray[np.intp]]) -> dict[str, float]:
    """Return ``NAME``, the mean over all points; and ``NAME/GROUP`` with a 95 % interval, ``…_low`` and ``…_high``.

    Training points' scores mostly say who was in a subset; papers report those of validation points.

    Args:
        name: ``lds`` or ``lds/alpha_A``.
        scores: of every point ``[points]``; NaN where they were not computed. A group without any is left out.
        groups: points by the name of their group.
    """
    found = {name: float(np.nanmean(scores))}
    for group, points in groups.items():
        known = scores[points][np.isfinite(scores[points])]
        if len(known):
            low, high = lds_interval(known)
            found |= {f"{name}/{group}": float(known.mean(dtype=np.float64))}
            found |= {f"{name}/{group}_low": low, f"{name}/{group}_high": high}
    return found
