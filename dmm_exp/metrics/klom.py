"""KLoM: the Kullback-Leibler divergence of margins (Georgiev et al., ICLR 2025, arXiv 2410.23232).

For each point, the margins of N unlearned models and of N oracles make two histograms over their joint range; KLoM is
the divergence of one from the other. It is not 0 for equal distributions, so it is read next to its floor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmm_exp.errors import UserError, did_you_mean
from dmm_exp.metrics._inputs import member_matrix, open_unit, same_shape

DIRECTIONS = ("unlearned_oracle", "oracle_unlearned")
Statistic = float | Literal["mean"]

_SAMPLES_PER_BLOCK = (
    1 << 16
)  # half a megabyte of float64, so that the passes over a block stay in the processor's cache
_NEAR_EDGE = 1e-6  # in bins; a sample further than this from every edge cannot be guessed into the wrong bin
_NARROW = 1e-6  # below this range relative to the values, rounding of the edges could exceed _NEAR_EDGE
_TINY = 1e-290  # a range below this leaves steps that are no longer represented to full precision
_SPLITS = 40  # random divisions of the members behind an interval
_STUCK = 0.75  # spread at N/2 over that at N/4 (0.71 for a mean) above which their law cannot be carried on to N
_FOLDS, _JACKKNIVES = 5, 8  # what is used there instead: delete-a-fifth jackknives, each with its own folds
_FEWEST_FOR_INTERVAL = 8  # members, so that a quarter has two


class KlomOptions(TypedDict, total=False):
    """The keyword options of ``klom``, for functions that pass them on."""

    bins: int
    clip: float
    eps: float
    direction: str
    drop_maximum: bool
    renormalise: bool


@dataclass(frozen=True)
class _Options:
    """The options with their defaults, checked."""

    bins: int = 20
    clip: float = 100.0
    eps: float = 1e-5
    direction: str = "unlearned_oracle"
    drop_maximum: bool = False
    renormalise: bool = False

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            hint = did_you_mean(self.direction, DIRECTIONS)
            raise UserError(f"direction is '{self.direction}'; expected {' or '.join(DIRECTIONS)}{hint}.")
        if isinstance(self.bins, bool) or int(self.bins) != self.bins or self.bins < 1:
            raise UserError(f"bins is {self.bins}; expected a whole number of at least 1.")
        if not 0 < self.clip < math.inf:
            raise UserError(f"clip is {self.clip}; expected a finite number above 0.")
        open_unit("eps", self.eps)


def klom(
    unlearned: ArrayLike,
    oracle: ArrayLike,
    *,
    bins: int = 20,
    clip: float = 100.0,
    eps: float = 1e-5,
    direction: str = "unlearned_oracle",
    drop_maximum: bool = False,
    renormalise: bool = False,
) -> NDArray[np.float64]:
    """Return KLoM ``[points]`` in nats: 0 for equal histograms, at most ``-ln(eps)`` unless ``renormalise`` is set.

    Bin edges are float64, evenly spaced over the joint range of a point's clipped margins; a value on an inner edge
    belongs to the bin on its right, and the last bin is closed. The counts are those of a plain loop over points.
    Where all 2N margins of a point are equal its KLoM is 0.

    Args:
        unlearned: margins ``[members, points]``.
        oracle: margins ``[members, points]``, with as many members.
        bins: number of equal bins.
        clip: margins are first clipped to ``[-clip, clip]``.
        eps: floor of the second distribution's probability in bins where the first has any.
        direction: ``unlearned_oracle`` is KL(unlearned ‖ oracle), ``oracle_unlearned`` the reverse.
        drop_maximum: leave out the samples equal to a point's joint maximum, as binning by ``numpy.digitize`` does, to
            reproduce published numbers. Each side is then divided by the number of samples it keeps, as in the public
            code. Where a side would keep none, that point's last bin stays closed.
        renormalise: scale the second distribution back to 1 after flooring, as ``scipy.stats.entropy`` does.

    Raises:
        UserError: when the shapes differ (unequal N included), a margin is NaN or infinite, or an option is no good.
    """
    options = _Options(bins, clip, eps, direction, drop_maximum, renormalise)
    return _values(*_checked_pair(unlearned, oracle, options), options)


def check_options(**options: Unpack[KlomOptions]) -> None:
    """Raise ``UserError`` for options that ``klom`` would refuse."""
    _Options(**options)


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
    unbiased for it, so only its standard error is needed. Halves and quarters of the members that share no member are
    independent replicates at N/2 and N/4; their spread, averaged over forty fixed random divisions, gives the standard
    error at these sizes, and the power law through both gives it at N. Where the spread falls more slowly than that
    of a mean (KLoM near its ceiling), the law would promise too much and a delete-a-fifth jackknife takes over if it is
    the larger. The interval is the statistic plus and minus normal quantiles, with ``low`` at least 0. No global random
    state is used: the same input gives the same interval.

    Coverage of 95 % intervals in simulation: N = 100, 250 points, Gaussian margins with a mean and deviation of their
    own at every point, three shared member effects with a tenth of the variance; 100 trials, so give or take 0.02:

    ========================================  ====  =====  =====  =====
    shift of the unlearned mean, in sigma     mean  p50    p95    p99
    ========================================  ====  =====  =====  =====
    none                                      0.96  0.95   0.95   0.98
    0.3 to 1.5 at a quarter of the points     0.90  0.95   0.99   0.99
    2 at all points                           0.96  0.98   0.99   0.99
    4 at all points                           0.96  0.89   0.97   0.90
    ========================================  ====  =====  =====  =====

    A jackknife everywhere is 1.5 to 2.8 times too wide where nothing is shifted (KLoM there has no linear part, and a
    jackknife counts each higher part several times over); half-sampling is 2.1 to 2.5 times too wide there.

    Args:
        unlearned: margins ``[members, points]``, at least eight members.
        oracle: margins ``[members, points]``, with as many members.
        quantiles: quantiles over points in [0, 1], or ``"mean"``.
        level: probability that the interval aims to cover.
        **options: as for ``klom``.

    Raises:
        UserError: as ``klom`` does, and when there are fewer than eight members or a quantile is out of range.
    """
    checked = _Options(**options)
    first, second = _checked_pair(unlearned, oracle, checked, fewest_members=_FEWEST_FOR_INTERVAL)
    normal = _normal_quantile(0.5 * (1.0 + open_unit("level", level)))
    centre = _statistics(_values(first, second, checked), quantiles)
    error = _standard_errors(first, second, checked, quantiles)
    low, high = np.maximum(centre - normal * error, 0.0), centre + normal * error
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(quantiles)}


def _checked_pair(
    unlearned: ArrayLike, oracle: ArrayLike, options: _Options, fewest_members: int = 1
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return both sides in the order of the divergence: the first argument of KL first."""
    first = member_matrix("unlearned", unlearned, fewest_members=fewest_members)
    second = member_matrix("oracle", oracle, fewest_members=fewest_members)
    if len(first) != len(second):
        raise UserError(
            f"unlearned has {len(first)} members and oracle has {len(second)}; KLoM depends on their number, "
            "so both sides need the same number of members."
        )
    same_shape("unlearned", first, "oracle", second)
    return (first, second) if options.direction == "unlearned_oracle" else (second, first)


def _values(first: NDArray[np.floating], second: NDArray[np.floating], options: _Options) -> NDArray[np.float64]:
    """Return the divergence ``[points]`` of checked margins, block by block of points."""
    members, points = first.shape
    step = max(1, _SAMPLES_PER_BLOCK // (2 * members))
    values = np.empty(points)
    for start in range(0, points, step):
        block = slice(start, start + step)
        values[block] = _divergence(_histograms(first[:, block], second[:, block], options), options)
    return values


def _histograms(first: NDArray[np.floating], second: NDArray[np.floating], options: _Options) -> NDArray[np.integer]:
    """Return the counts ``[points, 2, bins]`` of a block of points."""
    members, bins = len(first), int(options.bins)
    samples = np.concatenate([first, second]).T.astype(np.float64, order="C")
    np.clip(samples, -options.clip, options.clip, out=samples)
    low, high = samples.min(axis=1), samples.max(axis=1)
    high = np.where(high > low, high, low + 1.0)
    index = _bin_of(samples, low, high, bins)
    index += np.arange(len(samples))[:, None] * (2 * bins) + np.repeat([0, bins], members)
    counts = np.bincount(index.ravel(), minlength=len(samples) * 2 * bins).reshape(-1, 2, bins)
    if options.drop_maximum:
        at_maximum = (samples == high[:, None]).reshape(-1, 2, members).sum(axis=2)
        counts[..., -1] -= np.where((at_maximum < members).all(axis=1), at_maximum.T, 0).T
    return counts


def _bin_of(
    samples: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], bins: int
) -> NDArray[np.int64]:
    """Return the bin of every sample ``[points, 2 * members]``.

    Arithmetic guesses the bin; only the few samples so near an edge that rounding could mislead it are compared with
    the edges themselves.
    """
    edges = _edges(low, high, bins)
    scaled = samples - low[:, None]
    scaled *= (bins / np.maximum(high - low, _TINY))[:, None]
    index = scaled.astype(np.int64)
    np.clip(index, 0, bins - 1, out=index)
    scaled -= np.rint(scaled)
    point, member = np.nonzero(np.abs(scaled, out=scaled) < _NEAR_EDGE)
    near, guess = samples[point, member], index[point, member]
    below, above = near < edges[point, guess], near >= edges[point, guess + 1]
    index[point, member] = np.minimum(guess - below + above, bins - 1)
    narrow = np.flatnonzero(high - low < _NARROW * np.maximum(np.abs(low), np.abs(high)) + _TINY)
    for row in narrow:
        index[row] = np.searchsorted(edges[row, 1:-1], samples[row], side="right")
    return index


def _edges(low: NDArray[np.float64], high: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Return the edges ``[points, bins + 1]``, each row bit for bit what ``numpy.linspace`` gives for one point."""
    number, width = np.arange(bins + 1.0), (high - low)[:, None]
    step = width / bins
    # linspace itself, given all rows, changes its arithmetic for every row as soon as one step underflows
    edges = np.where(step == 0.0, number / bins * width, number * step) + low[:, None]
    edges[:, -1] = high
    return edges


def _divergence(counts: NDArray[np.integer], options: _Options) -> NDArray[np.float64]:
    """Return the divergence ``[points]`` of the histograms ``[points, 2, bins]``."""
    probabilities = counts / counts.sum(axis=2, keepdims=True)
    p, q = probabilities[:, 0], probabilities[:, 1]
    q = np.where(p > 0, np.maximum(q, options.eps), q)
    if options.renormalise:
        q = q / q.sum(axis=1, keepdims=True)
    ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)
    return (p * np.log(ratio)).sum(axis=1)


def _statistics(values: NDArray[np.float64], quantiles: Sequence[Statistic]) -> NDArray[np.float64]:
    """Return one number for each of ``quantiles`` from per-point values."""
    for quantile in quantiles:
        if quantile != "mean" and (isinstance(quantile, str) or not 0.0 <= quantile <= 1.0):
            raise UserError(f"quantile is {quantile!r}; expected a number from 0 to 1, or 'mean'.")
    wanted = [quantile for quantile in quantiles if quantile != "mean"]
    found = iter(np.quantile(values, wanted))
    return np.array([values.mean() if quantile == "mean" else next(found) for quantile in quantiles])


def _standard_errors(
    first: NDArray[np.floating], second: NDArray[np.floating], options: _Options, quantiles: Sequence[Statistic]
) -> NDArray[np.float64]:
    """Return the standard error at N of every statistic."""
    members = len(first)
    half, quarter = members // 2, members // 4
    at_half = _spread_of_parts(first, second, options, quantiles, half)
    at_quarter = _spread_of_parts(first, second, options, quantiles, quarter)
    # without a spread among the quarters there is no law to read off; fall back on that of a mean
    ratio = np.divide(at_half, at_quarter, out=np.full_like(at_half, np.sqrt(quarter / half)), where=at_quarter > 0)
    error = at_half * ratio ** (math.log(members / half) / math.log(half / quarter))
    stuck = ratio > _STUCK
    if stuck.any():
        error = np.where(stuck, np.maximum(error, _jackknife(first, second, options, quantiles)), error)
    return error


def _jackknife(
    first: NDArray[np.floating], second: NDArray[np.floating], options: _Options, quantiles: Sequence[Statistic]
) -> NDArray[np.float64]:
    """Return the standard error at N from leaving out a fifth of both sides at a time."""
    generator = np.random.default_rng(0)
    variances = np.empty((_JACKKNIVES, len(quantiles)))
    for repeat in range(_JACKKNIVES):
        folds = [np.array_split(generator.permutation(len(first)), _FOLDS) for _ in range(2)]
        kept = [(np.delete(first, f, axis=0), np.delete(second, s, axis=0)) for f, s in zip(*folds, strict=True)]
        replicates = [_statistics(_values(f, s, options), quantiles) for f, s in kept]
        variances[repeat] = (_FOLDS - 1) * np.var(replicates, axis=0)
    return np.sqrt(variances.mean(axis=0))


def _spread_of_parts(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    options: _Options,
    quantiles: Sequence[Statistic],
    size: int,
) -> NDArray[np.float64]:
    """Return the standard deviation of every statistic between parts of ``size`` members that share none."""
    generator = np.random.default_rng(size)
    parts = len(first) // size
    variances = np.empty((_SPLITS, len(quantiles)))
    for split in range(_SPLITS):
        rows, columns = generator.permutation(len(first)), generator.permutation(len(first))
        pieces = [slice(part * size, (part + 1) * size) for part in range(parts)]
        replicates = [
            _statistics(_values(first[rows[piece]], second[columns[piece]], options), quantiles) for piece in pieces
        ]
        variances[split] = np.var(replicates, axis=0, ddof=1)
    return np.sqrt(variances.mean(axis=0))


def _normal_quantile(probability: float) -> float:
    """Return the quantile of the standard normal distribution."""
    return NormalDist().inv_cdf(probability)
