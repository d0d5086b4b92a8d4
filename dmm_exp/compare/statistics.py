"""Ranks within blocks, paired differences over members or blocks, and corrections for many tests.

Everything random is drawn from a fixed seed: the same values give the same intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit
from scipy.stats import rankdata

from dmm_exp.console.words import number

REPEATS = 10_000
LEVEL = 0.95
_TAIL = (1 - LEVEL) / 2


@dataclass(frozen=True)
class Difference:
    """Mean differences of several pairs, each with its 95 % interval and its two-sided p-value: ``[pairs]`` each.

    Interval and p-value are NaN where there is too little to tell.
    """

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    p: NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over repetitions; the half-width of its 95 % interval is NaN for a single one, both are for none."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Estimate:
        """Estimate from one value a repetition ``[n]``, with Student's t; NaN values are left out."""
        known = values[np.isfinite(values)]
        if len(known) < 2:
            return cls(float(known.mean()) if len(known) else math.nan, math.nan)
        spread = float(known.std(ddof=1)) / math.sqrt(len(known))
        return cls(float(known.mean()), float(stdtrit(len(known) - 1, 1 - _TAIL)) * spread)

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half

    def __str__(self) -> str:
        """Say both, as in ``0.912 ± 0.008``."""
        return number(self.mean, ".3f") + (f" ± {self.half:.3f}" if math.isfinite(self.half) else "")


def ranks(values: NDArray[np.float64], *, lower: bool) -> NDArray[np.float64]:
    """Rank methods within each block, 1 the best, ties at their average rank.

    Args:
        values: ``[blocks, methods]``; NaN where a method has no value, which has no rank either.
        lower: whether smaller values are better.

    Returns:
        ``[blocks, methods]``; all NaN in a block with fewer than two values, where there is nothing to rank.
    """
    alone = np.isfinite(values).sum(1, keepdims=True) < 2
    return np.where(alone, np.nan, rankdata(values if lower else -values, axis=1, nan_policy="omit"))


def mean_rank_intervals(found: NDArray[np.float64], seed: int = 0) -> tuple[NDArray, NDArray]:
    """Return the 95 % interval of every method's mean rank, by drawing blocks with replacement.

    Args:
        found: ranks ``[blocks, methods]``; NaN where a method has none.
        seed: of the drawing.

    Returns:
        The lower and the upper ends, ``[methods]`` each; NaN for methods with ranks in fewer than two blocks.
    """
    known = np.isfinite(found)
    weights = _draws(len(found), np.random.default_rng(seed))
    sums, counts = weights @ np.where(known, found, 0.0), weights @ known.astype(float)
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    ends = np.full((2, found.shape[1]), np.nan)
    several = known.sum(0) >= 2
    ends[:, several] = np.nanquantile(means[:, several], [_TAIL, 1 - _TAIL], axis=0)
    return ends[0], ends[1]


def paired_bootstrap(differences: Sequence[NDArray[np.float64]], seed: int = 0) -> Difference:
    """Average paired differences over blocks, with members drawn with replacement within each block.

    Both sides of a pair keep the members drawn, so what they share cancels. The percentile interval is widened to the
    width of Student's t, as by Hesterberg (arXiv 1411.5279, "expanded percentile"): few members make it too narrow.

    Args:
        differences: of each block, ``[members, pairs]``; a column of NaN where a pair is not in the block.
        seed: of the drawing.

    Raises:
        ValueError: there is no block.
    """
    if not differences:
        raise ValueError("a paired bootstrap needs at least one block")
    generator, pairs = np.random.default_rng(seed), differences[0].shape[1]
    moved, centre, counts = np.zeros((REPEATS, pairs)), np.zeros(pairs), np.zeros(pairs)
    few = np.zeros(pairs, dtype=bool)
    for block in differences:
        there = np.isfinite(block).all(0)
        kept, members = np.where(there, block, 0.0), len(block)
        deviations = _draws(members, generator) @ (kept - kept.mean(0)) / members
        moved += np.where(there, deviations * _widening(members), 0.0)
        centre, counts, few = centre + kept.mean(0), counts + there, few | (there & (members < 2))
    counts = np.where(counts > 0, counts, np.nan)
    mean = centre / counts
    return _summary(mean, np.where(few, np.nan, mean + moved / counts))


def _draws(size: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return how often each of ``size`` things is drawn in each drawing with replacement: ``[repeats, size]``."""
    return generator.multinomial(size, np.full(size, 1 / size), size=REPEATS).astype(np.float64)


def _widening(members: int) -> float:
    """Return by how much a percentile interval of a mean is too narrow."""
    if members < 2:
        return math.nan
    return math.sqrt(members / (members - 1)) * float(stdtrit(members - 1, 1 - _TAIL) / ndtri(1 - _TAIL))


def _summary(mean: NDArray[np.float64], replicates: NDArray[np.float64]) -> Difference:
    """Return the percentile interval, and as p-value the smallest level at which an interval leaves 0 out."""
    low, high = np.quantile(replicates, [_TAIL, 1 - _TAIL], axis=0)
    sides = [1 + (replicates <= 0).sum(0), 1 + (replicates >= 0).sum(0)]
    p = np.minimum(1.0, 2 * np.minimum(*sides) / (len(replicates) + 1))
    return Difference(mean, low, high, np.where(np.isfinite(low), p, np.nan))


def differences_over_blocks(differences: NDArray[np.float64]) -> Difference:
    """Average paired differences ``[blocks, pairs]`` (NaN where there is none), with Student's t over blocks.

    A pair in a single block has a mean alone.
    """
    known = np.isfinite(differences)
    counts = known.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, differences, 0.0).sum(0) / counts
        squares = np.where(known, differences - mean, 0.0) ** 2
        error = np.sqrt(squares.sum(0) / (counts - 1) / counts)
        half = stdtrit(np.maximum(counts - 1, 1), 1 - _TAIL) * error
        p = 2 * stdtr(np.maximum(counts - 1, 1), -np.abs(mean) / error)
    p = np.where((error == 0) & (counts > 1), (mean == 0).astype(float), p)
    return Difference(mean, mean - half, mean + half, p)


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values ``[tests]`` corrected for their number as by Holm (1979); NaN ones are no tests.

    Rejecting those below a level makes at least one mistake with at most this probability, however they depend.
    """
    corrected = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return corrected
