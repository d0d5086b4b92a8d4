"""What one unlearned network looks like among retrained ones: columns by member, and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmm_exp.evaluation.by_member import Columns
from dmm_exp.evaluation.outputs import ENDS
from dmm_exp.metrics.single import (
    FEWEST_FOR_DISTANCE,
    FEWEST_FOR_OUTSIDE,
    distances,
    outside,
    share_within,
    share_within_others,
)

MEASURES: dict[str, tuple[int, Callable[[ArrayLike, ArrayLike], NDArray[np.float64]]]] = {
    "outside": (FEWEST_FOR_OUTSIDE, outside),
    "distance": (FEWEST_FOR_DISTANCE, distances),
}


def columns(margins: Mapping[str, NDArray[np.float32]], groups: Mapping[str, NDArray[np.intp]]) -> Columns:
    """Return a number for every network ``[members]``, by name; none that too few oracles are there for.

    ``single/outside{,_floor,_original}/GROUP`` is the share of a group's points on which the network is outside of the
    oracles' central 95 %, ``single/distance…`` its mean distance from their mean in their standard deviations.

    Args:
        margins: ``[members, points]`` of the ensembles ``unlearned`` and ``oracle``, and of ``floor`` and ``original``
            if there are any.
        groups: points by the name of their group.
    """
    found: Columns = {}
    ends = {ensemble: end for ensemble, end in ENDS.items() if ensemble in margins}
    for measure, (fewest, of_points) in MEASURES.items():
        for ensemble, end in ends.items() if len(margins["oracle"]) >= fewest else ():
            for group, points in groups.items():
                values = of_points(margins[ensemble][:, points], margins["oracle"][:, points])
                found[f"single/{measure}{end}/{group}"] = _mean(values)
    return {name: values for name, values in found.items() if not np.isnan(values).any()}


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over points of every network, without points on which all oracles agree."""
    known = ~np.isnan(values[0])
    return values[:, known].mean(axis=1) if known.any() else np.full(len(values), np.nan)


def metrics(of_networks: Columns, groups: Mapping[str, NDArray[np.intp]]) -> dict[str, float]:
    """Return the median over networks of every column, ``…/p95`` its 95th percentile, and the shares that pass.

    ``single/indistinguishable{,_floor,_original}/GROUP`` is the share of networks whose distance is at most the 95th
    percentile of the floor's; the floor's own leaves each network out of the percentile that it is compared with.
    """
    found = {name: float(np.median(values)) for name, values in of_networks.items()}
    found |= {f"{name}/p95": float(np.quantile(values, 0.95)) for name, values in of_networks.items()}
    for group in groups:
        floor = of_networks.get(f"single/distance_floor/{group}")
        if floor is None:
            continue
        found[f"single/indistinguishable_floor/{group}"] = share_within_others(floor)
        for end in ("", "_original"):
            if (own := of_networks.get(f"single/distance{end}/{group}")) is not None:
                found[f"single/indistinguishable{end}/{group}"] = share_within(own, floor)
    return found
