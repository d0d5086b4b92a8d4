"""Tables in a terminal, and the plain data that a page shows in the same form."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO

from rich import box
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dmm_exp.console.terminal import console as safe_console


@dataclass(frozen=True)
class Cell:
    """One cell: a value and, in small print below it, what qualifies it."""

    value: str
    detail: str = ""


@dataclass(frozen=True)
class HeadlineRow:
    """One line of a table of results; ``emphasis`` marks what the table is about."""

    label: str
    note: str
    cells: list[Cell]
    emphasis: bool = False


@dataclass(frozen=True)
class HeadlineData:
    """A table of results as plain text, whichever way it is shown."""

    columns: list[Cell]
    rows: list[HeadlineRow] = field(default_factory=list)


def print_table(table: Table, stream: IO[str] | None = None) -> None:
    """Print a table to ``stream`` (standard output by default); through a pipe it is plain text at its full width."""
    target = stream or sys.stdout
    terminal = target.isatty()
    console = safe_console(file=target, force_terminal=terminal, highlight=False)
    if not terminal:  # a pipe has no width, and rich would assume eighty columns
        unlimited = console.options.update(width=10_000)
        console.width = max(100, Measurement.get(console, unlimited, table).maximum)
    console.print(table)


def dense_table() -> Table:
    """Return an empty table with little between its columns."""
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)


def text_table(title: str, rows: Sequence[Sequence[str]], words: int = 1) -> Table:
    """Build a table from its texts, the head first; the first ``words`` columns are words, the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for place, column in enumerate(rows[0]):
        table.add_column(Text(column), justify="left" if place < words else "right", overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table


def list_below(table: Table, lines: Sequence[str]) -> None:
    """Put lines below a table, as what went wrong."""
    table.caption = Text("\n" + "\n".join(lines), style="red")
    table.caption_justify = "left"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return texts as a GitHub table, the head first; the first column is words, the others are numbers."""
    head, *others = rows
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *others]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
