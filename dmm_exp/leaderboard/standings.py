"""Ranks over boards, with intervals: what all rows say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmm_exp.leaderboard.ranking import Outcome, grid, standing
from dmm_exp.leaderboard.rows import Row

REPEATS = 2000
SEED = 0
TAILS = (2.5, 97.5)  # per cent


@dataclass(frozen=True)
class Board:
    """The rows of one board.

    Attributes:
        name: of the board.
        rows: at least one.
    """

    name: str
    rows: Sequence[Row]

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """The rows as outcomes of runs."""
        return [Outcome(row.method, row.kind, row.forget, row.reference, row.metrics()) for row in self.rows]

    @cached_property
    def standing(self) -> pd.DataFrame:
        """One row a method, as ``ranking.standing`` gives it, with ``low`` and ``high`` of its mean rank."""
        table = standing(self.outcomes)
        low, high = ends(self.drawn)
        found = {"low": pd.Series(low, self.methods), "high": pd.Series(high, self.methods)}
        return table.assign(**{name: column.reindex(table.index) for name, column in found.items()})

    @cached_property
    def grid(self) -> pd.DataFrame:
        """One row a method and forget set, with its rank on this set."""
        return grid(self.outcomes)

    @property
    def methods(self) -> list[str]:
        """The ranked methods, also those that are not everywhere."""
        return [str(name) for name in self.grid.loc[~self.grid["reference"], "method"].unique()]

    @cached_property
    def drawn(self) -> NDArray[np.float64]:
        """Mean ranks over kinds of forget sets and sets that are drawn with replacement, ``[repeats, methods]``.

        NaN where there is a single set, from which nothing can be told, and for methods that are not everywhere.
        """
        generator, table = np.random.default_rng(SEED), self.grid
        if len(table[["kind", "forget"]].drop_duplicates()) < 2:
            return np.full((REPEATS, len(self.methods)), np.nan)
        by_kind = [
            found.pivot(index="forget", columns="method", values="rank").reindex(columns=self.methods).to_numpy(float)
            for _, found in table[~table["reference"]].groupby("kind", sort=True)
        ]
        means = np.stack([_drawn_means(ranks, generator) for ranks in by_kind], 1)  # [repeats, kinds, methods]
        return _drawn(means, generator).mean(1)


def _drawn_means(ranks: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Return means over rows that are drawn with replacement: ``[sets, methods]`` → ``[repeats, methods]``."""
    return ranks[generator.integers(len(ranks), size=(REPEATS, len(ranks)))].mean(1)


def _drawn(means: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw along the second axis with replacement, otherwise for each repeat: ``[repeats, n, methods]``."""
    n = means.shape[1]
    return np.take_along_axis(means, generator.integers(n, size=(len(means), n))[:, :, None], 1)


def ends(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 95 % interval of what was drawn, ``[2, methods]``; NaN where a draw is."""
    return np.percentile(drawn, TAILS, axis=0)


@dataclass(frozen=True)
class Standings:
    """All boards.

    Attributes:
        boards: in the order of their names.
    """

    boards: Sequence[Board]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Standings:
        """Return the standings of rows."""
        ordered = sorted(rows, key=lambda row: (row.board, row.kind, row.forget, row.method))
        return cls([Board(name, list(found)) for name, found in groupby(ordered, lambda row: row.board)])

    @cached_property
    def overall(self) -> pd.DataFrame:
        """One row a method: ``reference``, ``mean_rank`` over boards with ``low`` and ``high``, and a column a board.

        A method that is not ranked on every board has no mean. Ranked methods come first, best first.
        """
        columns = {board.name: board.standing["mean_rank"] for board in self.boards}
        table = pd.DataFrame(columns)
        references = pd.concat([board.standing["reference"] for board in self.boards]).groupby(level=0).any()
        table.insert(0, "mean_rank", table.mean(axis=1, skipna=False))
        generator = np.random.default_rng(SEED)
        drawn = np.stack(
            [pd.DataFrame(board.drawn, columns=board.methods).reindex(columns=table.index) for board in self.boards], 1
        )
        low, high = ends(_drawn(drawn, generator).mean(1))
        table = table.assign(low=low, high=high, reference=references.reindex(table.index))
        return table.sort_values(["reference", "mean_rank"], kind="stable")

    @property
    def ranked(self) -> pd.DataFrame:
        """Those rows of ``overall`` that have a mean rank."""
        return self.overall.dropna(subset=["mean_rank"]).query("not reference")
