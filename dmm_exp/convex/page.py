"""Tables and the page of a convex experiment: curves, rates, noise floors and spectra."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dmm_exp.console.tables import print_table, text_table
from dmm_exp.files.reading import Json
from dmm_exp.report.charts import Axis, Chart, Mark, Panel, band, dots, line, log_range
from dmm_exp.report.html import Page, Section, write_sections
from dmm_exp.report.palette import varied

LABELS = {
    "gd": "GD on R",
    "sgd": "SGD on R",
    "ascent_descent": "ascent–descent",
    "om": "OM",
    "om_stochastic": "stochastic OM",
    "dmm_exact": "DMM, exact influence",
    "dmm_pool": "DMM, pool",
}
ROLES = {method: f"series{place}" for method, place in zip(LABELS, (2, 1, 4, 3, 5, 6, 0), strict=True)}
LEAST = 1e-13  # smaller values are rounding errors and are drawn at this value
RULE = (
    "Every method starts at θ(S) and is measured against θ(S∖F), which is known exactly. Step sizes were chosen on "
    "other problems than those shown, the best constant one and the best decaying one of each method. Lines are "
    "medians over {seeds} problems, bands hold 80 % of them. A gradient is that of one example."
)


def write_page(
    folder: Path,
    title: str,
    command: str,
    seeds: int,
    table: pd.DataFrame,
    floors: pd.DataFrame,
    spectra: Mapping[str, Sequence[Json]],
    curves: pd.DataFrame,
) -> Path:
    """Write ``convex.html`` and the data of its figures, and return the path of the page."""
    charts = [
        _curves_chart(curves, "distance", "Distance to exact retraining", "relative distance"),
        _curves_chart(curves, "excess", "Retain loss above its minimum", "excess retain loss"),
        _schedules_chart(curves),
        _rates_chart(table),
        _floors_chart(floors),
        _spectra_chart(spectra),
    ]
    rows = {"distance": end_rows(table), "rates": rate_rows(table), "spectra": fact_rows(table)}
    sections = [
        Section(chart=chart, rows=rows.get(chart.name, []), words=1 + (chart.name == "rates")) for chart in charts
    ]
    facts = [("settings", table["setting"].nunique()), ("problems each", seeds), ("methods", len(LABELS))]
    shown = Page(title, command, facts, sections, story=[RULE.format(seeds=seeds)])
    return write_sections(shown, folder / "convex.html")


def print_convex(table: pd.DataFrame) -> None:
    """Print the distance at the end of every method in every setting."""
    print_table(text_table("Distance at the end (best constant step)", end_rows(table)))


def end_rows(table: pd.DataFrame) -> list[list[str]]:
    """Return the median distance at the end, a row for each setting and a column for each method; the header first."""
    wide = _constant(table).pivot(index="setting", columns="method", values="distance")
    return [["", *LABELS.values()]] + [
        [name, *(_number(wide.loc[name, method]) for method in LABELS)] for name in table["setting"].unique()
    ]


def rate_rows(table: pd.DataFrame) -> list[list[str]]:
    """Return measured and predicted rates of one step, if theory predicts them; the header first."""
    known = _constant(table).dropna(subset=["rate_predicted", "rate_measured"])
    rows = []
    for row in known.to_dict("records"):
        predicted, measured = row["rate_predicted"], row["rate_measured"]
        faster = np.log(measured) / np.log(predicted)
        rows.append([row["setting"], LABELS[row["method"]], f"{predicted:.6f}", f"{measured:.6f}", f"{faster:.3f}"])
    return [["", "method", "predicted factor", "measured factor", "measured ÷ predicted speed"], *rows]


def fact_rows(table: pd.DataFrame) -> list[list[str]]:
    """Return the quantities that theory uses, for every setting; the header first."""
    names = {
        "condition_retain": "κ of the retain loss",
        "condition_matching": "κ⁺ of the matched points",
        "outside_span": "share of the error outside their span",
        "influence_error": "error of exact influence",
        "pool_error": "error of the pool's effects",
    }
    first = table.drop_duplicates("setting").set_index("setting")
    return [["", *names.values()]] + [
        [str(name), *(_number(first.loc[name, column]) for column in names)] for name in first.index
    ]


def _constant(table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[table["schedule"] == "constant", :]


def _number(value: float) -> str:
    return "diverged" if not np.isfinite(value) or value > 1e6 else f"{value:.2g}"


def _log(values: Any) -> np.ndarray:
    """Return base-10 logarithms; diverged values become NaN, and rounding errors :data:`LEAST`."""
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.where(np.isfinite(values), np.log10(np.clip(values, LEAST, 1e30)), np.nan)


def _curves_chart(curves: pd.DataFrame, quantity: str, title: str, label: str) -> Chart:
    constant = curves[(curves["schedule"] == "constant") & (curves["step"] > 0)]
    most = float(np.log10(constant["gradients"].max()))
    x = log_range("gradients of single examples", 1.0, most + 0.05)
    logs = _log(constant[quantity])
    low, high = max(float(np.nanmin(logs)), -13.2), min(float(np.nanquantile(logs, 0.995)), 1.2) + 0.2
    panels = [
        Panel(x, log_range(label, low - 0.2, high), list(_bands(group, quantity)), str(name))
        for name, group in constant.groupby("setting", sort=False)
    ]
    caption = (
        "Each panel is a setting, each method at its best constant step size. Lines end where the budget does. The "
        f"relative distance is ‖θ − θ(S∖F)‖ / ‖θ(S) − θ(S∖F)‖.{_leaving(panels)}"
    )
    return Chart(quantity, title, caption, panels, across=3, height=0.72)


def _leaving(panels: Sequence[Panel]) -> str:
    """Name the lines that are in part above their panels, and in which; nothing if there are none."""
    where: dict[str, list[str]] = {}
    for panel in panels:
        for mark in panel.marks:
            if mark.form == "line" and mark.y.max() > panel.y.high:
                where.setdefault(mark.label, []).append(panel.title)
    said = "; ".join(f"{label} in {', '.join(names)}" for label, names in where.items())
    return (
        f" Where a line leaves its panel at the top, its values are larger than the axis shows: {said}." if said else ""
    )


def _bands(group: Any, quantity: str) -> Iterator[Mark]:
    """Yield the median over seeds of every method, with a band of 80 % of them below."""
    lines = []
    for method, rows in group.groupby("method", sort=False):
        x, low, middle, top = _quantiles(rows, quantity)
        role = ROLES[str(method)]
        yield band(role, x, low, top)
        lines.append(line(role, x, middle, LABELS[str(method)]))
    yield from lines


def _quantiles(rows: Any, quantity: str) -> tuple[np.ndarray, ...]:
    """Return places across, and three quantiles over seeds; what diverged is far above every panel."""
    wide = rows.pivot(index="gradients", columns="seed", values=quantity)
    logs = np.nan_to_num(_log(wide), nan=30.0)
    low, middle, top = (np.quantile(logs, share, axis=1) for share in (0.1, 0.5, 0.9))
    return np.log10(wide.index.to_numpy(dtype=np.float64)), low, middle, top


def _schedules_chart(curves: pd.DataFrame) -> Chart:
    """Draw stochastic methods with both schedules, in the first setting."""
    name = curves["setting"].iloc[0]
    chosen = curves[(curves["setting"] == name) & (curves["step"] > 0)]
    marks, ends = [], []
    for method in ("sgd", "om_stochastic"):
        for schedule in ("constant", "decaying"):
            rows = chosen[(chosen["method"] == method) & (chosen["schedule"] == schedule)]
            x, low, middle, top = _quantiles(rows, "distance")
            role = ROLES[method] if schedule == "constant" else varied(ROLES[method])
            words = f"{LABELS[method]}, {schedule} step"
            marks += [band(role, x, low, top), line(role, x, middle, words)]
            ends.append(f"{words} {_number(10 ** middle[-1])}")
    x_axis = log_range("gradients of single examples", 1.0, max(mark.x.max() for mark in marks) + 0.05)
    y_axis = log_range("relative distance", -13.4, 2.2)
    caption = f"Setting {name}. Median distances at the end: {'; '.join(ends)}."
    return Chart("schedules", "Constant and decaying steps", caption, [Panel(x_axis, y_axis, marks)], height=0.6)


def _rates_chart(table: pd.DataFrame) -> Chart:
    """Draw measured against predicted speeds, −log of the factor of one step."""
    known = _constant(table).dropna(subset=["rate_predicted", "rate_measured"])
    known = known[(known["rate_predicted"] < 1) & (known["rate_measured"] < 1)]
    predicted, measured = (_log(-np.log(known[f"rate_{name}"])) for name in ("predicted", "measured"))
    ends = [min(predicted.min(), measured.min()) - 0.2, max(predicted.max(), measured.max()) + 0.2]
    marks = [line("guide", ends, ends, "as predicted")]
    for method in ("gd", "om", "om_stochastic"):
        own = (known["method"] == method).to_numpy()
        if own.any():
            marks.append(dots(ROLES[method], predicted[own], measured[own], LABELS[method]))
    axes = [log_range(f"{name} speed", *ends) for name in ("predicted", "measured")]
    caption = (
        "Each dot is a method in one setting; the speed is −ln of the factor by which a step shrinks the distance. "
        "Predictions are for the slowest direction: before it dominates, a method is faster and its dot lies above."
    )
    return Chart("rates", "Rates, measured and predicted", caption, [Panel(axes[0], axes[1], marks)], height=0.7)


def _floors_chart(floors: pd.DataFrame) -> Chart:
    panels = []
    for name, rows in floors.groupby("setting", sort=False):
        x = np.log10(rows["step"].to_numpy())
        low, high, measured = (_log(rows[column]) for column in ("low", "high", "measured"))
        marks = [
            band("guide", x, low, high, "between the bounds"),
            line("guide", x, low, "η tr C / 4b"),
            dots(ROLES["sgd"], x, measured, "SGD on R, measured"),
        ]
        everything = np.concatenate([low, high, measured])
        y = log_range("excess retain loss", float(everything.min()) - 0.2, float(everything.max()) + 0.2)
        panels.append(Panel(log_range("step η", x.min() - 0.1, x.max() + 0.1), y, marks, str(name)))
    caption = (
        "The mean excess retain loss of SGD with a constant step, started at the minimum itself. The bounds hold for "
        "the squared error; for the logistic loss the lower line is the prediction of first order."
    )
    return Chart("floors", "The noise floor of SGD", caption, panels, across=3, height=0.72)


def _spectra_chart(spectra: Mapping[str, Sequence[Json]]) -> Chart:
    words = {"error": "error θ(S) − θ(S∖F)", "gradient": "gradient of F's loss at θ(S)"}
    roles = {"error": "series2", "gradient": "series0"}
    lowest = min(min(row["eigenvalue"]) for rows in spectra.values() for row in rows)
    x = log_range("eigenvalue of H_R ÷ the largest", float(np.log10(lowest)) - 0.1, 0.05)
    y = Axis("share of the square at or below", 0, 1.03, [(0, "0"), (0.5, "50 %"), (1, "100 %")])
    panels = []
    for name, rows in spectra.items():
        marks = [line(roles[row["of"]], _log(row["eigenvalue"]), row["share"], words[row["of"]]) for row in rows]
        panels.append(Panel(x, y, marks, name))
    caption = (
        "Where the error lies that has to be undone; H_R is the Hessian of the retain loss. GD shrinks a part at "
        "relative eigenvalue v by about 1 − 2v a step at best. The error holds the parts of the gradient of F's loss "
        f"divided by their eigenvalues: {_halves(spectra)}."
    )
    return Chart("spectra", "Directions of the error", caption, panels, across=3, height=0.72)


def _halves(spectra: Mapping[str, Sequence[Json]]) -> str:
    """Say in how many settings half of the error lies further to the left than half of the gradient."""
    left = 0
    for rows in spectra.values():
        half = {row["of"]: np.interp(0.5, row["share"], np.log(row["eigenvalue"])) for row in rows}
        left += half["error"] < half["gradient"]
    return f"half of it lies further to the left than half of the gradient in {left} of {len(spectra)} settings"
