"""A ranking as blocks: tables of which every cell is one number, whichever way they are shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from dmm_exp.console.words import number, trainings, two_digits
from dmm_exp.leaderboard.intervals import with_intervals
from dmm_exp.leaderboard.ranking import (
    COST,
    ENDS,
    FLOOR,
    FLOOR_SUM,
    FURTHER,
    KLOM,
    SUM,
    TOW_FLOOR,
    Outcome,
    few_models,
    floors,
    grid,
    standing,
)
from dmm_exp.metrics.tow import GROUPS

INDEPENDENT = "independent retraining"
MODELS = "models"  # the column of further models, of both kinds
RANKS_RULE = (
    "In brackets beside a mean rank is its 95 % interval, for which forget sets and their kinds are drawn with "
    "replacement."
)
KLOM_RULE = "In brackets beside KLoM is its 95 % interval over models, of which both ends are means over draws."


@dataclass(frozen=True)
class Column:
    """One number of every method.

    Attributes:
        head: what it is called.
        key: where it is in a row of a standing.
        form: writes it.
        floor: that of independent retraining; NaN where it has none.
        ends: where the ends of its interval are; () if it has none.
        lower: whether smaller is better; None where no end is.
        detail: what it is in a table that has several of its name.
    """

    head: str
    key: str
    form: Callable[[float], str] = number
    floor: float = math.nan
    ends: tuple[str, ...] = ()
    lower: bool | None = True
    detail: str = ""


@dataclass(frozen=True)
class Block:
    """One table.

    Attributes:
        title: what it shows.
        columns: its numbers.
        kind: of forget sets that it is about; "" for all.
        rule: what its intervals mean; "" if it can have none.
    """

    title: str
    columns: Sequence[Column]
    kind: str = ""
    rule: str = ""


@dataclass(frozen=True)
class Ranking:
    """All that tables show.

    Attributes:
        table: one row a method, best first: ``standing`` with :data:`MODELS`, and ``mean_rank_low`` and
            ``mean_rank_high``, the ends of the 95 % interval.
        blocks: the mean ranks, then KLoM of each kind of forget set, then its sum over both directions if it is known.
        is_sure: whether there are enough models for ranks to mean something.
    """

    table: pd.DataFrame
    blocks: Sequence[Block]
    is_sure: bool

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Ranking:
        """Return the ranking of outcomes. Raises ``ValueError`` without any."""
        table = ranked_table(outcomes)
        return cls(table, list(_blocks(floors(outcomes), table)), not few_models(outcomes))

    @property
    def kinds(self) -> list[str]:
        """The kinds of forget sets, in order of appearance."""
        return list(dict.fromkeys(block.kind for block in self.blocks if block.kind))

    @property
    def methods(self) -> list[tuple[str, bool]]:
        """Every method with whether it is a reference."""
        return [(str(method), bool(row)) for method, row in self.table["reference"].items()]

    def intervals(self, column: Column) -> list[str]:
        """Return a column's interval of every method, "" where there is none."""
        if not column.ends:
            return [""] * len(self.table)
        low, high = (self.table[end] for end in column.ends)
        return [interval(*ends) for ends in zip(low, high, strict=True)]

    def texts(self, column: Column) -> list[str]:
        """Return a column's number of every method."""
        return [column.form(value) for value in self.table[column.key]]


def ranked_table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return ``standing`` with the ends of intervals of mean ranks and the sum of further models.

    Raises:
        ValueError: there are no outcomes.
    """
    table = with_intervals(standing(outcomes), grid(outcomes))
    table = table.rename(columns={"low": "mean_rank_low", "high": "mean_rank_high"})
    return table.assign(**{MODELS: table[list(FURTHER)].sum(axis=1, min_count=1)})


def interval(low: float, high: float) -> str:
    """Return an interval in brackets; nothing where there is none."""
    ends = [number(end) if abs(end) < 1000 else f"{end:.1e}" for end in (low, high)]
    return "" if math.isnan(low) or math.isnan(high) else f"[{', '.join(ends)}]"


def _blocks(floor_of: pd.DataFrame, table: pd.DataFrame) -> Iterator[Block]:
    yield _ranks(floor_of)
    rows = [(str(kind), row) for kind, row in floor_of.to_dict("index").items()]
    yield from (_kloms(kind, row) for kind, row in rows)
    yield from (_sums(kind, row) for kind, row in rows if _is_known(table, kind))


def _ranks(floor_of: pd.DataFrame) -> Block:
    tug = float(floor_of[TOW_FLOOR].to_numpy(float).mean())
    columns = [
        Column("mean rank", "mean_rank", ends=("mean_rank_low", "mean_rank_high")),
        Column("ToW", "tow", partial(number, form=".3f"), tug, lower=False),
        Column("cost", COST, two_digits, 1.0),
        Column("further models", MODELS, further_models, lower=None),
    ]
    return Block("Mean rank over all kinds of forget sets", columns, rule=RANKS_RULE)


def _kloms(kind: str, floor: dict[Any, float]) -> Block:
    columns = [
        Column(group, f"{kind}/{name}", floor=floor[least], ends=_within(kind, ENDS[name]), detail="KLoM")
        for group, name, least in zip(GROUPS, KLOM, FLOOR, strict=True)
    ]
    rank = Column("rank", f"{kind}/rank", _rank)
    return Block(f"{kind}: P95 KLoM(unlearned ‖ oracle), nats", [*columns, rank], kind, KLOM_RULE)


def _sums(kind: str, floor: dict[Any, float]) -> Block:
    columns = [
        Column(group, f"{kind}/{name}", floor=floor[least], detail="sum")
        for group, name, least in zip(GROUPS, SUM, FLOOR_SUM, strict=True)
    ]
    return Block(f"{kind}: P95 of the sum of both directions of KLoM, nats", columns, kind)


def _within(kind: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{kind}/{name}" for name in names)


def _is_known(table: pd.DataFrame, kind: str) -> bool:
    """Return whether any method has a sum of both directions."""
    return bool(table[list(_within(kind, SUM))].notna().to_numpy().any())


def _rank(value: float) -> str:
    return number(value, ".1f").removesuffix(".0")


def further_models(value: float) -> str:
    """Write a number of further models, in retrainings."""
    return number(value) if math.isnan(value) else trainings(value)
