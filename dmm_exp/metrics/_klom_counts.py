"""KLoM of checked margins by histograms of many points at once, with the same counts as a loop over points."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmm_exp.errors import UserError, did_you_mean
from dmm_exp.metrics._inputs import open_unit

DIRECTIONS = ("unlearned_oracle", "oracle_unlearned")
Floats = NDArray[np.floating]
Members = NDArray[np.int64]

_LOG_OF_NONE = -1e300  # stands for ln 0; finite, so that 0 times it is 0
_SAMPLES_PER_BLOCK = 250_000  # so that they stay in the processor's cache, as measured


@dataclass(frozen=True)
class Options:
    """The options of ``klom`` with their defaults, checked."""

    bins: int = 20
    clip: float = 100.0
    eps: float = 1e-5
    direction: str = "unlearned_oracle"
    drop_maximum: bool = False
    renormalise: bool = False
    floor_everywhere: bool | None = None

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            hint = did_you_mean(self.direction, DIRECTIONS)
            raise UserError(f"direction is '{self.direction}'; expected {' or '.join(DIRECTIONS)}{hint}.")
        if isinstance(self.bins, bool) or int(self.bins) != self.bins or self.bins < 1:
            raise UserError(f"bins is {self.bins}; expected a whole number of at least 1.")
        if not 0 < self.clip < math.inf:
            raise UserError(f"clip is {self.clip}; expected a finite number above 0.")
        open_unit("eps", self.eps)
        if self.floor_everywhere and not self.renormalise:
            raise UserError(
                "floor_everywhere is true and renormalise is false; expected renormalise=true, without which bins "
                "where the first distribution has nothing do not count."
            )


@dataclass(frozen=True)
class MarginPair:
    """Checked margins ``[members, points]`` of both sides of the divergence, the first side of KL first."""

    first: Floats
    second: Floats
    options: Options

    @property
    def members(self) -> int:
        """Members of each side."""
        return len(self.first)

    @property
    def points(self) -> int:
        """Points of both sides."""
        return self.first.shape[1]

    def values(self, rows: Members | None = None, columns: Members | None = None) -> NDArray[np.float64]:
        """Return the divergence ``[points]`` between members ``rows`` of the first side and ``columns`` of the second.

        All members where none are given. Of a choice of members one block of points is copied at a time.
        """
        return np.concatenate([_divergence(counts, self.options) for counts in self._counts(rows, columns)])

    def both(self) -> NDArray[np.float64]:
        """Return the divergence of the first side from the second, and the reverse, ``[2, points]``."""
        pairs = [(counts, counts[::-1]) for counts in self._counts()]
        return np.concatenate([[_divergence(side, self.options) for side in pair] for pair in pairs], axis=1)

    def _counts(self, rows: Members | None = None, columns: Members | None = None) -> Iterator[NDArray[np.integer]]:
        """Yield the counts ``[2, bins, points]`` of one block of points at a time."""
        rows, columns = (np.arange(self.members) if chosen is None else chosen for chosen in (rows, columns))
        step = max(1, _SAMPLES_PER_BLOCK // (len(rows) + len(columns)))
        for start in range(0, self.points, step):
            yield histograms(self, rows, columns, slice(start, start + step))


def histograms(pair: MarginPair, rows: Members, columns: Members, block: slice) -> NDArray[np.integer]:
    """Return the counts ``[2, bins, points]`` of a block of points."""
    options = pair.options
    sides = [_clipped(pair.first[rows, block], options.clip), _clipped(pair.second[columns, block], options.clip)]
    low = np.minimum(*(side.min(axis=0) for side in sides))
    high = np.maximum(*(side.max(axis=0) for side in sides))
    edges = _edges(low, high, int(options.bins))
    counts = np.stack([_tally(side, edges) for side in sides])
    if options.drop_maximum:
        at_maximum = np.stack([np.count_nonzero(side == edges[-1], axis=0) for side in sides])
        kept = (at_maximum < [[len(rows)], [len(columns)]]).all(axis=0)
        top = np.count_nonzero(edges[1:-1] <= edges[-1], axis=0)  # the last bin, unless rounded edges coincide
        counts[:, top, np.arange(len(low))] -= np.where(kept, at_maximum, 0).astype(counts.dtype)
    return counts


def _edges(low: NDArray[np.float64], high: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Return the edges ``[bins + 1, points]`` of equal bins, each column exactly as ``numpy.linspace`` gives it.

    Where both ends are equal the range is 1 wide.
    """
    high = np.where(high > low, high, low + 1.0)
    number, width = np.arange(bins + 1.0)[:, None], high - low
    step = width / bins
    edges = number * step
    if not step.all():  # linspace itself changes its arithmetic for all points as soon as one step underflows
        edges = np.where(step == 0.0, number / bins * width, edges)
    edges += low
    edges[-1] = high
    return edges


def _tally(samples: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.signedinteger]:
    """Return the counts ``[bins, points]``, as differences of how many samples are at or above each edge."""
    members, bins = len(samples), len(edges) - 1
    at_least = np.zeros((bins + 1, samples.shape[1]), dtype=np.min_scalar_type(-members - 1))
    at_least[0] = members
    is_above = np.empty(samples.shape, dtype=bool)
    for number in range(1, bins):
        np.greater_equal(samples, edges[number], out=is_above)
        at_least[number] = np.add.reduce(is_above.view(np.uint8), axis=0, dtype=np.min_scalar_type(members))
    return at_least[:-1] - at_least[1:]


def _clipped(samples: Floats, clip: float) -> NDArray[np.float64]:
    """Return new float64 samples within the clip."""
    return np.clip(samples.astype(np.float64), -clip, clip)


def _divergence(counts: NDArray[np.integer], options: Options) -> NDArray[np.float64]:
    """Return the divergence ``[points]`` of the histograms ``[2, bins, points]``.

    Logarithms of counts are looked up: ``ln(a/n) - ln(max(b/m, eps)) = ln a - ln n - max(ln b - ln m, ln eps)``.
    """
    size = counts.sum(axis=1)
    log = _log_of_counts(int(size.max()))
    first, second = counts
    q = log[second]
    q -= log[size[1]]
    np.maximum(q, math.log(options.eps), out=q)
    ratio = log[first]
    ratio -= log[size[0]]
    ratio -= q
    ratio *= first
    value = ratio.sum(axis=0) / size[0]
    return value + _log_total(counts, options) if options.renormalise else value


def _log_of_counts(most: int) -> NDArray[np.float64]:
    """Return the logarithms of 0 to ``most``, that of 0 a finite stand-in."""
    return np.append(_LOG_OF_NONE, np.log(np.arange(1, most + 1)))


def _log_total(counts: NDArray[np.integer], options: Options) -> NDArray[np.float64]:
    """Return the logarithm ``[points]`` of what the second distribution sums to once it is floored."""
    share = counts[1] / counts[1].sum(axis=0)
    floored = np.maximum(share, options.eps)
    if options.floor_everywhere:
        return np.log(floored.sum(axis=0) + options.eps)  # and the bin below the range
    return np.log(np.where(counts[0] > 0, floored, share).sum(axis=0))
