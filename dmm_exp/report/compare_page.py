"""Many runs side by side, as one page: a figure, the tables of the terminal, and links to every run's own report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmm_exp.report.charts import Axis, Chart, Mark, Panel, axis, dots, floats
from dmm_exp.report.compare import (
    MEANS_RULE,
    RANKS_RULE,
    TESTS_RULE,
    Comparison,
    means_texts,
    ranks_texts,
    tests_texts,
)
from dmm_exp.report.html import page
from dmm_exp.report.palette import SERIES
from dmm_exp.report.svg import WIDTHS, letters

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
    sections = [{"title": "Means", "rule": MEANS_RULE, "rows": means_texts(found), "labels": len(found.by)}]
    if not found.ranks.empty:
        sections.append({"title": "Mean ranks", "rule": RANKS_RULE, "rows": ranks_texts(found), "labels": 1})
    if not found.tests.empty:
        title = f"Paired differences from {found.baseline}"
        sections.append({"title": title, "rule": TESTS_RULE, "rows": tests_texts(found), "labels": 2})
    facts = [("runs", len(found.runs)), ("methods", found.runs[_METHOD].nunique()), ("blocks", found.n_blocks)]
    words = {"facts": facts, "chart": metrics_by_method(found), "sections": sections, "command": command}
    return page("compare.html.j2", title="Comparison", runs=_runs(found, path), left_out=left_out, **words)


def _runs(found: Comparison, path: Path) -> list[dict[str, str]]:
    """Return each run's name, method and draws, with a relative link to its report if it has one."""
    start = path.absolute().parent
    rows = []
    for row in found.runs.to_dict("records"):
        report = Path(row["folder"]).absolute() / "report.html"
        link = Path(os.path.relpath(report, start)).as_posix() if report.is_file() else ""
        rows.append({"name": row["name"], "method": row[_METHOD], "seed": str(row.get("seed", "")), "link": link})
    return rows


def metrics_by_method(found: Comparison) -> Chart:
    """Describe every metric: a line a method, a mark with its interval for each group of runs."""
    means = found.means.to_dict("records")
    rows, series = (list(dict.fromkeys(name(found, row) for row in means)) for name in (_row, _series))
    panels = [_panel(found, metric, rows, series) for metric in found.metrics]
    across = next((count for count in (3, 2) if max(map(len, rows)) <= letters(count)), 1)
    height = (60 + len(rows) * (26 + 12 * len(series))) / WIDTHS[across]
    return Chart("metrics_by_method", "Metrics by method", CAPTION, panels, across=across, height=height)


def _panel(found: Comparison, metric: str, rows: Sequence[str], series: Sequence[str]) -> Panel:
    of_metric = [row for row in found.means.to_dict("records") if row["metric"] == metric]
    marks = []
    for place, name in enumerate(series):
        parts = [row for row in of_metric if _series(found, row) == name]
        offset = 0.5 * place / len(series)
        heights = [len(rows) - 1 - rows.index(_row(found, row)) - offset for row in parts]
        means = floats([row["mean"] for row in parts])
        ends = floats([[row["low"] for row in parts], [row["high"] for row in parts]])
        label = name if len(series) > 1 else ""
        marks.append(dots(f"series{place % len(SERIES)}", means, heights, label, ends=ends, across=True))
    x = axis(
        f"{metric} {found.metrics[metric]}", np.concatenate([part for m in marks for part in (m.x, *_ends(m))]), count=4
    )
    y = Axis("", -0.6, len(rows) - 0.3, [(len(rows) - 1 - k, row) for k, row in enumerate(rows)], inside=True)
    return Panel(x, y, marks)


def _ends(mark: Mark) -> Sequence[NDArray[np.float64]]:
    return () if mark.ends is None else list(mark.ends)


def _row(found: Comparison, row: Mapping[Any, Any]) -> str:
    return str(row[_METHOD]) if _METHOD in found.by else _joined(row, found.by)


def _series(found: Comparison, row: Mapping[Any, Any]) -> str:
    return _joined(row, [key for key in found.by if key != _METHOD]) if _METHOD in found.by else ""


def _joined(row: Mapping[Any, Any], keys: Sequence[str]) -> str:
    return ", ".join(str(row[key]) if key in _PLAIN else f"{key}={row[key]}" for key in keys)
