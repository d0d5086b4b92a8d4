"""Many runs side by side, as one page: a figure, the tables of the terminal, and links to every run's own report."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmm_exp.report.canvas import Drawn, literal, panels, png, style
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = (
    "One panel a metric, one line a method, one mark a group of runs with its 95 % interval where it has one. An arrow "
    "beside a metric's name points to the better."
)
_COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#1c1c1c")
_MARKERS = "os^DvPX"
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
    figure = metrics_by_method(found)
    drawn = Drawn("metrics_by_method", "Metrics by method", CAPTION, figure, png(figure))
    sections = [{"title": "Means", "rule": MEANS_RULE, "rows": means_texts(found), "labels": len(found.by)}]
    if not found.ranks.empty:
        sections.append({"title": "Mean ranks", "rule": RANKS_RULE, "rows": ranks_texts(found), "labels": 1})
    if not found.tests.empty:
        title = f"Paired differences from {found.baseline}"
        sections.append({"title": title, "rule": TESTS_RULE, "rows": tests_texts(found), "labels": 2})
    facts = [("runs", len(found.runs)), ("methods", found.runs[_METHOD].nunique()), ("blocks", found.n_blocks)]
    picture = base64.b64encode(drawn.png).decode("ascii")
    words = {"facts": facts, "drawn": drawn, "picture": picture, "sections": sections, "command": command}
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


def metrics_by_method(found: Comparison) -> Figure:
    """Draw every metric: a line a method, a mark with its interval for each group of runs."""
    means = found.means.to_dict("records")
    rows, series = (list(dict.fromkeys(name(found, row) for row in means)) for name in (_row, _series))
    with style():
        figure, axes = panels(len(found.metrics), min(3, len(found.metrics)), 1.2 + 0.3 * len(rows), sharey=True)
        for panel, (metric, arrow) in zip(axes, found.metrics.items(), strict=True):
            _draw_metric(panel, found, metric, rows, series)
            panel.set_xlabel(f"{metric} {arrow}")
        axes[0].set_yticks(np.arange(len(rows))[::-1], [literal(row) for row in rows])
        if len(series) > 1:
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


def _draw_metric(axes: Axes, found: Comparison, metric: str, rows: Sequence[str], series: Sequence[str]) -> None:
    of_metric = [row for row in found.means.to_dict("records") if row["metric"] == metric]
    for place, name in enumerate(series):
        parts = [row for row in of_metric if _series(found, row) == name]
        offset = 0.6 * ((place + 0.5) / len(series) - 0.5)
        heights = [len(rows) - 1 - rows.index(_row(found, row)) - offset for row in parts]
        means = np.array([row["mean"] for row in parts])
        ends = np.array([[row["mean"] - row["low"], row["high"] - row["mean"]] for row in parts]).T
        look = {"fmt": _MARKERS[place % 7], "color": _COLOURS[place % 7], "ms": 4.5, "lw": 1.2, "capsize": 2}
        axes.errorbar(means, heights, xerr=np.maximum(np.nan_to_num(ends), 0), label=literal(name), **look)


def _row(found: Comparison, row: Mapping[Any, Any]) -> str:
    return str(row[_METHOD]) if _METHOD in found.by else _joined(row, found.by)


def _series(found: Comparison, row: Mapping[Any, Any]) -> str:
    return _joined(row, [key for key in found.by if key != _METHOD]) if _METHOD in found.by else ""


def _joined(row: Mapping[Any, Any], keys: Sequence[str]) -> str:
    return ", ".join(str(row[key]) if key in _PLAIN else f"{key}={row[key]}" for key in keys)
