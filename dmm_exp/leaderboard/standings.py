"""Ranks over boards, with intervals: what all rows say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmm_exp.leaderboard.intervals import SEED, drawn_again, drawn_ranks, ends, ranked_methods, with_intervals
from dmm_exp.leaderboard.ranking import COST, FURTHER, Outcome, grid, standing
from dmm_exp.leaderboard.rows import Row


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
        return [
            Outcome(row.method, row.kind, row.forget, row.reference, row.metrics(), n_models=row.n_models)
            for row in self.rows
        ]

    @cached_property
    def standing(self) -> pd.DataFrame:
        """One row a method, as ``ranking.standing`` gives it, with ``low`` and ``high`` of its mean rank."""
        return with_intervals(standing(self.outcomes), self.grid)

    @cached_property
    def grid(self) -> pd.DataFrame:
        """One row a method and forget set, with its rank on this set."""
        return grid(self.outcomes)

    @property
    def methods(self) -> list[str]:
        """The ranked methods, also those that are not everywhere."""
        return ranked_methods(self.grid)

    @cached_property
    def drawn(self) -> NDArray[np.float64]:
        """Mean ranks over kinds of forget sets and sets that are drawn with replacement, ``[repeats, methods]``.

        NaN where there is a single set, from which nothing can be told, and for methods that are not everywhere.
        """
        return drawn_ranks(self.grid)


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

        The columns of costs are means over the boards that the method is on. A method that is not ranked on every
        board has no mean. Ranked methods come first, best first.
        """
        columns = {board.name: board.standing["mean_rank"] for board in self.boards}
        table = pd.DataFrame(columns)
        references = pd.concat([board.standing["reference"] for board in self.boards]).groupby(level=0).any()
        table.insert(0, "mean_rank", table.mean(axis=1, skipna=False))
        generator = np.random.default_rng(SEED)
        drawn = np.stack(
            [pd.DataFrame(board.drawn, columns=board.methods).reindex(columns=table.index) for board in self.boards], 1
        )
        low, high = ends(drawn_again(drawn, generator).mean(1))
        costs = pd.concat([board.standing for board in self.boards]).groupby(level=0)
        means = {cost: costs[cost].mean() for cost in (COST, *FURTHER)}
        table = table.assign(low=low, high=high, reference=references.reindex(table.index), **means)
        return table.sort_values(["reference", "mean_rank"], kind="stable")

    @property
    def ranked(self) -> pd.DataFrame:
        """Those rows of ``overall`` that have a mean rank."""
        return self.overall.dropna(subset=["mean_rank"]).query("not reference")
