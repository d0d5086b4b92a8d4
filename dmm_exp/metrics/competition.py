"""The score of the NeurIPS 2023 unlearning competition (Triantafillou et al., 2024, arXiv 2406.09073).

For every forgotten example an attacker looks at its margin under N unlearned and N retrained models, and tells the two
apart by one threshold or by two. The best attack's error rates bound the ε of (ε, δ)-unlearning from below. The smaller
ε, the more points the example scores; the mean over examples is the forgetting quality. N independently retrained
models do not score 1 either: with N of each, thresholds that fit the noise already show an ε. Read it beside its floor.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmm_exp.metrics._inputs import member_matrix, same_shape

DELTA = 1e-5
LARGEST_EPSILON = 50.0
SLACK = 2.0
"""Two thresholds are as far apart as the narrower side's margins, give or take this much."""

NARROW = 0.01
"""A side whose margins span less than this share of the other's is told apart for certain."""

BIN = 0.5
"""Width in ε of the bins of examples; each scores half of what the bin before it does."""


def competition_epsilon(unlearned: ArrayLike, retrained: ArrayLike) -> NDArray[np.float64]:
    """Return each example's ε ``[points]``, in [0, 50]: the largest over all attacks (arXiv 2406.09073, section 3).

    An attack with false-positive rate a and false-negative rate b shows ``max(ln((1−δ−a)/b), ln((1−δ−b)/a))``. It is
    left out where one rate is 0, and shows 50 where both are. One threshold takes what is above it for the side with
    the larger median; two thresholds take what is between them for the side whose margins span less. The public code
    tries thresholds on a grid with steps of .01; here all that differ on these models are tried.

    Args:
        unlearned: margins ``[N, points]`` of forgotten examples; the competition's logit-scaled confidences.
        retrained: margins ``[N, points]``.

    Raises:
        UserError: when shapes differ, or a margin is NaN or infinite.
    """
    first = member_matrix("unlearned", unlearned, fewest_members=2)
    second = member_matrix("retrained", retrained, fewest_members=2)
    same_shape("unlearned", first, "retrained", second)
    return np.array([_epsilon(*pair) for pair in zip(first.T, second.T, strict=True)])


def competition_quality(epsilon: ArrayLike, models: int) -> NDArray[np.float64]:
    """Return each example's points, in [0, 1]; their mean is the forgetting quality (arXiv 2406.09073, section 3).

    An ε in the k-th bin of width .5, from 0, scores ``2^−k``. From ``⌈ln(N−1)⌉`` on, which N models can hardly show, it
    scores nothing.

    Args:
        epsilon: ``[points]``.
        models: N.
    """
    epsilon = np.asarray(epsilon, dtype=np.float64)
    return np.where(epsilon < math.ceil(math.log(models - 1)), 0.5 ** np.floor(epsilon / BIN), 0.0)


def _epsilon(unlearned: NDArray[np.floating], retrained: NDArray[np.floating]) -> float:
    """Return ε of one example from its margins ``[N]`` on both sides."""
    widths = np.ptp(unlearned), np.ptp(retrained)
    if min(widths) < NARROW * max(widths):
        return LARGEST_EPSILON
    upper = float(np.median(retrained)) > float(np.median(unlearned))
    narrow = widths[1] < widths[0]
    values = np.concatenate([unlearned, retrained])
    order = values.argsort(kind="stable")
    values, of_retrained = values[order], order >= len(unlearned)
    # Of each side, how many margins are below every cut between two margins that differ.
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [len(values)]])
    below = np.stack([np.concatenate([[0], (of_retrained == side).cumsum()])[cuts] for side in (False, True)])
    one = (below[:, -1:] - below)[[int(upper), int(not upper)]]
    two = _between(values, cuts, below[[int(narrow), int(not narrow)]], float(min(widths)))
    table = _table(len(unlearned))
    return float(max(table[tuple(one)].max(), table[tuple(two)].max(initial=0.0)))


def _between(
    values: NDArray[np.floating], cuts: NDArray[np.intp], below: NDArray[np.intp], width: float
) -> NDArray[np.intp]:
    """Return how many margins of the narrower and of the other side lie between two cuts, for all pairs of cuts.

    Only thresholds count whose distance can be ``width`` but for :data:`SLACK`: ``[2, pairs]``.
    """
    first, last = np.triu_indices(len(cuts), 1)
    edges = np.concatenate([[-np.inf], values, [np.inf]])
    at_least = values[cuts[last] - 1] - values[cuts[first]]
    at_most = edges[cuts[last] + 1] - edges[cuts[first]]
    possible = (at_least <= width + SLACK) & (at_most >= width - SLACK)
    return (below[:, last] - below[:, first])[:, possible]


@cache
def _table(models: int) -> NDArray[np.float64]:
    """Return ε for all numbers of true and of false positives, ``[N + 1, N + 1]``; 0 for an attack that is left out."""
    missed = 1 - np.arange(models + 1)[:, None] / models
    false = np.arange(models + 1)[None, :] / models
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.maximum(np.log(1 - DELTA - false) - np.log(missed), np.log(1 - DELTA - missed) - np.log(false))
    found = np.where((missed > 0) & (false > 0), np.nan_to_num(found, nan=0.0).clip(0, LARGEST_EPSILON), 0.0)
    found[-1, 0] = LARGEST_EPSILON
    return found
