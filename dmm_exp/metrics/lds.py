"""LDS, the linear datamodeling score: how well a predictor orders held-out models."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmm_exp.errors import UserError
from dmm_exp.metrics._inputs import member_matrix, open_unit, same_shape


def lds(predicted: ArrayLike, actual: ArrayLike) -> NDArray[np.float64]:
    """Return, for every point, the Spearman correlation over members of predicted and actual output.

    The score of an attribution is the mean over points that are not NaN (``numpy.nanmean``). Tied values share the
    average of their ranks. Where all members have the same *actual* output there is nothing to order, and the point is
    NaN. Where only the *predicted* output is constant the point is 0: a prediction that orders nothing earns nothing,
    and is not left out of the mean (scipy would say NaN in both cases).

    Args:
        predicted: ``[members, points]``, for held-out members that took no part in the estimation.
        actual: ``[members, points]``, the outputs of the same members.

    Raises:
        UserError: when the shapes differ, there are fewer than two members, or a value is NaN or infinite.

    Source: Park et al., TRAK, arXiv 2303.14186.
    """
    first, second = member_matrix("predicted", predicted, fewest_members=2), member_matrix("actual", actual)
    same_shape("predicted", first, "actual", second)
    from scipy.stats import rankdata  # imported late, since that takes longer than most metrics

    return _column_correlations(rankdata(first, axis=0), rankdata(second, axis=0))


def lds_interval(
    correlations: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return a percentile-bootstrap interval over points for the mean of ``lds(...)``.

    Points are resampled, members are not: the interval says how far the mean depends on which points were scored.

    Args:
        correlations: ``[points]`` as ``lds`` returns them; NaN points are left out.
        level: probability that the interval aims to cover.
        resamples: number of bootstrap draws, at least 100.
        seed: seed of the draws; the same seed gives the same interval.

    Raises:
        UserError: when no point is left, or an option is out of its range.
    """
    tail = 0.5 * (1.0 - open_unit("level", level))
    values = np.asarray(correlations, dtype=np.float64).ravel()
    values = values[~np.isnan(values)]
    if not values.size:
        raise UserError("correlations holds no point whose actual outputs differ; expected at least one number.")
    if resamples < 100:
        raise UserError(f"resamples is {resamples}; expected at least 100.")
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(values.size, size=values.size)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


def _column_correlations(predicted: NDArray[np.float64], actual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Pearson correlation of each column of ranks, with the constant columns as ``lds`` documents."""
    centre = 0.5 * (len(actual) + 1)  # the mean rank, ties or not
    predicted, actual = predicted - centre, actual - centre
    spread = np.sqrt((predicted**2).sum(axis=0) * (actual**2).sum(axis=0))
    constant = (actual == 0).all(axis=0)
    result = np.divide((predicted * actual).sum(axis=0), spread, out=np.zeros(len(spread)), where=spread > 0)
    return np.where(constant, np.nan, np.clip(result, -1.0, 1.0))
