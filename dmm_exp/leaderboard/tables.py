"""The ranking of a leaderboard as tables: for the terminal, for documents, for papers, and as data for its page."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from rich.table import Table
from rich.text import Text

from dmm_exp.console.latex import best_two, latex_table
from dmm_exp.console.tables import Cell, HeadlineData, HeadlineRow, dense_table, markdown_table, print_table
from dmm_exp.console.words import further, two_digits
from dmm_exp.leaderboard.blocks import INDEPENDENT, Block, Column, Ranking
from dmm_exp.leaderboard.ranking import COST, Outcome, few_models, gaps, grid, refusals

INTERVAL = "95 % interval"
WIDTH = 80
LATEX_RULE = (
    "The first row is the noise floor, which is independent retraining. The best ranked method of a column is bold, "
    "and the second is underlined."
)


def block_data(ranking: Ranking, columns: Sequence[Column]) -> HeadlineData:
    """Build columns of a ranking as plain text: noise floor, methods, references; below a number is its interval."""
    rows = [HeadlineRow(INDEPENDENT, "noise floor", [Cell(column.form(column.floor)) for column in columns])]
    cells = [map(Cell, ranking.texts(column), ranking.intervals(column)) for column in columns]
    for place, ((method, is_reference), *values) in enumerate(zip(ranking.methods, *cells, strict=True)):
        note = "reference" if is_reference else ""
        rows.append(HeadlineRow(method, note, list(values), emphasis=place == 0 and has_first(ranking)))
    return HeadlineData([Cell(column.head, column.detail) for column in columns], rows)


def has_first(ranking: Ranking) -> bool:
    """Return whether a method can be called the first: it has a rank, and ranks mean something."""
    return ranking.is_sure and not math.isnan(ranking.table["mean_rank"].iloc[0])


def printed(ranking: Ranking, block: Block, intervals: int) -> Iterator[tuple[Column | None, list[str]]]:
    """Yield every column of a block with its texts: the head, the floor, then methods.

    The interval of a column is a column of its own, beside it, of which the first result is None.

    Args:
        ranking: of all methods.
        block: one of its blocks.
        intervals: how many of the first columns show theirs.
    """
    for place, column in enumerate(block.columns):
        yield column, [column.head, column.form(column.floor), *ranking.texts(column)]
        if place < intervals and any(ends := ranking.intervals(column)):
            yield None, [INTERVAL, "", *ends]


def print_leaderboard(outcomes: Sequence[Outcome], stream: IO[str] | None = None) -> None:
    """Print the ranking, a table a block, then what intervals mean, what to beware of, and what is missing.

    With names of up to 34 letters no line is wider than 80.

    Args:
        outcomes: of all methods on all forget sets.
        stream: where to; standard output by default.
    """
    ranking, target = Ranking.of(outcomes), stream or sys.stdout
    for block in ranking.blocks:
        print(_folded(block.title), file=target)
        print_table(_terminal_table(ranking, block), target)
        print(file=target)
    for line in [*_rules(ranking), *(f"! {line}" for line in few_models(outcomes)), *_below(outcomes)]:
        print(_folded(line), file=target)


def _terminal_table(ranking: Ranking, block: Block) -> Table:
    """Return a block, of which the first column alone shows its intervals; names keep one line where there is room."""
    table = dense_table()
    table.add_column("", overflow="fold")
    columns = [texts for _, texts in printed(ranking, block, intervals=1)]
    for head, *_ in columns:
        table.add_column(Text("\n".join(head.rsplit(" ", 1))), justify="right", no_wrap=True)
    for label, shade, *texts in zip(*_labels(ranking), *(texts[1:] for texts in columns), strict=True):
        table.add_row(*(Text(text, shade) for text in (label, *texts)))
    return table


def _labels(ranking: Ranking) -> tuple[list[str], list[str]]:
    """Return the names of rows, and how a terminal shows them."""
    first = "bold" if has_first(ranking) else ""
    shades = ["dim" if is_reference else "" for _, is_reference in ranking.methods]
    return [INDEPENDENT, *(method for method, _ in ranking.methods)], ["dim", shades[0] or first, *shades[1:]]


def _rules(ranking: Ranking) -> list[str]:
    """Return what the intervals mean that are shown."""
    shown = [block.rule for block in ranking.blocks if any(map(any, map(ranking.intervals, block.columns)))]
    return list(dict.fromkeys(shown))


def _below(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield what does not apply, and what is missing."""
    table = grid(outcomes)
    for title, lines in (("Not applicable:", refusals(table)), ("Missing:", gaps(table))):
        yield from ["", title, *(f"  {line}" for line in lines)] if lines else []


def _folded(line: str) -> str:
    """Break a line between words."""
    indent = "    " if line.startswith(" ") else ""
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def leaderboard_markdown(outcomes: Sequence[Outcome]) -> str:
    """Return the ranking as GitHub tables, one a block: references in italics, and below what is missing."""
    ranking = Ranking.of(outcomes)
    parts = [_markdown_block(ranking, block) for block in ranking.blocks]
    below = [f"- {plain(line.strip())}" if line.startswith(" ") else f"{line}\n" for line in _below(outcomes) if line]
    return "\n".join([*parts, *_rules(ranking), *([""] if below else []), *below]).strip() + "\n"


def _markdown_block(ranking: Ranking, block: Block) -> str:
    columns = [texts for _, texts in printed(ranking, block, intervals=len(block.columns))]
    names = ["", f"*{INDEPENDENT}*"]
    names += [f"*{plain(method)}*" if is_reference else plain(method) for method, is_reference in ranking.methods]
    rows = [list(row) for row in zip(names, *columns, strict=True)]
    return f"**{plain(block.title)}**\n\n{markdown_table(rows)}"


def leaderboard_latex(outcomes: Sequence[Outcome], title: str) -> str:
    """Return the ranking as LaTeX tables, one a block, with every interval in small print beside its number.

    The first row is the noise floor. The best of the ranked methods is bold in every column, the second underlined.

    Args:
        outcomes: of all methods on all forget sets.
        title: the first words of every caption.
    """
    ranking = Ranking.of(outcomes)
    return "\n".join(_latex_block(ranking, block, title, few_models(outcomes)) for block in ranking.blocks)


def _latex_block(ranking: Ranking, block: Block, title: str, warnings: Sequence[str]) -> str:
    columns = list(printed(ranking, block, intervals=len(block.columns)))
    names = ["", "noise floor", *(method for method, _ in ranking.methods)]
    rows = [list(row) for row in zip(names, *(texts for _, texts in columns), strict=True)]
    marks = {}
    for place, (column, texts) in enumerate(columns, 1):
        found = _best(ranking, column) if column else {row: "scriptsize" for row, text in enumerate(texts) if text}
        marks |= {(row, place): mark for row, mark in found.items()}
    has_intervals = any(column is None for column, _ in columns)
    words = [f"{title}. {block.title}.", block.rule if has_intervals else "", LATEX_RULE, *_references(ranking)]
    return latex_table(rows, " ".join(filter(None, [*words, *warnings])), marks=marks)


def _best(ranking: Ranking, column: Column) -> dict[int, str]:
    """Return the marks of a column by row, the head being row 0; none on references."""
    if column.lower is None:
        return {}
    values = ranking.table[column.key].where(~ranking.table["reference"].to_numpy(bool))
    return {place + 2: mark for place, mark in best_two(values.tolist(), lower=column.lower).items()}


def _references(ranking: Ranking) -> list[str]:
    """Name the references, if there are any."""
    names = [method for method, is_reference in ranking.methods if is_reference]
    return [f"References have no rank: {', '.join(names)}."] if names else []


def cost_of(row: Mapping[Any, Any]) -> str:
    """Return a method's cost in multiples of one retraining; after +, in retrainings, the models that it looks at."""
    return f"{two_digits(row[COST])} {further(row)}".strip()


def plain(text: str) -> str:
    """Keep a person's text from being read as Markdown or HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("*", "\\*")
