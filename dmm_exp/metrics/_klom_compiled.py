"""KLoM by a kernel that numba compiles when it is first called.

The arithmetic is that of the array form in ``_klom_forms``, operation by operation, so both give the same bits. Nothing
is cached on disk: numba's cache is made of pickle files, and nothing here is loaded by pickle.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from dmm_exp.metrics._klom_forms import NARROW, NEAR_EDGE, TINY, Members, Pair, log_of_counts

_STRIP = 128  # points taken together: their histograms and edges fit in the first-level cache
_INDEX = np.uint64  # spares the test for negative indices
# Values are finite and the sign of a zero does not matter; nothing may be reordered or fused.
_jit = numba.njit(nogil=True, error_model="numpy", fastmath={"nnan", "ninf", "nsz"})


def compiled(pair: Pair, rows: Members, columns: Members, block: slice) -> NDArray[np.float64]:
    """Return the divergence of a block of points."""
    options = pair.options
    values, totals = np.zeros((2, block.stop - block.start))
    sides = (pair.first, pair.second, rows, columns)
    grid = (float(options.clip), int(options.bins), bool(options.drop_maximum))
    log = log_of_counts(max(len(rows), len(columns)))
    floor = (float(options.eps), math.log(options.eps))
    _divergences(*sides, block.start, grid, log, floor, values, totals if options.renormalise else totals[:0])
    return values + np.log(totals) if options.renormalise else values


def compiled_counts(pair: Pair, rows: Members, columns: Members) -> NDArray[np.int32]:
    """Return the counts ``[2, bins, points]`` behind ``compiled``, of all points."""
    options = pair.options
    counts = np.empty((2, int(options.bins), pair.points), dtype=np.int32)
    grid = (float(options.clip), int(options.bins), bool(options.drop_maximum))
    _all_counts(pair.first, pair.second, rows, columns, grid, counts)
    return counts


@_jit
def _divergences(first, second, rows, columns, start, grid, log, floor, values, totals):
    """Add the divergence of every point to ``values`` and, where it has room, the floored second side to ``totals``."""
    bins, (eps, log_eps) = grid[1], floor
    edges, counts = np.empty((bins + 1, _STRIP)), np.empty((2, bins, _STRIP), np.int32)
    sizes = np.empty((2, _STRIP), np.int32)
    for begin in range(0, len(values), _STRIP):
        width = min(_STRIP, len(values) - begin)
        _count(first, second, rows, columns, start + begin, width, grid, edges, counts, sizes)
        for number in range(bins):
            for point in range(width):
                a, b = counts[0, number, point], counts[1, number, point]
                q = log[_INDEX(b)] - log[_INDEX(sizes[1, point])]
                p = log[_INDEX(a)] - log[_INDEX(sizes[0, point])]
                values[begin + point] += (p - (q if q > log_eps else log_eps)) * a
        for point in range(width):
            values[begin + point] /= sizes[0, point]
        for point in range(width if len(totals) else 0):
            for number in range(bins):
                share = counts[1, number, point] / sizes[1, point]
                totals[begin + point] += max(share, eps) if counts[0, number, point] > 0 else share


@_jit
def _all_counts(first, second, rows, columns, grid, result):
    """Write the counts of every point."""
    bins, points = result.shape[1:]
    edges, counts = np.empty((bins + 1, _STRIP)), np.empty((2, bins, _STRIP), np.int32)
    sizes = np.empty((2, _STRIP), np.int32)
    for begin in range(0, points, _STRIP):
        width = min(_STRIP, points - begin)
        _count(first, second, rows, columns, begin, width, grid, edges, counts, sizes)
        result[:, :, begin : begin + width] = counts[:, :, :width]


@_jit
def _count(first, second, rows, columns, start, width, grid, edges, counts, sizes):
    """Write the histograms of a strip of points, their edges, and how many samples each side keeps."""
    clip, bins, drop_maximum = grid
    low, high, scale = np.empty(_STRIP), np.empty(_STRIP), np.empty(_STRIP)
    low[:], high[:] = clip, -clip
    _reach(first, rows, start, width, low, high)
    _reach(second, columns, start, width, low, high)
    for point in range(width):
        _set_edges(max(low[point], -clip), min(high[point], clip), bins, point, low, high, scale, edges)
    _tally(first, rows, start, width, clip, low, scale, edges, counts[0])
    _tally(second, columns, start, width, clip, low, scale, edges, counts[1])
    sizes[0, :], sizes[1, :] = len(rows), len(columns)
    for point in range(width):
        top = bins - 1
        if high[point] - low[point] < NARROW * bins * max(abs(low[point]), abs(high[point])) + TINY:
            _search(first, rows, start, point, clip, edges, counts[0])
            _search(second, columns, start, point, clip, edges, counts[1])
            top = _place(high[point], edges, point)
        if drop_maximum:
            a = _number_of(first, rows, start + point, clip, high[point])
            b = _number_of(second, columns, start + point, clip, high[point])
            if a < len(rows) and b < len(columns):
                for side, number in enumerate((a, b)):
                    counts[side, top, point] -= number
                    sizes[side, point] -= number


@_jit
def _reach(side, members, start, width, low, high):
    """Lower and raise the ends of every point to its smallest and largest margin."""
    for member in members:
        for point in range(width):
            value = np.float64(side[_INDEX(member), _INDEX(start + point)])
            least, most = low[point], high[point]
            low[point] = value if value < least else least
            high[point] = value if value > most else most


@_jit
def _set_edges(least, most, bins, point, low, high, scale, edges):
    """Write the grid of one point, as ``_klom_forms.Grid`` does."""
    if most <= least:
        most = least + 1.0
    extent = most - least
    step = extent / bins
    low[point], high[point], scale[point] = least, most, bins / max(extent, TINY)
    for number in range(bins):
        edges[number, point] = (number * step if step != 0.0 else number / bins * extent) + least
    edges[bins, point] = most


@_jit
def _tally(side, members, start, width, clip, low, scale, edges, counts):
    """Count one side: guess every sample's bin from slightly above and below, and look where the two differ."""
    bins = len(counts)
    above, below = np.empty(_STRIP, np.int32), np.empty(_STRIP, np.int32)
    counts[:] = 0
    for member in members:
        for point in range(width):
            value = np.float64(side[_INDEX(member), _INDEX(start + point)])
            value = -clip if value < -clip else value
            value = clip if value > clip else value
            place = (value - low[point]) * scale[point] + NEAR_EDGE
            above[point] = np.int32(place)
            below[point] = np.int32(place - 2 * NEAR_EDGE)
        for point in range(width):
            number = above[point]
            if number != below[point]:
                value = _clipped(side, member, start + point, clip)
                number = min(number - (value < edges[_INDEX(number), _INDEX(point)]), bins - 1)
            counts[_INDEX(number), _INDEX(point)] += 1


@_jit
def _search(side, members, start, point, clip, edges, counts):
    """Count one side of one point again, by a search among its edges."""
    counts[:, point] = 0
    for member in members:
        counts[_place(_clipped(side, member, start + point, clip), edges, point), point] += 1


@_jit
def _place(value, edges, point):
    """Return the bin of a value, by a search among a point's edges."""
    number = 0
    while number < len(edges) - 2 and value >= edges[number + 1, point]:
        number += 1
    return number


@_jit
def _number_of(side, members, point, clip, value):
    """Return how many clipped margins of a point equal a value."""
    number = 0
    for member in members:
        number += _clipped(side, member, point, clip) == value
    return number


@_jit
def _clipped(side, member, point, clip):
    """Return one clipped margin."""
    return min(max(np.float64(side[_INDEX(member), _INDEX(point)]), -clip), clip)
