"""One network alone: where its margins lie among those of N retrained networks.

The other metrics compare ensembles. Whoever unlearns has one network, and asks whether it could be one of the retrained
ones. Of one network a point's margin is a single number, so it is placed among the N oracles' margins of that point.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmm_exp.errors import UserError
from dmm_exp.metrics._inputs import member_matrix, same_points

TAILS = 0.05
"""Share of points on which a retrained network is expected outside, half of it on either side."""

FEWEST_FOR_DISTANCE = 20
"""Oracles and networks, below which a deviation or a 95th percentile over networks is mostly noise."""

FEWEST_FOR_OUTSIDE = math.ceil(2 / TAILS) - 1
"""Oracles, 39: with fewer, not even a margin beyond all of theirs counts as a whole one outside."""


def ranks(networks: ArrayLike, oracles: ArrayLike) -> NDArray[np.float64]:
    """Return the share of oracles that every network is above ``[networks, points]``, in [0, 1].

    Equal margins count half (mid-ranks). Of a retrained network, N times the rank is each of 0 to N equally likely.

    Args:
        networks: margins ``[networks, points]``.
        oracles: margins ``[N, points]`` of retrained networks, other ones.

    Raises:
        UserError: when the points differ in number, a side is empty, or a margin is NaN or infinite.
    """
    own, others = _checked(networks, oracles)
    below = np.stack([np.count_nonzero(others < margins, axis=0) for margins in own])
    upto = np.stack([np.count_nonzero(others <= margins, axis=0) for margins in own])
    return (below + upto) / (2 * len(others))


def outside(networks: ArrayLike, oracles: ArrayLike) -> NDArray[np.float64]:
    """Return for every network and point ``[networks, points]`` whether it is outside of the oracles' central 95 %.

    With k of N oracles below, a retrained network has each k from 0 to N equally likely, whatever the margins'
    distribution. So the outer ``t = .025 (N + 1)`` places on each side are outside, the last of them with the fraction
    that t leaves: ``clip(t - k, 0, 1) + clip(t - (N - k), 0, 1)``. The expectation for a retrained network is then
    exactly ``2 t / (N + 1) = .05`` at every N, where quantiles of N samples would give more.

    Args:
        networks: margins ``[networks, points]``.
        oracles: margins ``[N, points]`` of retrained networks, at least 39.

    Raises:
        UserError: as ``ranks`` does, and when there are too few oracles.
    """
    own, others = _checked(networks, oracles, FEWEST_FOR_OUTSIDE)
    count = len(others)
    each_side, below = 0.5 * TAILS * (count + 1), ranks(own, others) * count
    return np.clip(each_side - below, 0, 1) + np.clip(each_side - (count - below), 0, 1)


def distances(networks: ArrayLike, oracles: ArrayLike) -> NDArray[np.float64]:
    """Return how far every network is from the oracles' mean, in their standard deviations ``[networks, points]``.

    About .8 is expected of a retrained network with normal margins. NaN where all oracles have the same margin.

    Args:
        networks: margins ``[networks, points]``.
        oracles: margins ``[N, points]`` of retrained networks, at least two.

    Raises:
        UserError: as ``ranks`` does, and when there are too few oracles.
    """
    own, others = (side.astype(np.float64) for side in _checked(networks, oracles, 2))
    deviation = np.where(np.ptp(others, axis=0) > 0, others.std(axis=0, ddof=1), np.nan)
    return np.abs(own - others.mean(axis=0)) / deviation


def share_within(networks: ArrayLike, retrained: ArrayLike) -> float:
    """Return the share of networks that are no further away than 95 % of retrained ones are.

    Args:
        networks: a distance for every network ``[networks]``.
        retrained: a distance for every retrained network ``[retrained]``, from the same oracles.

    Raises:
        UserError: when there are fewer than 20 retrained networks.
    """
    return float(np.mean(np.asarray(networks) <= np.quantile(_enough(retrained), 1 - TAILS)))


def share_within_others(retrained: ArrayLike) -> float:
    """Return the share of retrained networks that are no further away than 95 % of the *other* retrained ones are.

    This is what ``share_within`` is to be compared with: about .95, a little less with few networks.

    Raises:
        UserError: as ``share_within`` does.
    """
    values = _enough(retrained)
    bounds = [np.quantile(np.delete(values, place), 1 - TAILS) for place in range(len(values))]
    return float(np.mean(values <= bounds))


def _enough(retrained: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(retrained, dtype=np.float64)
    if len(values) < FEWEST_FOR_DISTANCE:
        raise UserError(f"retrained has {len(values)} networks; expected at least {FEWEST_FOR_DISTANCE}.")
    return values


def _checked(
    networks: ArrayLike, oracles: ArrayLike, fewest: int = 1
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    own, others = member_matrix("networks", networks), member_matrix("oracles", oracles, fewest_members=fewest)
    same_points("networks", own, "oracles", others)
    return own, others
