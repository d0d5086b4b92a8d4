"""Tables of runs repeated over seeds: for the terminal, for documents, as figures and as a page.

Everything here takes *records*: one mapping for each run, with the ``table``, ``row``, ``column`` and ``seed`` that it
belongs to, its ``status`` (``"done"`` or ``"failed"``), and its ``metrics`` or its ``error``.
"""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from dmm_exp.files.writing import write_text
from dmm_exp.report.canvas import DPI, WIDTH, Drawn, literal, png, style
from dmm_exp.report.estimate import Estimate
from dmm_exp.report.html import page
from dmm_exp.report.palette import SERIES
from dmm_exp.report.result import GROUPS
from dmm_exp.report.tables import print_table

_MARKERS = "os^DvPX"
WORDS = {
    "tow": "ToW",
    "tow_mia": "ToW-MIA",
    "lds": "LDS",
    "cost/ratio": "cost of unlearning ÷ cost of retraining",
    "cost/attribution": "cost of attribution (gradients of single examples)",
    **{f"klom/{group}/p95": f"P95 KLoM of {group} points (nats)" for group in GROUPS},
    **{f"effect/r2/{group}": f"R² of the effect on {group} points" for group in GROUPS},
}
RULE = (
    "Every number is the mean over seeds, each with its own originals, oracles, pool and scores, with the half-width "
    "of its 95 % interval (Student's t). Differences are between columns of one row, paired by seed."
)


@dataclass(frozen=True)
class View:
    """One metric of one table.

    Attributes:
        table: the table's name.
        metric: what is shown of its runs.
        caption: what there is to see.
        differences: whether differences between columns are shown, too.
        alone: whether it is the only view of its table, which then is all its name says.
    """

    table: str
    metric: str
    caption: str = ""
    differences: bool = True
    alone: bool = True

    @property
    def name(self) -> str:
        """What the view's files are called."""
        return self.table if self.alone else f"{self.table}_{self.metric.replace('/', '_')}"

    @property
    def title(self) -> str:
        """What the view's figure is called."""
        return f"{_word(self.metric)} by {self.table}".replace("_", " ")


@dataclass(frozen=True)
class Scatter:
    """One metric against another, over all runs.

    Attributes:
        name: what its files are called.
        x: metric across.
        y: metric upwards.
        caption: what there is to see.
        least_x: smaller values are drawn here, at the left edge; the caption says how many.
        log_x: whether the axis across is logarithmic.
    """

    name: str
    x: str
    y: str
    caption: str = ""
    least_x: float | None = None
    log_x: bool = False


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


def summary(records: Sequence[Mapping[str, Any]], views: Sequence[View]) -> pd.DataFrame:
    """Return every estimate and difference.

    Columns: ``metric``, ``table``, ``row``, ``column``, ``mean`` and ``half``, the half-width of the interval.
    """
    rows = []
    for view in views:
        wide = values_of(records, view.table, view.metric)
        for found in (estimates(wide), differences(wide)):
            rows += [
                {
                    "metric": view.metric,
                    "table": view.table,
                    "row": row,
                    "column": column,
                    "mean": value.mean,
                    "half": value.half,
                }
                for row, values in found.items()
                for column, value in values.items()
            ]
    return pd.DataFrame(rows)


def texts(records: Sequence[Mapping[str, Any]], view: View) -> list[list[str]]:
    """Return a view as text, its head first: estimates, then differences."""
    wide = values_of(records, view.table, view.metric)
    means = estimates(wide)
    changes = differences(wide) if view.differences else {row: {} for row in means}
    first = next(iter(means))
    head = ["", *means[first], *changes[first]]
    return [head, *([row, *map(str, [*means[row].values(), *changes[row].values()])] for row in means)]


def print_study(records: Sequence[Mapping[str, Any]], views: Sequence[View]) -> None:
    """Print every view on standard output, and what failed below."""
    for view in views:
        head, *rows = texts(records, view)
        table = Table(box=box.SIMPLE_HEAD, title=view.title, title_justify="left", pad_edge=False)
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


def draw(records: Sequence[Mapping[str, Any]], view: View) -> Drawn:
    """Draw one view: a line for each row of the table, a mark with its interval for each column."""
    found = estimates(values_of(records, view.table, view.metric))
    columns = list(next(iter(found.values())))
    with style():
        figure = Figure(figsize=(0.75 * WIDTH, 1.3 + 0.34 * len(found)), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for place, column in enumerate(columns):
            offset = 0.5 * ((place + 0.5) / len(columns) - 0.5)
            heights = np.arange(len(found))[::-1] - offset
            means = [found[row][column].mean for row in found]
            halves = np.nan_to_num([found[row][column].half for row in found])
            axes.errorbar(
                means, heights, xerr=halves, label=literal(column), ms=5.5, lw=1.2, capsize=2, ls="", **_look(place)
            )
        axes.set_yticks(np.arange(len(found))[::-1], [literal(row) for row in found])
        axes.set_xlabel(_word(view.metric))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(columns), 4))
    return Drawn(view.name, view.title, view.caption, figure, png(figure))


def draw_scatter(records: Sequence[Mapping[str, Any]], scatter: Scatter) -> Drawn:
    """Draw one metric against another, a mark for each row and column of each table: its mean over seeds."""
    frame = tidy(records)
    cells: Any = frame.reindex(columns=["table", "row", "column", scatter.x, scatter.y]).groupby(
        ["table", "row", "column"], sort=False
    )
    means: pd.DataFrame = cells.mean()
    caption = scatter.caption
    if scatter.least_x is not None:
        below = int(np.sum(means[scatter.x].to_numpy() < scatter.least_x))
        means[scatter.x] = means[scatter.x].clip(lower=scatter.least_x)
        caption += f" {below} of {len(means)} lie further left and are drawn at {scatter.least_x:g}." * bool(below)
    with style():
        figure = Figure(figsize=(0.75 * WIDTH, 4.2), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(dict.fromkeys(frame["row"])):
            points = means.xs(row, level="row")
            axes.plot(
                points[scatter.x], points[scatter.y], ls="", ms=6, alpha=0.8, label=literal(str(row)), **_look(place)
            )
        if scatter.log_x:
            axes.set_xscale("log")
        axes.set_xlabel(_word(scatter.x))
        axes.set_ylabel(_word(scatter.y))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=5)
    title = f"{_word(scatter.y)} against {_word(scatter.x)}"
    return Drawn(scatter.name, title, caption.strip(), figure, png(figure))


def _look(place: int) -> dict[str, Any]:
    """Return a colour and a marker; pairs repeat after seven times seven."""
    return {"color": SERIES[place % 7], "marker": _MARKERS[(place + place // 7) % 7]}


def write_study(
    records: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    title: str,
    command: str,
    views: Sequence[View],
    scatters: Sequence[Scatter] = (),
) -> Path:
    """Write a study into ``folder`` and return the path of its page, ``study.html``.

    Beside it stand ``cells.csv`` (one row a run, with all its metrics), ``summary.csv``, ``study.md``, and each figure
    as png, svg and pdf. The page makes no request to anything outside itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections = [_section(draw(records, view), folder, texts(records, view)) for view in views]
    sections += [_section(draw_scatter(records, scatter), folder, []) for scatter in scatters]
    frame = tidy(records)
    write_text(folder / "cells.csv", frame.to_csv(index=False))
    write_text(folder / "summary.csv", summary(records, views).to_csv(index=False))
    write_text(folder / "study.md", _markdown(records, title, views, command))
    facts = [("runs", len(records)), ("seeds", frame["seed"].nunique()), ("tables", frame["table"].nunique())]
    words = {"title": title, "command": command, "rule": RULE, "facts": facts, "gaps": gaps(records)}
    write_text(folder / "study.html", page("study.html.j2", sections=sections, **words))
    return folder / "study.html"


def _section(drawn: Drawn, folder: Path, rows: list[list[str]]) -> dict[str, Any]:
    """Save a figure, and return what the page shows of it."""
    drawn.save(folder / "figures")
    return {"drawn": drawn, "picture": base64.b64encode(drawn.png).decode("ascii"), "rows": rows}


def _markdown(records: Sequence[Mapping[str, Any]], title: str, views: Sequence[View], command: str) -> str:
    parts = [f"# {title}", f"`{command}`", RULE]
    for view in views:
        head, *rows = texts(records, view)
        lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
        parts += [f"## {view.title}", view.caption, "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    missing = gaps(records)
    parts += ["Missing:\n\n" + "\n".join(f"- {gap}" for gap in missing)] if missing else []
    return "\n\n".join(part for part in parts if part) + "\n"


def _word(metric: str) -> str:
    """Return a metric's name as people write it."""
    return WORDS.get(metric, metric)
