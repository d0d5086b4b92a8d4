"""KLoM of checked margins, in three forms that count alike: a plain loop, array code, and a compiled kernel.

The loop is the definition. The other two share everything but the two passes over the samples, so their values are the
same bit for bit: array code counts by numpy, the kernel (module ``_klom_compiled``, extra ``fast``) by numba.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from dmm_exp.errors import UserError, did_you_mean
from dmm_exp.executors.devices import cores
from dmm_exp.metrics._inputs import open_unit

DIRECTIONS = ("unlearned_oracle", "oracle_unlearned")
FORMS = ("auto", "loop", "array", "compiled")
Floats = NDArray[np.floating]
Members = NDArray[np.int64]

NEAR_EDGE = 1e-6  # in bins; a sample further than this from every edge cannot be guessed into the wrong bin
NARROW = 1e-8  # times bins: below this range relative to the values, rounding of the edges could exceed NEAR_EDGE
TINY = 1e-290  # a range below this leaves steps that are no longer represented to full precision
_LOG_OF_NONE = -1e300  # stands for ln 0; finite, so that 0 times it is 0
_SAMPLES_PER_BLOCK = {"array": 250_000, "compiled": 400_000}  # measured: what is passed over twice stays in the cache
_WORTH_COMPILING = 600_000_000  # samples from which the kernel saves more than the 3 s of importing and compiling it
_WORTH_SAYING = 5_000_000_000  # samples that take array code most of a minute


@dataclass(frozen=True)
class Options:
    """The options of ``klom`` with their defaults, checked."""

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


@dataclass(frozen=True)
class Pair:
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

    def values(self, form: str, rows: Members | None = None, columns: Members | None = None) -> NDArray[np.float64]:
        """Return the divergence ``[points]`` between members ``rows`` of the first side and ``columns`` of the second.

        All members where none are given. Of a choice of members array code copies one block of points at a time, and
        the kernel copies nothing.
        """
        rows, columns = (np.arange(self.members) if chosen is None else chosen for chosen in (rows, columns))
        if form == "loop":
            return loop(self.first[rows], self.second[columns], self.options)
        return _by_blocks(self, rows, columns, form)


class Grid:
    """Equal bins over the range of every point of a block.

    Attributes:
        bins: their number.
        low, high: ends ``[points]``; where they were equal, ``high`` is one more.
        scale: bins per unit ``[points]``, for guessing.
        edges: ``[bins + 1, points]``, each column bit for bit what ``numpy.linspace`` gives for one point.
        narrow: points ``[n]`` whose edges are rounded so much that only a search among them finds the right bin.
        top: the bin that ``high`` falls into ``[points]``: the last, unless a narrow point's edges coincide.
    """

    def __init__(self, low: NDArray[np.float64], high: NDArray[np.float64], bins: int) -> None:
        high = np.where(high > low, high, low + 1.0)
        width = high - low
        self.bins, self.low, self.high = bins, low, high
        self.scale = bins / np.maximum(width, TINY)
        number, step = np.arange(bins + 1.0)[:, None], width / bins
        self.edges = number * step
        if not step.all():  # linspace itself changes its arithmetic for all points as soon as one step underflows
            self.edges = np.where(step == 0.0, number / bins * width, self.edges)
        self.edges += low
        self.edges[-1] = high
        self.narrow = np.flatnonzero(width < NARROW * bins * np.maximum(np.abs(low), np.abs(high)) + TINY)
        self.top = np.full(len(low), bins - 1)
        for point in self.narrow.tolist():
            self.top[point] = self.search(high[point], point)

    def search(self, values: NDArray[np.float64], point: int) -> NDArray[np.int64]:
        """Return the bins of one point's values by a search among its edges."""
        return np.searchsorted(self.edges[1:-1, point], values, side="right")


def chosen_form(form: str, dtype: np.dtype, samples: int) -> str:
    """Return the form to use for so many samples: ``form`` itself unless it is ``auto``.

    Raises:
        UserError: for an unknown form, or for ``compiled`` without numba.
    """
    if form not in FORMS:
        raise UserError(f"form is '{form}'; expected {', '.join(FORMS)}{did_you_mean(form, FORMS)}.")
    installed = importlib.util.find_spec("numba") is not None
    if form == "compiled" and not installed:
        raise UserError("form is 'compiled', which needs the package numba: pip install 'dmm_exp[fast]'")
    if form != "auto":
        return form
    if not installed:
        if samples >= _WORTH_SAYING:
            _say_that_numba_would_help()
        return "array"
    return "compiled" if samples >= _WORTH_COMPILING or dtype in _compiled_for else "array"


_compiled_for: set[np.dtype] = set()  # types of margins for which this process has the kernel already


@cache
def _say_that_numba_would_help() -> None:
    logging.getLogger(__name__).warning("KLoM of this size is faster with numba: pip install 'dmm_exp[fast]'")


def loop(first: Floats, second: Floats, options: Options) -> NDArray[np.float64]:
    """Return the divergence ``[points]``, one point after another: the definition."""
    return np.array([_one_point(p, q, options) for p, q in zip(first.T, second.T, strict=True)])


def _one_point(p: Floats, q: Floats, options: Options) -> float:
    """Return the divergence of one point's samples ``[members]``."""
    p_share, q_share = (counts / counts.sum() for counts in one_histogram(p, q, options))
    used = p_share > 0
    q_share[used] = np.maximum(q_share[used], options.eps)
    if options.renormalise:
        q_share /= q_share.sum()
    return float((p_share[used] * np.log(p_share[used] / q_share[used])).sum())


def one_histogram(p: Floats, q: Floats, options: Options) -> list[NDArray[np.integer]]:
    """Return one point's counts on both sides, ``[bins]`` each."""
    p, q = (np.clip(side.astype(np.float64), -options.clip, options.clip) for side in (p, q))
    low, high = min(p.min(), q.min()), max(p.max(), q.max())
    edges = np.linspace(low, high if high > low else low + 1.0, int(options.bins) + 1)
    if options.drop_maximum and (p < high).any() and (q < high).any():
        p, q = p[p < high], q[q < high]
    return [np.bincount(np.digitize(side, edges[1:-1]), minlength=int(options.bins)) for side in (p, q)]


def _by_blocks(pair: Pair, rows: Members, columns: Members, form: str) -> NDArray[np.float64]:
    """Return the divergence ``[points]``, block by block of points; the kernel takes blocks in threads."""
    step = max(1, _SAMPLES_PER_BLOCK[form] // (len(rows) + len(columns)))
    blocks = [slice(start, min(start + step, pair.points)) for start in range(0, pair.points, step)]
    if form == "array":
        return np.concatenate([array(pair, rows, columns, block) for block in blocks])
    from dmm_exp.metrics._klom_compiled import compiled

    _compiled_for.add(pair.first.dtype)
    threads = min(_threads(), len(blocks))
    if threads == 1:
        return np.concatenate([compiled(pair, rows, columns, block) for block in blocks])
    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(lambda block: compiled(pair, rows, columns, block), blocks)))


def _threads() -> int:
    """Return how many threads the kernel may use: OMP_NUM_THREADS, else the processors open to this process."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(limit)) if limit.isdigit() else cores()


def array(pair: Pair, rows: Members, columns: Members, block: slice) -> NDArray[np.float64]:
    """Return the divergence of a block of points."""
    return _divergence(array_counts(pair, rows, columns, block), pair.options)


def array_counts(pair: Pair, rows: Members, columns: Members, block: slice) -> NDArray[np.integer]:
    """Return the counts ``[2, bins, points]`` of a block of points."""
    options = pair.options
    sides = [_clipped(pair.first[rows, block], options.clip), _clipped(pair.second[columns, block], options.clip)]
    low = np.minimum(*(side.min(axis=0) for side in sides))
    high = np.maximum(*(side.max(axis=0) for side in sides))
    grid = Grid(low, high, int(options.bins))
    counts = np.stack([_tally(side, grid) for side in sides])
    if options.drop_maximum:
        at_maximum = np.stack([np.count_nonzero(side == grid.high, axis=0) for side in sides])
        kept = (at_maximum < [[len(rows)], [len(columns)]]).all(axis=0)
        counts[:, grid.top, np.arange(len(low))] -= np.where(kept, at_maximum, 0).astype(counts.dtype)
    return counts


def _tally(samples: NDArray[np.float64], grid: Grid) -> NDArray[np.signedinteger]:
    """Return the counts ``[bins, points]``: how many bins have at least each number, and the differences of that."""
    bin_of = _bins(samples, grid)
    at_least = np.zeros((grid.bins + 1, samples.shape[1]), dtype=np.min_scalar_type(-len(samples) - 1))
    at_least[0] = len(samples)
    is_so = np.empty(samples.shape, dtype=bool)
    for number in range(1, grid.bins):
        np.greater_equal(bin_of, bin_of.dtype.type(number), out=is_so)
        at_least[number] = np.add.reduce(is_so.view(np.uint8), axis=0, dtype=np.min_scalar_type(len(samples)))
    return at_least[:-1] - at_least[1:]


def _clipped(samples: Floats, clip: float) -> NDArray[np.float64]:
    """Return new float64 samples within the clip."""
    return np.clip(samples.astype(np.float64), -clip, clip)


def _bins(samples: NDArray[np.float64], grid: Grid) -> NDArray[np.unsignedinteger]:
    """Return the bin of every sample ``[members, points]``.

    Arithmetic guesses the bin, from slightly above and from slightly below; where the two differ, the sample is so near
    an edge that rounding could mislead, and it is compared with the edge itself.
    """
    number = np.min_scalar_type(grid.bins)
    place = samples - grid.low
    place *= grid.scale
    place += NEAR_EDGE
    guess = place.astype(number)
    place -= 2 * NEAR_EDGE
    near = np.flatnonzero(guess != place.astype(number))
    edge, point = guess.ravel()[near], near % samples.shape[1]
    below = samples.ravel()[near] < grid.edges[edge, point]
    guess.ravel()[near] = np.minimum(edge - below, grid.bins - 1)
    for column in grid.narrow.tolist():
        guess[:, column] = grid.search(samples[:, column], column)
    return guess


def _divergence(counts: NDArray[np.integer], options: Options) -> NDArray[np.float64]:
    """Return the divergence ``[points]`` of the histograms ``[2, bins, points]``.

    Logarithms of counts are looked up: ``ln(a/n) - ln(max(b/m, eps)) = ln a - ln n - max(ln b - ln m, ln eps)``.
    """
    size = counts.sum(axis=1)
    log = log_of_counts(int(size.max()))
    first, second = counts
    q = log[second]
    q -= log[size[1]]
    np.maximum(q, math.log(options.eps), out=q)
    ratio = log[first]
    ratio -= log[size[0]]
    ratio -= q
    ratio *= first
    value = ratio.sum(axis=0) / size[0]
    return value + _log_total(counts, options.eps) if options.renormalise else value


def log_of_counts(most: int) -> NDArray[np.float64]:
    """Return the logarithms of 0 to ``most``, that of 0 a finite stand-in."""
    return np.append(_LOG_OF_NONE, np.log(np.arange(1, most + 1)))


def _log_total(counts: NDArray[np.integer], eps: float) -> NDArray[np.float64]:
    """Return the logarithm ``[points]`` of what the second distribution sums to once it is floored."""
    share = counts[1] / counts[1].sum(axis=0)
    return np.log(np.where(counts[0] > 0, np.maximum(share, eps), share).sum(axis=0))
