"""Tables in a terminal, and the plain data that a page shows in the same form."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dmm_exp.console.terminal import console as safe_console
from dmm_exp.console.terminal import terminal_width

FLOOR = "floor"  # what a column is called that belongs to the one before it
LONGEST = 28  # letters in a line of a name
_WIDE = Console(width=10_000)


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


def print_texts(
    title: str, rows: Sequence[Sequence[str]], words: int, same: Sequence[str] = (), keep: str = ""
) -> None:
    """Print a table of texts on standard output; on a terminal it is no wider than that.

    On a terminal, columns of ``same`` that have one value in all rows move into the title. A table that is still too
    wide is printed as several tables, each with the columns of words.

    Args:
        title: of the table.
        rows: texts, all rows of one length, the head first.
        words: how many columns say what a row is; the others are numbers, a column called "floor" beside the one
            before it.
        same: columns of words that may go into the title.
        keep: the one of them that may not.
    """
    if not sys.stdout.isatty():
        print_table(text_table(title, rows, words - 1))
        return
    said, rows, words = without_constants(rows, words, [name for name in same if name != keep])
    title += f" ({said})" if said else ""
    for place, part in enumerate(fitting(rows, words, terminal_width())):
        print("\n" + textwrap.fill(f"{title}, continued" if place else title, terminal_width()))
        print_table(_narrow(part, words))


def without_constants(
    rows: Sequence[Sequence[str]], words: int, names: Sequence[str]
) -> tuple[str, Sequence[Sequence[str]], int]:
    """Take columns of words that have one value in all rows out of a table.

    Args:
        rows: texts, all rows of one length, the head first.
        words: how many columns say what a row is; one of them stays.
        names: of the columns that may be taken out.

    Returns:
        What was taken out in words, the rows that are left, and how many of their columns are words.
    """
    head = rows[0]
    gone = [place for place in range(words) if head[place] in names and len({row[place] for row in rows[1:]}) == 1]
    gone = gone[1:] if len(gone) == words else gone
    said = ", ".join(f"{head[place]} {rows[1][place]}" for place in gone)
    left = [[text for place, text in enumerate(row) if place not in gone] for row in rows]
    return said, left, words - len(gone)


def fitting(rows: Sequence[Sequence[str]], words: int, width: int) -> list[list[list[str]]]:
    """Divide the columns of numbers so that each part fits with the columns of words, or has a single one.

    Args:
        rows: texts, all rows of one length, the head first.
        words: how many columns say what a row is; each part has them.
        width: in letters.
    """
    parts: list[list[int]] = []
    units: list[list[int]] = []
    for place in range(words, len(rows[0])):
        if rows[0][place] == FLOOR and units:
            units[-1].append(place)
        else:
            units.append([place])

    def taken(columns: Sequence[int]) -> list[list[str]]:
        return [[*row[:words], *(row[place] for place in columns)] for row in rows]

    for unit in units:
        if parts and Measurement.get(_WIDE, _WIDE.options, _narrow(taken([*parts[-1], *unit]), words)).maximum <= width:
            parts[-1] += unit
        else:
            parts.append(list(unit))
    return [taken(part) for part in parts] or [taken([])]


def _narrow(rows: Sequence[Sequence[str]], words: int) -> Table:
    """Return a table whose columns of words are broken between words where they are long."""
    table = dense_table()
    for place, column in enumerate(rows[0]):
        if place < words:
            table.add_column(Text(column), overflow="fold", max_width=LONGEST)
        else:
            table.add_column(Text(column), justify="right", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table


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


def markdown_table(rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Return texts as a GitHub table, the head first; the first ``words`` columns are words, the others numbers."""
    head, *others = rows
    lines = [head, ["---"] * words + ["---:"] * (len(head) - words), *others]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
