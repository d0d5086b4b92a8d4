"""Coverage of 95 % intervals over members for KLoM, beside that of the plain bootstrap.

Gaussian margins of N = 100 unlearned models and 100 oracles on 200 points, where the members share three effects that
make a tenth of the variance; the unlearned mean is shifted by 0, 0.5, 1 and 2 sigma at every point. The target is the
mean of each statistic over 2,000 fresh pairs of ensembles. The plain bootstrap resamples both ensembles with
replacement, 200 times, and takes percentiles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmm_exp.metrics import klom_intervals
from dmm_exp.metrics._klom_counts import MarginPair, Options
from dmm_exp.metrics.klom_intervals import Statistic, statistics

MEMBERS, POINTS, EFFECTS, SHARE = 100, 200, 3, 0.1
TRIALS, FRESH, RESAMPLES = 200, 2_000, 200
SHIFTS = (0.0, 0.5, 1.0, 2.0)
STATISTICS: tuple[Statistic, ...] = (0.5, 0.95, 0.99, "mean")
NAMES = ("p50", "p95", "p99", "mean")


class Margins:
    """Draws pairs of ensembles ``[members, points]``."""

    def __init__(self, shift: float) -> None:
        self.generator, self.shift = np.random.default_rng(0), shift
        loadings = self.generator.normal(size=(EFFECTS, POINTS))
        self.loadings = np.sqrt(SHARE) * loadings / np.linalg.norm(loadings, axis=0)

    def side(self, shift: float) -> NDArray[np.float64]:
        """Draw one ensemble."""
        own = self.generator.normal(size=(MEMBERS, POINTS))
        return self.generator.normal(size=(MEMBERS, EFFECTS)) @ self.loadings + np.sqrt(1 - SHARE) * own + shift

    def pair(self) -> MarginPair:
        """Draw both ensembles."""
        return MarginPair(self.side(self.shift), self.side(0.0), Options())

    def statistics(self, pair: MarginPair, *members: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the statistics of KLoM between some members of both sides."""
        return statistics(pair.values(*members), STATISTICS)

    def bootstrap(self, pair: MarginPair) -> NDArray[np.float64]:
        """Return low and high ``[2, statistics]`` of the percentile bootstrap."""
        drawn = self.generator.integers(MEMBERS, size=(RESAMPLES, 2, MEMBERS))
        return np.quantile([self.statistics(pair, *members) for members in drawn], [0.025, 0.975], axis=0)


def main() -> str:
    """Return the section of ``results.md``.

    Raises:
        ArithmeticError: when an interval of ours covers less than 90 % or more than 98 %.
    """
    rows = [_row(shift) for shift in SHIFTS]
    text = "\n".join([_HEAD, *(row for row, _ in rows)])
    if not all(within for _, within in rows):
        raise ArithmeticError(f"an interval covers less than 90 or more than 98 %:\n{text}")
    return text


_HEAD = f"""N = {MEMBERS}, {POINTS} points, {TRIALS} trials; coverage in %: our 95 % intervals / plain bootstrap.

| shift in sigma | {" | ".join(NAMES)} |
|---|{"---|" * len(NAMES)}"""


def _row(shift: float) -> tuple[str, bool]:
    """Return a row of the table, and whether all of ours lie within 90 to 98 %."""
    margins = Margins(shift)
    target = np.mean([margins.statistics(margins.pair()) for _ in range(FRESH)], axis=0)
    covered = np.zeros((2, len(STATISTICS)))
    for _ in range(TRIALS):
        pair = margins.pair()
        ours = klom_intervals(pair.first, pair.second, quantiles=STATISTICS)
        both = np.transpose([ours[name] for name in STATISTICS]), margins.bootstrap(pair)
        for row, (low, high) in enumerate(both):
            covered[row] += (low <= target) & (target <= high)
    own, plain = 100 * covered / TRIALS
    cells = " | ".join(f"{a:.1f} / {b:.1f}" for a, b in zip(own, plain, strict=True))
    return f"| {shift:g} | {cells} |", bool((own >= 90).all() and (own <= 98).all())


if __name__ == "__main__":
    print(main())
