"""The ranking of a leaderboard as a table: for the terminal, for documents, and as data for its page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from dmm_exp.console.latex import best_two, latex_table
from dmm_exp.console.tables import Cell, HeadlineData, HeadlineRow, dense_table, list_below, markdown_table
from dmm_exp.console.words import MISSING, further, number, two_digits
from dmm_exp.leaderboard.intervals import with_intervals
from dmm_exp.leaderboard.ranking import (
    COST,
    ENDS,
    FLOOR,
    FLOOR_SUM,
    KLOM,
    SUM,
    TOW_FLOOR,
    Outcome,
    floors,
    grid,
    standing,
    unfinished,
)


def leaderboard_data(outcomes: Sequence[Outcome], *, intervals: bool = False) -> HeadlineData:
    """Build the ranking as plain text: noise floor, methods, references; notes mark what takes no part in the ranking.

    A kind's cell is its P95 KLoM on forget, retain and validation points; below, that of the sum of both directions,
    and its rank. With ``intervals`` there are those of mean ranks and of KLoM on forget points, too.
    """
    table = with_intervals(standing(outcomes), grid(outcomes))
    floor_of = floors(outcomes)
    kinds = [Cell(str(kind), "forget / retain / val") for kind in floor_of.index]
    floor = [Cell(_joined(row[FLOOR]), _sum_of(row[FLOOR_SUM])) for _, row in floor_of.iterrows()]
    tug = Cell(number(float(floor_of[TOW_FLOOR].to_numpy(float).mean()), ".3f"))
    rows = [HeadlineRow("independent retraining", "noise floor", [Cell(MISSING), *floor, tug, Cell("1")])]
    for place, (method, row) in enumerate(table.to_dict("index").items()):
        note = "reference" if row["reference"] else ""
        ends = [Cell(number(row["tow"], ".3f")), Cell(two_digits(row[COST]), further(row))]
        rank = Cell(number(row["mean_rank"]), ends_of(row["low"], row["high"]) if intervals else "")
        values = [rank, *(_kind_cell(row, kind.value, intervals) for kind in kinds), *ends]
        rows.append(HeadlineRow(str(method), note, values, emphasis=place == 0 and not math.isnan(row["mean_rank"])))
    return HeadlineData([Cell("mean", "rank"), *kinds, Cell("ToW"), Cell("cost", "+ models")], rows)


def _kind_cell(row: Mapping[Any, Any], kind: str, intervals: bool) -> Cell:
    """Return a method's P95 KLoM in a kind of forget sets; below, its interval on forget points, and its rank."""
    rank = row[f"{kind}/rank"]
    place = "" if math.isnan(rank) else f"#{rank:.1f}".removesuffix(".0")
    below = [text for text in (_sum_of(row[f"{kind}/{name}"] for name in SUM), place) if text]
    first = ends_of(*(row[f"{kind}/{name}"] for name in ENDS)) if intervals else ""
    return Cell(_joined(row[f"{kind}/{name}"] for name in KLOM), "\n".join(filter(None, (first, " ".join(below)))))


def ends_of(low: float, high: float) -> str:
    """Return an interval in brackets; nothing where there is none."""
    ends = [number(end) if abs(end) < 1000 else f"{end:.1e}" for end in (low, high)]
    return "" if math.isnan(low) or math.isnan(high) else f"[{', '.join(ends)}]"


def cost_of(row: Mapping[Any, Any]) -> str:
    """Return a method's cost in multiples of one retraining; after +, in retrainings, the models that it looks at."""
    return f"{two_digits(row[COST])} {further(row)}".strip()


def _sum_of(values: Iterable[float]) -> str:
    """Return the sums of both directions, nothing where no run has them."""
    joined = _joined(values)
    return "" if joined == MISSING else f"sum {joined}"


def _joined(values: Iterable[float]) -> str:
    """Join three numbers; one dash when there is none."""
    texts = [number(value) for value in values]
    return MISSING if set(texts) == {MISSING} else " / ".join(texts)


def gaps_of(outcomes: Sequence[Outcome]) -> list[str]:
    """Return one line for each method on a forget set that failed or was not run."""
    return [f"{row['forget']}, {row['method']}: {row['status']}" for row in unfinished(grid(outcomes))]


def leaderboard_table(outcomes: Sequence[Outcome]) -> Table:
    """Return the ranking for the terminal, about 140 columns wide with four kinds; what is missing stands below it."""
    data = leaderboard_data(outcomes)
    table = dense_table()
    widest = max(len(row.label) for row in data.rows[1:])  # methods keep one line; the floor's label may take two
    table.add_column("P95 KLoM,\nnats", overflow="fold", max_width=max(widest, len("independent")))
    for column in data.columns:
        table.add_column(Text(f"{column.value}\n{column.detail}"), justify="right", overflow="fold")
    columns = [_one_line([row.cells[index] for row in data.rows]) for index in range(len(data.columns))]
    for row, *texts in zip(data.rows, *columns, strict=True):
        shade = "dim" if row.note else "bold" if row.emphasis else ""
        table.add_row(*(Text(text, shade) for text in (row.label, *texts)))
    if gaps := gaps_of(outcomes):
        list_below(table, [f"{len(gaps)} results are missing:", *(f"  {gap}" for gap in gaps)])
    return table


def _one_line(column: Sequence[Cell]) -> list[str]:
    """Put details beside their values, all equally wide so that they stand below one another."""
    width = max(len(cell.detail) for cell in column)
    return [f"{cell.value} {cell.detail:<{width}}" if width else cell.value for cell in column]


def leaderboard_markdown(outcomes: Sequence[Outcome]) -> str:
    """Return the ranking as a GitHub table, references in italics and what is missing below."""
    data = leaderboard_data(outcomes)
    rows = [["", *map(_beside, data.columns)]]
    for row in data.rows:
        label = f"*{plain(row.label)}*" if row.note else plain(row.label)
        rows.append([label, *map(_beside, row.cells)])
    gaps = "".join(f"- {plain(gap)}\n" for gap in gaps_of(outcomes))
    return markdown_table(rows) + (f"\nMissing:\n\n{gaps}" if gaps else "")


def leaderboard_latex(outcomes: Sequence[Outcome], caption: str) -> str:
    """Return the ranking as a LaTeX table: mean rank, P95 KLoM of forget points by kind, ToW and cost in full.

    The first row is the noise floor. The best of the ranked methods is bold in every column.
    """
    floor_of, table = floors(outcomes), standing(outcomes)
    columns = ["mean_rank", *(f"{kind}/{KLOM[0]}" for kind in floor_of.index), "tow", COST]
    head = ["", "mean rank", *map(str, floor_of.index), "ToW", "cost + models"]
    floor = [MISSING, *(number(value) for value in floor_of[FLOOR[0]])]
    tug = number(float(floor_of[TOW_FLOOR].to_numpy(float).mean()), ".3f")
    rows = [head, ["independent retraining", *floor, tug, "1"]]
    for method, row in table.to_dict("index").items():
        texts = [number(row[name], ".3f" if name == "tow" else ".2f") for name in columns[:-1]]
        rows.append([str(method), *texts, cost_of(row)])
    ranked = ~table["reference"].to_numpy(bool)
    marks = {
        (place + 2, column + 1): mark
        for column, name in enumerate(columns)
        for place, mark in best_two(table[name].where(ranked).tolist(), lower=name != "tow").items()
    }
    return latex_table(rows, caption, marks=marks)


def _beside(cell: Cell) -> str:
    """Put a cell's detail beside its value."""
    return plain(f"{cell.value} {cell.detail}".strip())


def plain(text: str) -> str:
    """Keep a person's text from being read as Markdown or HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("*", "\\*")
