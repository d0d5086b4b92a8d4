"""The means as papers show them: names that people read, one number a cell, and what all rows share in the caption."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dmm_exp.compare.names import FLOOR_ROW, NOTES, name_of
from dmm_exp.compare.tables import Comparison, by_keys, dicts, mean_text, word
from dmm_exp.console.latex import best_two, latex_table
from dmm_exp.console.tables import without_constants
from dmm_exp.console.words import MISSING

WIDEST = 3  # numbers in a row of a table for a paper, each with its interval
_METHOD, _ALL = "method", "all methods"


@dataclass(frozen=True)
class Row:
    """A row of a table of means.

    Attributes:
        block: the values of all columns of words but the method; rows of one block are compared.
        method: the method, or ``FLOOR_ROW``.
        means: by metric, a row of the comparison's ``means`` or ``floors``.
        runs: how many runs the means are over; None for a floor.
        ranked: whether the row may be the best.
    """

    block: tuple[str, ...]
    method: str
    means: Mapping[str, Mapping[Any, Any]]
    runs: int | None = None
    ranked: bool = False


@dataclass(frozen=True)
class Means:
    """The table of means.

    Attributes:
        shared: what all rows share, in words; empty where there is nothing.
        words: the heads of the columns of words.
        labels: of every row, its words.
        rows: of the table; each block starts with its floor, where there is one.
    """

    shared: str
    words: list[str]
    labels: list[list[str]]
    rows: list[Row]

    @property
    def n_texts(self) -> int:
        """How many leading columns are texts; numbers of runs are none."""
        return len(self.words) - ("runs" in self.words)

    @property
    def floors(self) -> list[Row]:
        """The rows of floors."""
        return [row for row in self.rows if row.method == FLOOR_ROW]

    def of(self, metrics: Collection[str]) -> Means:
        """Return the table of some metrics: without the rows of floors if none of them has one."""
        if any(metric in row.means for row in self.floors for metric in metrics):
            return self
        kept = [place for place, row in enumerate(self.rows) if row.method != FLOOR_ROW]
        return replace(self, labels=[self.labels[at] for at in kept], rows=[self.rows[at] for at in kept])

    def texts(self, metrics: Mapping[str, str]) -> list[list[str]]:
        """Return the table as text, the head first.

        Args:
            metrics: those that it shows, and the head of each.
        """
        body = [
            [*label, *(_cell(row, metric) for metric in metrics)]
            for label, row in zip(self.labels, self.rows, strict=True)
        ]
        return [[*self.words, *metrics.values()], *body]


def means_of(found: Comparison) -> Means:
    """Return the means of a comparison; columns with one value in all rows are told apart."""
    rows = list(_rows(found))
    runs = list(dict.fromkeys(row.runs for row in rows if row.runs is not None))
    outer, varying = _outer(found), len(runs) > 1
    head = [*outer, _METHOD, *["runs"] * varying]
    labels = [[*row.block, row.method, *[str(row.runs or "")] * varying] for row in rows]
    shared, (words, *labels), _ = without_constants([head, *labels], len(head), outer)
    return Means("; ".join(filter(None, (shared, _counted(runs)))), list(words), [list(one) for one in labels], rows)


def _counted(runs: Sequence[int]) -> str:
    return f"{runs[0]} runs each" if len(runs) == 1 and runs[0] > 1 else ""


def _outer(found: Comparison) -> list[str]:
    return [key for key in found.by if key != _METHOD]


def _rows(found: Comparison) -> Iterator[Row]:
    """Yield the rows block by block, each block's floor first."""
    outer = _outer(found)
    floors = _floors(found)
    for key, part in by_keys(found.means, outer):
        block = tuple(map(word, key))
        if block in floors:
            yield Row(block, FLOOR_ROW, floors[block])
        for _, own in by_keys(part, [_METHOD] if _METHOD in found.by else []):
            means = {row["metric"]: row for row in dicts(own)}
            first = next(iter(means.values()))
            method = str(first.get(_METHOD, _ALL))
            yield Row(block, method, means, first["runs"], method not in {*found.references, _ALL})


def _floors(found: Comparison) -> dict[tuple[str, ...], dict[str, dict[Any, Any]]]:
    """Return the floors that were measured, by block and metric."""
    if found.floors is None:
        return {}
    parts = by_keys(found.floors.dropna(subset="mean"), _outer(found))
    return {tuple(map(word, key)): {row["metric"]: row for row in dicts(part)} for key, part in parts if len(part)}


def _cell(row: Row, metric: str) -> str:
    return mean_text(row.means[metric]) if metric in row.means else MISSING


def comparison_latex(found: Comparison) -> str:
    """Return the means as LaTeX tables of at most :data:`WIDEST` numbers in a row, so that they fit a column of text.

    What all rows share is in the caption, and groups of points stand below their score. Rows of equal other columns are
    one block. In each, the first row is the floor, the best method is bold and the second underlined; references are
    neither.
    """
    means = means_of(found)
    parts = [{metric: found.metrics[metric] for metric in part} for part in _parts(found)]
    return "\n".join(_latex(replace(found, metrics=part), means.of(part)) for part in parts)


def _parts(found: Comparison) -> Iterator[list[str]]:
    """Yield the metrics of each table; those of one score are not parted."""
    part: list[str] = []
    for _, several in itertools.groupby(found.metrics, lambda metric: name_of(metric)[0]):
        score = list(several)
        if part and len(part) + len(score) > WIDEST:
            yield part
            part = []
        part = part + score
    yield part


def _latex(found: Comparison, means: Means) -> str:
    """Return one table."""
    words = len(means.words)
    marks = _marks(found, means.rows, words)
    rows = means.texts({metric: name_of(metric)[1] or head for metric, head in heads(found).items()})
    caption = " ".join(["Means.", *rules(found, means), *notes(found), *_of_marks(found, marks)])
    above = _above(found, words)
    return latex_table(rows, caption, marks=marks, words=means.n_texts, above=above, ends=set(_ends(means.rows)))


def heads(found: Comparison) -> dict[str, str]:
    """Return, for each metric, the name of its score with the arrow towards the better."""
    return {metric: f"{name_of(metric)[0]} {arrow}".rstrip() for metric, arrow in found.metrics.items()}


def _above(found: Comparison, words: int) -> list[tuple[str, int]]:
    """Return the scores that stand above groups of points, each with the number of its columns."""
    named = [heads(found)[metric] if name_of(metric)[1] else "" for metric in found.metrics]
    return [("", words), *((name, len(list(part))) for name, part in itertools.groupby(named))]


def _ends(rows: Sequence[Row]) -> Iterator[int]:
    """Yield the number of the last row of every block; of a single block, that of its floor."""
    blocks = list(dict.fromkeys(row.block for row in rows))
    if len(blocks) == 1 and rows[0].method == FLOOR_ROW:
        yield 1
    yield from itertools.accumulate(sum(row.block == block for row in rows) for block in blocks)


def _marks(found: Comparison, rows: Sequence[Row], words: int) -> dict[tuple[int, int], str]:
    """Return which cells are bold or underlined, by row and column of the table."""
    marks = {}
    for block in dict.fromkeys(row.block for row in rows):
        own = [(place, row) for place, row in enumerate(rows, 1) if row.block == block and row.ranked]
        for column, (metric, arrow) in enumerate(found.metrics.items(), words):
            values = [row.means[metric]["mean"] for _, row in own] if arrow and len(own) > 1 else []
            marks |= {(own[at][0], column): mark for at, mark in best_two(values, lower=arrow == "↓").items()}
    return marks


def rules(found: Comparison, means: Means) -> list[str]:
    """Return sentences that explain what a table of means has, and nothing that it lacks."""
    shown = [mean for row in means.rows for metric, mean in row.means.items() if metric in found.metrics]
    over, floors = {mean["over"] for mean in shown}, any(row.method == FLOOR_ROW for row in means.rows)
    lines = [f"All rows: {means.shared}."] * bool(means.shared)
    lines += ["±: half of the 95 % interval over runs (Student's t)."] * ("runs" in over)
    lines += ["[ ]: 95 % interval over the models of a single run."] * ("members" in over)
    lines += ["Floor: what an independent ensemble of retrained models has."] * floors
    return lines


def notes(found: Comparison) -> list[str]:
    """Return what scores are whose names do not say it."""
    return [NOTES[metric] for metric in found.metrics if metric in NOTES]


def _of_marks(found: Comparison, marks: Mapping[tuple[int, int], str]) -> list[str]:
    """Return what bold and underlined numbers are."""
    aside = sorted(found.references) if _METHOD in found.by else []
    lines = ["The best is bold, the second underlined."] if marks else []
    lines += [f"References ({', '.join(aside)}) are neither."] * bool(marks and aside)
    return lines
