"""Tables of runs repeated over seeds: for the terminal, for documents, as figures and as a page.

Everything here takes *records*: one mapping for each run, with the ``table``, ``row``, ``column`` and ``seed`` that it
belongs to, its ``status`` (``"done"`` or ``"failed"``), and its ``metrics`` or its ``error``.
"""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from dmm_exp.report.canvas import DPI, WIDTH, Drawn, literal, png, style
from dmm_exp.report.estimate import Estimate
from dmm_exp.report.html import page
from dmm_exp.report.tables import print_table
from dmm_exp.store.files import write_text

_COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#1c1c1c")
_MARKERS = "os^DvPX"
WORDS = {"tow": "ToW", "tow_mia": "ToW-MIA", "lds": "LDS"}
RULE = (
    "Every number is the mean over seeds, each with its own originals, oracles, pool and scores, with the half-width "
    "of its 95 % interval (Student's t). Differences are between columns of one row, paired by seed."
)


def tidy(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row a run: ``table``, ``row``, ``column``, ``seed``, ``status``, and every metric."""
    rows = [
        {name: record[name] for name in ("table", "row", "column", "seed", "status")}
        | dict(record.get("metrics") or {})
        for record in records
    ]
    return pd.DataFrame(rows)


def values_of(records: Sequence[Mapping[str, Any]], table: str, metric: str) -> pd.DataFrame:
    """Return a metric of one table: a row for each (row, seed), a column for each column, in order of appearance."""
    frame = tidy([record for record in records if record["table"] == table])
    if metric not in frame:
        frame[metric] = math.nan
    wide = pd.DataFrame(frame.set_index(["row", "seed", "column"])[metric].unstack())
    seeds = dict.fromkeys(frame["seed"])
    rows = [(row, seed) for row in dict.fromkeys(frame["row"]) for seed in seeds]
    return wide.reindex(index=pd.MultiIndex.from_tuples(rows, names=["row", "seed"]), columns=frame["column"].unique())


def estimates(wide: pd.DataFrame) -> dict[str, dict[str, Estimate]]:
    """Return the estimate of every column of every row."""
    rows = dict.fromkeys(wide.index.get_level_values("row"))
    return {
        str(row): {str(column): Estimate.of(wide.loc[row, column].to_numpy(float)) for column in wide} for row in rows
    }


def differences(wide: pd.DataFrame) -> dict[str, dict[str, Estimate]]:
    """Return, for every row, each later column minus the one before it, and the last minus the first, by seed."""
    names = list(wide.columns)
    pairs = [*itertools.pairwise(names)]
    pairs += [(names[0], names[-1])] if len(names) > 2 else []
    rows = dict.fromkeys(wide.index.get_level_values("row"))
    return {
        str(row): {
            f"{after} − {before}": Estimate.of((wide.loc[row, after] - wide.loc[row, before]).to_numpy(float))
            for before, after in pairs
        }
        for row in rows
    }


def summary(records: Sequence[Mapping[str, Any]], metric: str) -> pd.DataFrame:
    """Return every estimate and difference: ``table``, ``row``, ``column``, ``mean``, ``half`` (of the interval)."""
    rows = []
    for table in dict.fromkeys(record["table"] for record in records):
        wide = values_of(records, table, metric)
        for found in (estimates(wide), differences(wide)):
            rows += [
                {"table": table, "row": row, "column": column, "mean": value.mean, "half": value.half}
                for row, values in found.items()
                for column, value in values.items()
            ]
    return pd.DataFrame(rows)


def texts(records: Sequence[Mapping[str, Any]], table: str, metric: str) -> list[list[str]]:
    """Return a table as text, its head first: estimates, then differences."""
    wide = values_of(records, table, metric)
    means, changes = estimates(wide), differences(wide)
    first = next(iter(means))
    head = ["", *means[first], *changes[first]]
    return [head, *([row, *map(str, [*means[row].values(), *changes[row].values()])] for row in means)]


def print_study(records: Sequence[Mapping[str, Any]], metric: str) -> None:
    """Print every table on standard output, and what failed below."""
    for name in dict.fromkeys(record["table"] for record in records):
        head, *rows = texts(records, name, metric)
        table = Table(box=box.SIMPLE_HEAD, title=f"{_word(metric)} by {name}", title_justify="left", pad_edge=False)
        for column in head:
            table.add_column(column, justify="right" if column else "left")
        for row in rows:
            table.add_row(*row)
        print_table(table)
    for gap in gaps(records):
        print(gap)


def gaps(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each run that failed."""
    return [
        f"{r['table']}: {r['row']}, {r['column']}, seed {r['seed']}: {r['error']}"
        for r in records
        if r["status"] != "done"
    ]


def draw(records: Sequence[Mapping[str, Any]], table: str, metric: str, caption: str) -> Drawn:
    """Draw one table: a line for each row of it, a mark with its interval for each column."""
    found = estimates(values_of(records, table, metric))
    columns = list(next(iter(found.values())))
    with style():
        figure = Figure(figsize=(0.75 * WIDTH, 1.3 + 0.34 * len(found)), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for place, column in enumerate(columns):
            offset = 0.5 * ((place + 0.5) / len(columns) - 0.5)
            heights = np.arange(len(found))[::-1] - offset
            means = [found[row][column].mean for row in found]
            halves = np.nan_to_num([found[row][column].half for row in found])
            look = {"fmt": _MARKERS[place % 7], "color": _COLOURS[place % 7], "ms": 5.5, "lw": 1.2, "capsize": 2}
            axes.errorbar(means, heights, xerr=halves, label=literal(column), **look)
        axes.set_yticks(np.arange(len(found))[::-1], [literal(row) for row in found])
        axes.set_xlabel(_word(metric))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(columns), 4))
    return Drawn(table, f"{_word(metric)} by {table}".replace("_", " "), caption, figure, png(figure))


def write_study(
    records: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    title: str,
    metric: str,
    captions: Mapping[str, str],
    command: str,
) -> Path:
    """Write a study into ``folder`` and return the path of its page, ``study.html``.

    Beside it stand ``cells.csv`` (one row a run, with all its metrics), ``summary.csv``, ``study.md``, and each table's
    figure as png, svg and pdf. The page makes no request to anything outside itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {name: draw(records, name, metric, caption) for name, caption in captions.items()}
    for drawn in figures.values():
        drawn.save(folder / "figures")
        with style():
            FigureCanvasPdf(drawn.figure).print_pdf(
                folder / "figures" / f"{drawn.name}.pdf", metadata={"CreationDate": None}
            )
    frame = tidy(records)
    write_text(folder / "cells.csv", frame.to_csv(index=False))
    write_text(folder / "summary.csv", summary(records, metric).to_csv(index=False))
    write_text(folder / "study.md", _markdown(records, title, metric, captions, command))
    sections = [
        {"drawn": drawn, "picture": base64.b64encode(drawn.png).decode("ascii"), "rows": texts(records, name, metric)}
        for name, drawn in figures.items()
    ]
    facts = [("runs", len(records)), ("seeds", frame["seed"].nunique()), ("tables", len(figures))]
    words = {"title": title, "command": command, "rule": RULE, "facts": facts, "gaps": gaps(records)}
    write_text(folder / "study.html", page("study.html.j2", sections=sections, **words))
    return folder / "study.html"


def _markdown(
    records: Sequence[Mapping[str, Any]], title: str, metric: str, captions: Mapping[str, str], command: str
) -> str:
    parts = [f"# {title}", f"`{command}`", RULE]
    for name, caption in captions.items():
        head, *rows = texts(records, name, metric)
        lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
        parts += [f"## {_word(metric)} by {name}", caption, "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    missing = gaps(records)
    parts += ["Missing:\n\n" + "\n".join(f"- {gap}" for gap in missing)] if missing else []
    return "\n\n".join(part for part in parts if part) + "\n"


def _word(metric: str) -> str:
    """Return a metric's name as people write it."""
    return WORDS.get(metric, metric)
