"""Speed of KLoM, U-LiRA and LDS against loops over points; identical counts on 100,000 awkward points."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.timing import TABLE_HEAD, compare
from dmm_exp.metrics import klom, lds, ulira_scores
from dmm_exp.metrics._klom_counts import MarginPair, Options, histograms

MEMBERS, POINTS = 100, 50_000
LOOPED = 500  # points that a loop is timed on
REPLICATES, REPLICATED_POINTS = 1_000, 60_000
COUNTED = 100_000


def main() -> str:
    """Return the section of ``results.md``."""
    unlearned, oracle = np.random.default_rng(0).normal(size=(2, MEMBERS, POINTS)).astype(np.float32)
    speeds = _klom(unlearned, oracle)
    ours = 1e6 * speeds[0].seconds / POINTS
    rows = [speed.row for speed in (*speeds, _ulira(unlearned, oracle), *_lds())]
    return "\n".join(
        [
            f"One thread, processor seconds. KLoM and U-LiRA: N = {MEMBERS}, {POINTS:,} points, float32; loops are "
            f"timed on {LOOPED} points (U-LiRA's on 20) and scaled.",
            "",
            TABLE_HEAD,
            *rows,
            "",
            f"A point takes the loop {speeds[0].ratio * ours:.0f} µs and ours {ours:.2g} µs. The ratio wanted supposes "
            "a loop of 250 µs.",
            "",
            _replicates(),
            "",
            _counts(),
        ]
    )


def _klom(unlearned: NDArray, oracle: NDArray) -> list:
    some = (unlearned[:, :LOOPED], oracle[:, :LOOPED])
    loop, ours = partial(_loop, *some), partial(klom, unlearned, oracle)
    share = LOOPED / POINTS

    def close(expected: NDArray, found: NDArray) -> bool:
        return float(np.abs(expected - found[: len(expected)]).max()) <= 1e-12

    return [
        compare("KLoM against a loop over points", loop, ours, close, share=share, limit=100),
        compare(
            "KLoM against a loop that averages bin by bin and calls scipy's entropy",
            partial(_bin_by_bin, *some),
            partial(klom, unlearned, oracle, renormalise=True),
            close,
            share=share,
        ),
        compare(
            "KLoM against reading both arrays once (the limit)",
            lambda: (unlearned.max(), oracle.max()),
            ours,
            lambda *_: True,
        ),
    ]


def _loop(unlearned: NDArray, oracle: NDArray) -> NDArray[np.float64]:
    """Return KLoM by numpy's functions, one point after another."""
    values = []
    for p, q in zip(unlearned.T, oracle.T, strict=True):
        p_share, q_share = (counts / counts.sum() for counts in _one_histogram(p, q))
        used = p_share > 0
        values.append((p_share[used] * np.log(p_share[used] / np.maximum(q_share[used], 1e-5))).sum())
    return np.array(values)


def _one_histogram(p: NDArray, q: NDArray) -> list[NDArray[np.integer]]:
    """Return one point's counts on both sides, ``[bins]`` each."""
    p, q = (np.clip(side.astype(np.float64), -100, 100) for side in (p, q))
    low, high = min(p.min(), q.min()), max(p.max(), q.max())
    edges = np.linspace(low, high if high > low else low + 1.0, 21)
    return [np.bincount(np.digitize(side, edges[1:-1]), minlength=20) for side in (p, q)]


def _bin_by_bin(unlearned: NDArray, oracle: NDArray) -> NDArray[np.float64]:
    """Return KLoM, renormalised, by a loop that looks for each bin's members anew and leaves the rest to scipy."""
    values = []
    for p, q in zip(unlearned.T.astype(np.float64), oracle.T.astype(np.float64), strict=True):
        p, q = np.clip(p, -100, 100), np.clip(q, -100, 100)
        edges = np.linspace(min(p.min(), q.min()), max(p.max(), q.max()), 21)
        p_bin, q_bin = np.digitize(p, edges[1:-1]), np.digitize(q, edges[1:-1])
        p_share = np.array([np.mean(p_bin == number) for number in range(20)])
        q_share = np.array([np.mean(q_bin == number) for number in range(20)])
        values.append(stats.entropy(p_share, np.where(p_share > 0, np.maximum(q_share, 1e-5), q_share)))
    return np.array(values)


def _replicates() -> str:
    """Time KLoM between random halves of the members, all points each time."""
    generator = np.random.default_rng(1)
    unlearned, oracle = generator.normal(size=(2, MEMBERS, REPLICATED_POINTS)).astype(np.float32)
    pair, half = MarginPair(unlearned, oracle, Options()), MEMBERS // 2
    start = time.process_time()
    for _ in range(REPLICATES):
        rows, columns = generator.permutation(MEMBERS)[:half], generator.permutation(MEMBERS)[:half]
        np.quantile(pair.values(rows, columns), 0.95)
    return (
        f"{REPLICATES:,} half-samples of {REPLICATED_POINTS:,} points (N = {MEMBERS}), with their 95th percentiles: "
        f"{time.process_time() - start:.0f} processor seconds (wanted: at most 180)."
    )


def _counts() -> str:
    """Compare the counts with those of a loop on points with ties, constants, clipped and extreme values."""
    generator = np.random.default_rng(2)
    kinds = [
        lambda shape: generator.normal(size=shape),
        lambda shape: generator.normal(size=shape) * 200,
        lambda shape: generator.integers(-3, 4, size=shape).astype(float),
        lambda shape: generator.integers(0, 21, size=shape) * 0.1,
        lambda shape: np.broadcast_to(generator.normal(size=shape[-1]), shape),
        lambda shape: 1.0 + generator.integers(0, 5, size=shape) * np.finfo(float).eps,
        lambda shape: generator.integers(0, 9, size=shape) * 5e-324,
        lambda shape: np.where(generator.random(shape) < 0.3, 9.0, generator.normal(size=shape)),
        lambda shape: generator.standard_cauchy(size=shape) * 1e300,
        lambda shape: (
            np.linspace(-1, 1, 21)[generator.integers(21, size=shape)] * generator.exponential(size=shape[-1])
        ),
    ]
    shape = (2, 40, COUNTED // len(kinds))
    pair = MarginPair(*np.concatenate([np.ascontiguousarray(kind(shape)) for kind in kinds], axis=2), Options())
    members = np.arange(pair.members)
    looped = [_one_histogram(p, q) for p, q in zip(pair.first.T, pair.second.T, strict=True)]
    expected = np.transpose(looped, (1, 2, 0))
    found = histograms(pair, members, members, slice(0, pair.points))
    unequal = int((found != expected).any(axis=(0, 1)).sum())
    apart = np.abs(pair.values() - _loop(pair.first, pair.second)).max()
    if unequal or apart > 1e-12:
        raise ArithmeticError(
            f"{unequal} of {COUNTED} points are counted otherwise than by the loop, values {apart} apart"
        )
    return (
        f"{COUNTED:,} points with ties, constants, clipped, subnormal and extreme values: counts are the loop's at "
        f"every one, and values differ from the loop's by {apart:.1g} at most."
    )


def _ulira(unlearned: NDArray, oracle: NDArray):
    points = 20

    def refit() -> NDArray[np.float64]:
        def density(value: float, sample: NDArray) -> float:
            return stats.norm.logpdf(value, *stats.norm.fit(sample))

        sides = unlearned[:, :points].astype(np.float64), oracle[:, :points].astype(np.float64)
        scores = np.empty((2, MEMBERS, points))
        for point in range(points):
            u, o = (side[:, point] for side in sides)
            for i in range(MEMBERS):
                scores[0, i, point] = density(u[i], np.delete(u, i)) - density(u[i], o)
                scores[1, i, point] = density(o[i], u) - density(o[i], np.delete(o, i))
        return scores

    def close(expected: NDArray, found: tuple[NDArray, NDArray]) -> bool:
        return all(np.allclose(e, f[:, :points], rtol=1e-9, atol=1e-9) for e, f in zip(expected, found, strict=True))

    ours = partial(ulira_scores, unlearned, oracle)
    return compare(
        "U-LiRA, closed form against refitting", refit, ours, close, share=points / POINTS, pairs=5, limit=1000
    )


def _lds() -> list:
    generator = np.random.default_rng(3)
    actual = generator.normal(size=(100, 500))
    predicted = actual + generator.normal(size=actual.shape)

    def loop() -> NDArray[np.float64]:
        return np.array([stats.spearmanr(p, a).statistic for p, a in zip(predicted.T, actual.T, strict=True)])

    return [
        compare(
            "LDS, 100 members, 500 points, against scipy's spearmanr",
            loop,
            partial(lds, predicted, actual),
            np.allclose,
        )
    ]


if __name__ == "__main__":
    print(main())
