"""Intervals over members for statistics of KLoM over points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmm_exp.errors import UserError
from dmm_exp.metrics._inputs import open_unit
from dmm_exp.metrics._klom_counts import MarginPair, Options
from dmm_exp.metrics._reference import moments, without_noise
from dmm_exp.metrics.klom import KlomOptions, checked_pair

Statistic = float | Literal["mean"]

_SPLITS = 40  # random divisions of the members into halves
_REFERENCE_DRAWS, _REFERENCE_POINTS = 150, 500  # of the Gaussian margins that say how the spread falls from N/2 to N
_ROUNDING = 1e-6  # nats; a smaller standard error of the Gaussian margins is rounding, and its ratio means nothing
_FEWEST_FOR_INTERVAL = 8  # members, so that halves have a spread


def klom_interval(
    unlearned: ArrayLike,
    oracle: ArrayLike,
    *,
    quantile: Statistic = 0.95,
    level: float = 0.95,
    **options: Unpack[KlomOptions],
) -> tuple[float, float]:
    """Return ``(low, high)``, an interval over members for one statistic over points; see ``klom_intervals``."""
    return klom_intervals(unlearned, oracle, quantiles=(quantile,), level=level, **options)[quantile]


def klom_intervals(
    unlearned: ArrayLike,
    oracle: ArrayLike,
    *,
    quantiles: Sequence[Statistic] = (0.95,),
    level: float = 0.95,
    **options: Unpack[KlomOptions],
) -> dict[Statistic, tuple[float, float]]:
    """Return an interval over members for every statistic asked for, at the cost of one.

    The target is the expectation of the statistic over fresh ensembles of the same size N. The measured statistic is
    unbiased for it, so only its standard error is needed.

    1. Halves of the members that share no member are independent replicates at N/2: their spread, averaged over forty
       fixed random divisions, is the standard error at N/2, with whatever dependence there is between points.
    2. How much smaller it is at N depends on where KLoM lies: 0.4 of it at the floor, 0.71 for a mean, more than all of
       it near the ceiling. It hardly depends on how points hang together. So this ratio is read off independent
       Gaussian margins with the means and deviations that were measured at each point. Where all of these are at the
       ceiling, the ratio of a mean is taken.

    The interval is the statistic plus and minus normal quantiles of the standard error, with ``low`` at least 0. No
    global random state is used: the same input gives the same interval. ``benchmarks/klom_coverage.py`` measures its
    coverage: 91.5 to 98 % from the floor to a shift of 2 sigma, and 0 % for plain resampling with replacement, whose
    duplicated members thin the histograms and push KLoM up. ``docs/results.md`` has the table.

    Args:
        unlearned: margins ``[members, points]``, at least eight members.
        oracle: margins ``[members, points]``, with as many members.
        quantiles: quantiles over points in [0, 1], or ``"mean"``.
        level: probability that the interval aims to cover.
        **options: as for ``klom``.

    Raises:
        UserError: as ``klom`` does, and when there are fewer than eight members or a quantile is out of range.
    """
    pair = checked_pair(unlearned, oracle, Options(**options), fewest_members=_FEWEST_FOR_INTERVAL)
    normal = NormalDist().inv_cdf(0.5 * (1.0 + open_unit("level", level)))
    centre = statistics(pair.values(), quantiles)
    error = _spread_of_halves(pair, quantiles) * _fall_from_half(pair, quantiles)
    low, high = np.maximum(centre - normal * error, 0.0), centre + normal * error
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(quantiles)}


def statistics(values: NDArray[np.float64], quantiles: Sequence[Statistic]) -> NDArray[np.float64]:
    """Return one number for each of ``quantiles`` from per-point values."""
    for quantile in quantiles:
        if quantile != "mean" and (isinstance(quantile, str) or not 0.0 <= quantile <= 1.0):
            raise UserError(f"quantile is {quantile!r}; expected a number from 0 to 1, or 'mean'.")
    wanted = [quantile for quantile in quantiles if quantile != "mean"]
    found = iter(np.quantile(values, wanted))
    return np.array([values.mean() if quantile == "mean" else next(found) for quantile in quantiles])


def _spread_of_halves(pair: MarginPair, quantiles: Sequence[Statistic]) -> NDArray[np.float64]:
    """Return the standard error of every statistic at N/2."""
    generator = np.random.default_rng(0)
    variances = np.empty((_SPLITS, len(quantiles)))
    for split in range(_SPLITS):
        rows, columns = generator.permutation(pair.members), generator.permutation(pair.members)
        variances[split] = np.var(_of_halves(pair, rows, columns, quantiles), axis=0, ddof=1)
    return np.sqrt(variances.mean(axis=0))


def _of_halves(
    pair: MarginPair, rows: NDArray[np.int64], columns: NDArray[np.int64], quantiles: Sequence[Statistic]
) -> list[NDArray[np.float64]]:
    """Return the statistics of two halves that share no member."""
    half = pair.members // 2
    pieces = (slice(0, half), slice(half, 2 * half))
    return [statistics(pair.values(rows[piece], columns[piece]), quantiles) for piece in pieces]


def _fall_from_half(pair: MarginPair, quantiles: Sequence[Statistic]) -> NDArray[np.float64]:
    """Return the standard error at N over that at N/2, for independent Gaussian margins like those of the pair."""
    generator = np.random.default_rng(1)
    first, second = (moments(side, _REFERENCE_POINTS, pair.options.clip) for side in (pair.first, pair.second))
    means, deviations = without_noise(first, second, pair.members)
    members = np.arange(pair.members)
    whole, halves = [], []
    for _ in range(_REFERENCE_DRAWS):
        normal = generator.standard_normal((2, pair.members, means.shape[1]))
        one, other = (means[:, None] + deviations[:, None] * normal).astype(pair.first.dtype)
        drawn = MarginPair(one, other, pair.options)
        whole.append(statistics(drawn.values(), quantiles))
        halves += _of_halves(drawn, members, members, quantiles)
    at_half = np.std(halves, axis=0)
    mean_like = math.sqrt((pair.members // 2) / pair.members)
    return np.divide(np.std(whole, axis=0), at_half, out=np.full(len(quantiles), mean_like), where=at_half > _ROUNDING)
