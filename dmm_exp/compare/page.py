"""Many runs side by side, as one page: a figure, the tables of the terminal, and links to every run's own report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmm_exp.compare.tables import (
    MEANS_RULE,
    RANKS_RULE,
    TESTS_RULE,
    Comparison,
    means_texts,
    ranks_texts,
    tests_texts,
    unranked_lines,
    untested_lines,
)
from dmm_exp.report.charts import Chart, Interval, interval_chart
from dmm_exp.report.html import Link, Page, Section, sections_page

CAPTION = (
    "One panel a metric, one line a method, one mark a group of runs with its 95 % interval where it has one. An arrow "
    "beside a metric's name points to the better."
)
_METHOD = "method"
_PLAIN = ("dataset", "model", "forget", "unlearner", "refinement")  # keys whose values speak for themselves


def comparison_page(found: Comparison, path: Path, *, left_out: Sequence[str], command: str) -> str:
    """Return the page as text; it makes no request to anything outside itself.

    Args:
        found: what is shown.
        path: where the page will be, from which links to runs start.
        left_out: a line for each run that takes no part.
        command: what to type to get the page again.
    """
    sections = [Section("Means", MEANS_RULE, rows=means_texts(found), words=len(found.by))]
    if not found.ranks.empty:
        sections.append(Section("Mean ranks", RANKS_RULE, rows=ranks_texts(found), notes=unranked_lines(found)))
    if not found.tests.empty:
        title = f"Paired differences from {found.baseline}"
        rows, notes = tests_texts(found), untested_lines(found)
        sections.append(Section(title, TESTS_RULE, rows=rows, words=2, notes=notes))
    sections.append(Section(chart=metrics_by_method(found)))
    sections.append(Section("Runs", rows=_runs(found, path), words=2))
    if left_out:
        sections.append(Section("What is left out", rows=[["run"], *([line] for line in left_out)]))
    facts = [("runs", len(found.runs)), ("methods", found.runs[_METHOD].nunique()), ("blocks", found.n_blocks)]
    return sections_page(Page("Comparison", command, facts, sections))


def _runs(found: Comparison, path: Path) -> list[list[str | Link]]:
    """Return each run's name, a relative link to its report if it has one, its method and draws; the head first."""
    start = path.absolute().parent
    rows: list[list[str | Link]] = [["run", "method", "seed"]]
    for row in found.runs.to_dict("records"):
        report = Path(row["folder"]).absolute() / "report.html"
        name = Link(row["name"], Path(os.path.relpath(report, start)).as_posix()) if report.is_file() else row["name"]
        rows.append([name, row[_METHOD], str(row.get("seed", ""))])
    return rows


def metrics_by_method(found: Comparison) -> Chart:
    """Describe every metric: a line a method, a mark with its interval for each group of runs."""
    panels: dict[str, dict[str, list[Interval]]] = {f"{metric} {arrow}": {} for metric, arrow in found.metrics.items()}
    for row in found.means.to_dict("records"):
        by_series = panels[f"{row['metric']} {found.metrics[row['metric']]}"]
        interval = Interval(_row(found, row), row["mean"], row["low"], row["high"])
        by_series.setdefault(_series(found, row), []).append(interval)
    return interval_chart("metrics_by_method", "Metrics by method", CAPTION, panels)


def _row(found: Comparison, row: Mapping[Any, Any]) -> str:
    return str(row[_METHOD]) if _METHOD in found.by else _joined(row, found.by)


def _series(found: Comparison, row: Mapping[Any, Any]) -> str:
    return _joined(row, [key for key in found.by if key != _METHOD]) if _METHOD in found.by else ""


def _joined(row: Mapping[Any, Any], keys: Sequence[str]) -> str:
    return ", ".join(str(row[key]) if key in _PLAIN else f"{key}={row[key]}" for key in keys)
