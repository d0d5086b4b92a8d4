"""Intervals of mean ranks: forget sets and their kinds are drawn with replacement."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

REPEATS = 2000
SEED = 0
TAILS = (2.5, 97.5)  # per cent


def with_intervals(standing: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return a standing with the ends of the 95 % interval of every mean rank, ``low`` and ``high``.

    Args:
        standing: one row a method, as ``ranking.standing`` gives it.
        table: one row a method and forget set, as ``ranking.grid`` gives it.
    """
    methods, (low, high) = ranked_methods(table), ends(drawn_ranks(table))
    found = {"low": pd.Series(low, methods), "high": pd.Series(high, methods)}
    return standing.assign(**{name: column.reindex(standing.index) for name, column in found.items()})


def ranked_methods(table: pd.DataFrame) -> list[str]:
    """Return the methods that are no references, also those that are not everywhere."""
    return [str(name) for name in table.loc[~table["reference"], "method"].unique()]


def drawn_ranks(table: pd.DataFrame) -> NDArray[np.float64]:
    """Return mean ranks over kinds of forget sets and sets that are drawn with replacement, ``[repeats, methods]``.

    NaN where there is a single set, from which nothing can be told, and for methods that are not everywhere.
    """
    generator, methods = np.random.default_rng(SEED), ranked_methods(table)
    if len(table[["kind", "forget"]].drop_duplicates()) < 2:
        return np.full((REPEATS, len(methods)), np.nan)
    by_kind = [
        found.pivot(index="forget", columns="method", values="rank").reindex(columns=methods).to_numpy(float)
        for _, found in table[~table["reference"]].groupby("kind", sort=True)
    ]
    means = np.stack([_drawn_means(ranks, generator) for ranks in by_kind], 1)  # [repeats, kinds, methods]
    return drawn_again(means, generator).mean(1)


def _drawn_means(ranks: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Return means over rows that are drawn with replacement: ``[sets, methods]`` → ``[repeats, methods]``."""
    return ranks[generator.integers(len(ranks), size=(REPEATS, len(ranks)))].mean(1)


def drawn_again(means: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw along the second axis with replacement, otherwise for each repeat: ``[repeats, n, methods]``."""
    n = means.shape[1]
    return np.take_along_axis(means, generator.integers(n, size=(len(means), n))[:, :, None], 1)


def ends(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 95 % interval of what was drawn, ``[2, methods]``; NaN where a draw is."""
    return np.percentile(drawn, TAILS, axis=0)
