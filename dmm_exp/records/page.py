"""The page of a deletion: ``report.html``, from its record and the table of its points alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmm_exp.console.progress import duration
from dmm_exp.console.tables import Cell, HeadlineData, HeadlineRow
from dmm_exp.console.words import number, percent, signed
from dmm_exp.files.reading import Json
from dmm_exp.records import words
from dmm_exp.records.about import WORDS as SAID
from dmm_exp.records.comparison import distances_of
from dmm_exp.records.words import Record
from dmm_exp.report.charts import Axis, Chart, Hover, Mark, Panel, axis, dots, histograms, line, thinned, whole_ticks
from dmm_exp.report.html import Tile, page

SHOWN = 100  # deleted rows in the figure
FEW = 25  # deleted rows, up to which each has an interval of its own
MARGIN = "margin (nats)"
ROLES = {"given": "original", "unlearned": "unlearned", "predicted": "series1", "retrained": "oracle"}
WORDS = {
    "given": "network as given",
    "unlearned": "unlearned network",
    "predicted": "predicted for retraining",
    "retrained": "retrained networks",
}
LABELS = {**WORDS, "predicted": "prediction"}


def render(record: Record, points: pd.DataFrame) -> str:
    """Return the page as text.

    Args:
        record: content of ``deletion.json``; see :mod:`dmm_exp.records.record`.
        points: see :func:`dmm_exp.deletion.quality.Change.table`.
    """
    return page(
        Path(__file__).with_name("page.html.j2"),
        record=record,
        headline=words.headline(record),
        facts=_facts(record),
        tiles=_tiles(record),
        charts=[_rows_chart(points), _groups_chart(points)],
        answers=_answers(record, points),
        klom=_klom(record),
        cost=words.cost(record),
        measured=_measured(record["quality"]),
        record_ids=[(entry["id"], entry["row"]) for entry in record["request"]["record_ids"] or ()],
        text=json.dumps({k: record[k] for k in ("removed", "method", "network", "versions")}, indent=1),
    )


def _measured(quality: Json) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return all metrics as texts, under what they are about."""
    about = {"metrics": "Metrics of this network", "verification": "Metrics of networks trained by the recipe"}
    found = {words: sorted(quality[name].items()) for name, words in about.items() if quality[name]}
    return [(words, [(name, signed(value, ".6g")) for name, value in rows]) for words, rows in found.items()]


def _facts(record: Record) -> list[tuple[str, str]]:
    removed, method = record["removed"], record["method"]
    facts = [(SAID[name], record["request"][name]) for name in SAID if record["request"][name]]
    facts += [("method", method["name"]), ("when", record["when"]), ("network", record["network"]["type"])]
    facts += [("seed", str(method["seed"])), ("classes", f"{removed['of']['classes']:,}")]
    facts += [("rows as read", removed["read"])] if removed["read"] else []
    return [*facts, ("unseen points", f"{removed['of']['unseen']:,}")]


def _tiles(record: Record) -> list[Tile]:
    """Return the few numbers that stand for the deletion; those that do not apply are absent."""
    metrics, cost = record["quality"]["metrics"], record["cost"]
    tiles = _verified_tiles(record) if record["quality"]["verified"] else [_unverified_tile(metrics)]
    before, after = (metrics.get(f"accuracy/{name}/val") for name in ("given", "unlearned"))
    if before is not None and after is not None:
        tiles.append(Tile(percent(after), "accuracy on unseen points", f"before: {percent(before)}"))
    shares = [] if cost["ratio"] is None else [f"{percent(cost['ratio'])} of the gradients of a retraining"]
    shares += [] if cost["retraining"] is None else [f"retraining: {duration(cost['retraining'])}"]
    return [*tiles, Tile(duration(cost["seconds"]), "to unlearn", "; ".join(shares))]


def _verified_tiles(record: Record) -> list[Tile]:
    klom, found = record["quality"]["klom_p95"]["forget"], distances_of(record["quality"]["verification"], "forget")
    ends = f"{number(found['others_low'])} to {number(found['others_high'])}"
    note = f"other retrained networks: {ends}, before: {number(found['given'])}"
    distance = Tile(number(found["unlearned"]), "distance from retrained networks on deleted rows", note)
    note = f"other retrained networks: {number(klom['floor'])}, doing nothing: {number(klom['doing_nothing'])}"
    return [distance, Tile(number(klom["value"]), "KLoM P95 on deleted rows, nats", note)]


def _unverified_tile(metrics: Mapping[str, float | None]) -> Tile:
    share = metrics.get("matched/forget")
    if share is not None:
        label = "of the way to the predicted answers on deleted rows"
        return Tile(percent(max(share, 0.0)), label, "doing nothing: 0 %; not verified by retraining")
    before, after = (signed(metrics[f"margin/{name}/forget"]) for name in ("given", "unlearned"))
    return Tile(after, "mean margin on deleted rows, nats", f"before: {before}; not verified by retraining")


# ---------------------------------------------------------------------- tables


def _answers(record: Record, points: pd.DataFrame) -> HeadlineData:
    """Return accuracy and mean margin of every network, by group of points."""
    groups = [group for group in words.NAMES if len(_of(points, group))]
    columns = [Cell(what, words.NAMES[group]) for what in ("accuracy", "margin") for group in groups]
    rows = []
    for name in _known(points):
        right = [_accuracy(record["quality"], name, group) for group in groups]
        sure = [signed(_margins(_of(points, group), name).mean()) for group in groups]
        label = f"{record['quality']['retrained_networks']} {WORDS[name]}" if name == "retrained" else WORDS[name]
        rows.append(HeadlineRow(label, "", [Cell(text) for text in [*right, *sure]], name == "unlearned"))
    return HeadlineData(columns, rows)


def _accuracy(quality: Json, name: str, group: str) -> str:
    if name == "retrained":
        value = quality["verification"].get(f"accuracy/oracle/{group}")
    else:
        value = quality["metrics"].get(f"accuracy/{name}/{group}")
    return number(value, ".1%").replace("%", " %")


def _klom(record: Record) -> HeadlineData | None:
    """Return KLoM next to both ends of its scale, None if nothing was retrained."""
    found = record["quality"]["klom_p95"]
    if found is None:
        return None
    groups = [group for group in words.NAMES if found[group]["value"] is not None]
    rows = [
        HeadlineRow("other retrained networks", "the floor", [Cell(number(found[g]["floor"])) for g in groups]),
        HeadlineRow("networks left alone", "doing nothing", [Cell(number(found[g]["doing_nothing"])) for g in groups]),
        HeadlineRow(f"unlearned by {record['method']['name']}", "", [_interval(found[g]) for g in groups], True),
    ]
    return HeadlineData([Cell("KLoM P95", words.NAMES[group]) for group in groups], rows)


def _interval(klom: Mapping[str, float | None]) -> Cell:
    low, high = klom["low"], klom["high"]
    return Cell(number(klom["value"]), "" if low is None or high is None else f"{number(low)} to {number(high)}")


# ---------------------------------------------------------------------- figures


def _known(points: pd.DataFrame) -> list[str]:
    """Return the networks whose margins are in the table."""
    return [name for name in ROLES if f"margin_{name}" in points]


def _of(points: pd.DataFrame, group: str) -> pd.DataFrame:
    return points.loc[points["group"] == group, :]


def _margins(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    return rows[f"margin_{name}"].to_numpy(np.float64)


def _rows_chart(points: pd.DataFrame) -> Chart:
    """Draw deleted rows before and after, next to the goal, sorted by the best known estimate of it."""
    known, forget = _known(points), _of(points, "forget")
    goal = known[-1] if len(known) > 2 else "given"
    order = np.argsort(_margins(forget, goal), kind="stable")
    rows = forget.iloc[thinned(order, SHOWN)]
    margins = {name: _margins(rows, name) for name in known}
    x = np.arange(len(rows), dtype=np.float64)
    marks = [
        line("guide", [at, at], [a, b]) for at, a, b in zip(x, margins["given"], margins["unlearned"], strict=True)
    ]
    marks += _retrained(x, rows) if "retrained" in known else []
    for name in ("predicted", "given", "unlearned"):
        if name in known:
            marks.append(dots(ROLES[name], x, margins[name], WORDS[name]))
    heights = np.concatenate([mark.y if mark.ends is None else mark.ends.ravel() for mark in marks])
    across = Axis(f"deleted rows, by margin of the {LABELS[goal]}", -1, len(rows), whole_ticks(0, len(rows)))
    panel = Panel(across, axis(MARGIN, heights), marks, hover=_hover(x, margins, rows))
    caption = (
        "The margin is the log-odds of the true class: the more certain a network is of a row's label, the higher. A "
        "grey line joins before and after."
    )
    if "retrained" in known:
        caption += " Green: mean ± 1 standard deviation of networks retrained without the rows, which is the goal."
    if len(rows) < len(forget):
        caption += f" {len(rows)} of {len(forget):,} rows are shown, evenly spaced in this order."
    return Chart("deleted_rows", "What became of the deleted rows", caption, [panel], height=0.62)


def _retrained(x: NDArray[np.float64], rows: pd.DataFrame) -> list[Mark]:
    """Return mean ± 1 standard deviation of retrained networks: an interval each for few rows, a band for many."""
    mean, spread = (_margins(rows, name) for name in ("retrained", "retrained_std"))
    ends = np.stack([mean - spread, mean + spread])
    label = f"{WORDS['retrained']} (mean ± 1 sd)"
    if len(rows) <= FEW:
        return [dots(ROLES["retrained"], x, mean, label, ends=ends)]
    band = np.concatenate([ends[0], ends[1][::-1]])
    area = Mark(ROLES["retrained"], "area", np.concatenate([x, x[::-1]]), band, label)
    return [area, line(ROLES["retrained"], x, mean)]


def _hover(x: NDArray[np.float64], margins: Mapping[str, NDArray[np.float64]], rows: pd.DataFrame) -> Hover:
    numbers, names = rows["point"], rows["class_name"]
    titles = [f"row {number:,} · {name}" for number, name in zip(numbers, names, strict=True)]
    shown: dict[str, Sequence[Any]] = {WORDS[name]: _rounded(values) for name, values in margins.items()}
    if "margin_retrained_std" in rows:
        shown["± 1 sd"] = _rounded(_margins(rows, "retrained_std"))
    known = np.isfinite(margins["unlearned"])
    return Hover(x, np.where(known, margins["unlearned"], margins["given"]), titles, shown)


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    return [round(float(value), 3) if np.isfinite(value) else None for value in values]


def _groups_chart(points: pd.DataFrame) -> Chart:
    """Draw how margins are distributed over the points of every group, before and after, and at the goal."""
    known = _known(points)
    goal = known[-1] if len(known) > 2 else ""
    shown = [name for name in (goal, "given", "unlearned") if name]
    panels = []
    for group, name in words.NAMES.items():
        rows = _of(points, group)
        if len(rows):
            samples = {ROLES[which]: _margins(rows, which) for which in shown}
            legend = {ROLES[which]: WORDS[which] for which in shown} | {ROLES["retrained"]: "retrained networks (mean)"}
            bins = min(30, max(8, 2 * math.isqrt(len(rows))))
            panel = histograms(samples, legend, ROLES.get(goal, ""), MARGIN, "points", bins)
            panels.append(Panel(panel.x, panel.y, panel.marks, f"{name} (n = {len(rows):,})"))
    caption = (
        "How many points have which margin. The deleted rows should move to where retraining leaves them; kept rows "
        "and unseen points should stay."
    )
    return Chart("margins", "Margins before and after", caption, panels, across=3, height=0.62)
