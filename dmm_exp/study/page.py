"""The page of a study, ``study.html``, and the files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dmm_exp.compare.looks import method_roles
from dmm_exp.files.writing import write_text
from dmm_exp.report.charts import Chart, Interval, Panel, axis, dots, floats, interval_chart, log10, log_axis
from dmm_exp.report.html import Page, Section, write_sections
from dmm_exp.study.claims import CLAIM_RULE, Claims
from dmm_exp.study.tables import (
    Record,
    View,
    estimates,
    gaps,
    latex,
    markdown,
    rules,
    shown_values,
    summary,
    texts,
    tidy,
    warnings,
    word_of,
)


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


def view_chart(records: Sequence[Record], view: View) -> Chart:
    """Describe one view: a line for each row of the table, its floor first, a mark with its interval for each column.

    A column has one colour in all tables of a study.
    """
    found = estimates(shown_values(records, view))
    series: dict[str, list[Interval]] = {}
    for row, values in found.items():
        for column, one in values.items():
            series.setdefault(column, []).append(Interval(row, one.mean, one.low, one.high))
    columns = dict.fromkeys(record.column for record in records)
    roles = {column: f"series{place}" for place, column in enumerate(columns)}
    return interval_chart(view.name, view.title, view.caption, {word_of(view.metric): series}, roles)


def scatter_chart(records: Sequence[Record], scatter: Scatter) -> Chart:
    """Describe one metric against another, a mark for each row and column of each table: its mean over seeds."""
    frame, keys = tidy(records), ["table", "row", "column"]
    cells: Any = frame.reindex(columns=[*keys, scatter.x, scatter.y]).groupby(keys, sort=False)
    means: pd.DataFrame = cells.mean()
    caption = scatter.caption
    if scatter.least_x is not None:
        below = int(np.sum(means[scatter.x].to_numpy() < scatter.least_x))
        means[scatter.x] = means[scatter.x].clip(lower=scatter.least_x)
        caption += f" {below} of {len(means)} lie further left and are drawn at {scatter.least_x:g}." * bool(below)
    place = log10 if scatter.log_x else floats
    x = (log_axis if scatter.log_x else axis)(word_of(scatter.x), place(means[scatter.x]))
    marks = []
    for row, role in method_roles(map(str, frame["row"])).items():
        points = means.xs(row, level="row")
        marks.append(dots(role, place(points[scatter.x]), points[scatter.y], row))
    title = f"{word_of(scatter.y)} against {word_of(scatter.x)}"
    panel = Panel(x, axis(word_of(scatter.y), means[scatter.y]), marks)
    return Chart(scatter.name, title, caption.strip(), [panel], height=0.62)


def write_study(
    records: Sequence[Record],
    folder: Path,
    *,
    title: str,
    command: str,
    views: Sequence[View],
    scatters: Sequence[Scatter] = (),
    claims: Claims | None = None,
) -> Path:
    """Write a study into ``folder`` and return the path of its page, ``study.html``.

    Beside it stand ``cells.csv`` (one row a run, all metrics), ``summary.csv``, ``claims.csv`` where there are claims,
    ``study.md``, ``study.tex``, and what the figures show. The page makes no request to anything outside itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claims = claims or Claims()
    verdicts = claims.rows(records)
    sections = [Section("Claims", CLAIM_RULE, rows=verdicts, words=len(verdicts[0]))] if verdicts else []
    sections += [Section(chart=view_chart(records, view), rows=texts(records, view)) for view in views]
    sections += [Section(chart=scatter_chart(records, scatter)) for scatter in scatters]
    frame = tidy(records)
    write_text(folder / "cells.csv", frame.to_csv(index=False))
    write_text(folder / "summary.csv", summary(records, views).to_csv(index=False))
    write_text(folder / "study.md", markdown(records, title, views, command, verdicts, CLAIM_RULE))
    if verdicts:
        write_text(folder / "claims.csv", claims.frame(records).to_csv(index=False))
    write_text(folder / "study.tex", latex(records, views))
    facts = [("runs", len(records)), ("seeds", frame["seed"].nunique()), ("tables", frame["table"].nunique())]
    story, said = rules(records, views), warnings(records, views)
    shown = Page(title, command, facts, sections, story=story, gaps=gaps(records), warnings=said)
    return write_sections(shown, folder / "study.html")
