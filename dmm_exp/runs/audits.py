"""What audits found: a table for the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from dmm_exp.console.tables import Cell, HeadlineData, HeadlineRow
from dmm_exp.console.words import number, percent
from dmm_exp.runs.result import RunResult

ENSEMBLES = {
    "unlearned": "this run",
    "oracle": "retrained",
    "floor": "retrained again",
    "original": "doing nothing",
}


def audit_data(result: RunResult) -> HeadlineData | None:
    """Build the table of what audits found on forget points, a row a probe; None without any."""
    names = list(dict.fromkeys(name.split("/")[1] for name in result.metrics if name.startswith("audit/")))
    if not names:
        return None
    columns = [Cell("correct", words) for words in ENSEMBLES.values()]
    columns += [Cell("ToW", "floor"), Cell("KLoM P95", "floor")]
    rows = [_row("as they are", result.metrics, "")]
    rows += [_row(name.replace("_", " "), result.metrics, f"audit/{name}/") for name in names]
    return HeadlineData(columns, rows)


def _row(label: str, metrics: Mapping[str, float], prefix: str) -> HeadlineRow:
    cells = [_accuracy(metrics, f"{prefix}accuracy/{ensemble}/forget") for ensemble in ENSEMBLES]
    cells.append(Cell(number(metrics[f"{prefix}tow"], ".3f"), number(metrics[f"{prefix}tow_floor"], ".3f")))
    own, floor = (metrics[f"{prefix}klom{end}/forget/p95"] for end in ("", "_floor"))
    return HeadlineRow(label, "", [*cells, Cell(number(own), number(floor))], emphasis=not prefix)


def _accuracy(metrics: Mapping[str, float], name: str) -> Cell:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    interval = "" if low is None or high is None else f"{100 * low:.1f}–{100 * high:.1f}"
    return Cell(percent(metrics[name]), interval)
