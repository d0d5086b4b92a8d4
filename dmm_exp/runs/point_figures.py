"""The figures of a run that show single points: histograms, memorization, and the extremes as pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from dmm_exp.report.charts import (
    Chart,
    Hover,
    Panel,
    Picture,
    axis,
    dots,
    histograms,
    line,
    thinned,
    written,
)
from dmm_exp.report.pictures import as_pictures, is_picture
from dmm_exp.runs.labels import GROUP_WORDS, KLOM, MARGIN, WORDS
from dmm_exp.runs.result import RunResult

SHOWN = 1_500  # of the points of a group in a scatter; more is a blob, and makes the page large
PIXELS = 1_200_000  # numbers in all pictures that a page can show beside points
EXTREMES = 6  # pictures of each kind


def _largest(rows: NDArray[Any], values: NDArray[np.float64]) -> NDArray[Any]:
    """Order rows by their values, the largest first."""
    return rows[np.argsort(-values[rows], kind="stable")]


def chosen_points(result: RunResult) -> list[tuple[str, int]]:
    """Choose points by rule, each with the reason; rows of ``points``, none twice.

    Extremes alone would hide how the method treats an ordinary point, and forget points alone what it does to others.
    """
    forget = result.known("klom")
    value = result.column("klom")
    if value is None:
        return []
    before, after = (result.column(f"margin_{role}") for role in ("original", "oracle"))
    memorization = result.column("memorization")
    ranked: list[tuple[str, NDArray[Any]]] = []
    if memorization is not None:
        known = result.known("memorization", "klom")
        ranked.append(("most memorized", _largest(known, memorization)))
    if before is not None and after is not None:
        ranked.append(("most changed by retraining", _largest(forget, np.abs(after - before))))
    ranked.append(("largest KLoM", _largest(forget, value)))
    for group, words in GROUP_WORDS.items():
        rows = result.known("klom", group=group)
        distance = np.abs(value[rows] - np.median(value[rows])) if len(rows) else value[rows]
        ranked.append((f"typical {words[:-1]}", rows[np.argsort(distance, kind="stable")]))
    chosen: dict[int, str] = {}
    for words, rows in ranked:
        fresh = next((int(row) for row in rows if int(row) not in chosen), None)
        if fresh is not None:
            chosen[fresh] = words
    return [(words, row) for row, words in chosen.items()]


def margin_histograms(result: RunResult) -> Chart | None:
    """Margins of the original, unlearned and oracle ensembles on single points."""
    roles = [role for role in ("oracle", "original", "unlearned") if role in result.margins]
    points = chosen_points(result)
    if not points or "unlearned" not in roles:
        return None
    panels = [_histograms(result, words, row, roles) for words, row in points]
    caption = (
        "Each panel is one point and counts models. Unlearning succeeds where the blue outline covers the green area. "
        "Points are chosen by rule; a typical point has the median KLoM of its group."
    )
    return Chart("margin_histograms", "Margins on single points", caption, panels, across=3, height=0.58)


def _histograms(result: RunResult, words: str, row: int, roles: Sequence[str]) -> Panel:
    """Overlay histograms on one range, the oracles filled because they are the target."""
    samples = {role: result.margins[role][:, row].astype(np.float64) for role in roles}
    panel = histograms(samples, WORDS, "oracle", MARGIN, "models")
    return replace(panel, title=words, note=_point_note(result, row), thumb=_thumb(result, row))


def _thumb(result: RunResult, row: int) -> NDArray[np.float32] | None:
    return as_pictures(result.images, np.array([row]))[0] if is_picture(result.images) else None


def _name(result: RunResult, row: int) -> str:
    """Name a point by its number and, where it is known, its class."""
    point = result.points.iloc[row]
    if "label" not in point:
        return f"#{int(point['point'])}"
    name = textwrap.shorten(result.class_name(int(point["label"])), 18, placeholder="…")
    return f"#{int(point['point'])} · {name}"


def _point_note(result: RunResult, row: int) -> str:
    """Name a point, with its KLoM and floor."""
    value, floor = result.column("klom"), result.column("klom_floor")
    numbers = "" if value is None else f" · KLoM {value[row]:.2f}"
    return _name(result, row) + numbers + ("" if floor is None else f" (floor {floor[row]:.2f})")


def klom_against_memorization(result: RunResult) -> Chart | None:
    """KLoM of single points against memorization; without such scores, against how much retraining changes them."""
    position, value, nothing = _position(result), result.column("klom"), result.column("klom_original")
    if position is None or value is None:
        return None
    name, label, title, at = position
    forget, others = (
        np.flatnonzero(np.isfinite(at + value) & (result.groups == group)) for group in ("forget", "retain")
    )
    if not len(forget):
        return None
    others = thinned(others, SHOWN)
    shown = np.concatenate([_largest(forget, value), others])
    marks = [dots("other", at[others], value[others], "retain points (this run)")] if len(others) else []
    marks += [dots("original", at[forget], nothing[forget], WORDS["original"])] if nothing is not None else []
    marks.append(dots("unlearned", at[forget], value[forget], WORDS["unlearned"]))
    before = None if nothing is None else nothing[forget]
    x = axis(label, at[shown])
    y = axis(KLOM, np.concatenate([mark.y for mark in marks]), zero=True)
    floor = result.known("klom_floor")
    if len(floor) and (column := result.column("klom_floor")) is not None:
        height = float(np.quantile(column[floor], 0.95))
        marks.append(line("floor", [x.low, x.high], [height, height], "P95 of the noise floor"))
    panel = Panel(x, y, marks, hover=_hover(result, shown, at, value))
    caption = (
        f"All {len(forget):,} forget points as the run left them and as they were before"
        + (f", and {len(others):,} retain points. " if len(others) else ". ")
        + "Memorization is how much more often models are right about a point when they were trained on it. "
        * (label == "memorization")
        + _correlations(at[forget], {"KLoM": value[forget], "KLoM of doing nothing": before})
    )
    return Chart(name, title, caption.strip(), [panel], height=0.62)


def _correlations(at: NDArray[np.float64], columns: Mapping[str, NDArray[np.float64] | None]) -> str:
    """Say how values of points go with their positions ``[n]``; nothing where one of the two is always the same."""
    said = []
    for words, values in columns.items():
        if values is not None and np.isfinite(values).all() and min(np.ptp(at), np.ptp(values)) > 0:
            said.append(f"{words}, ρ = {written(float(spearmanr(at, values)[0]), 2)}")  # type: ignore[arg-type]
    return f"Spearman's correlation over these forget points with {'; with '.join(said)}." if said else ""


def _position(result: RunResult) -> tuple[str, str, str, NDArray[np.float64]] | None:
    """Return where points lie across: name, label and title of the figure, and a number a point."""
    memorization = result.column("memorization")
    if memorization is not None:
        return "klom_against_memorization", "memorization", "KLoM against memorization", memorization
    before, after = (result.column(f"margin_{role}") for role in ("original", "oracle"))
    if before is None or after is None:
        return None
    label = "change of the margin by retraining (nats)"
    return "klom_against_change", label, "KLoM against the change that retraining makes", after - before


_FIELDS = {
    "klom": "KLoM", "klom_floor": "floor", "klom_original": "doing nothing", "memorization": "memorization",
    "margin_original": "margin, original", "margin_unlearned": "margin, unlearned", "margin_oracle": "margin, oracle",
    "ulira": "U-LiRA accuracy",
}  # fmt: skip


def _hover(result: RunResult, rows: NDArray[Any], x: NDArray[np.float64], y: NDArray[np.float64]) -> Hover:
    """Return what a page shows of points under the pointer."""
    fields: dict[str, Sequence[Any]] = {"group": [GROUP_WORDS[g][:-1] for g in result.groups[rows]]}
    fields |= {words: _rounded(result, column, rows) for column, words in _FIELDS.items() if column in result.points}
    corrupted = result.points.get("corrupted")
    if corrupted is not None and bool(np.asarray(corrupted).any()):
        fields["label"] = ["corrupted" if wrong else "as given" for wrong in np.asarray(corrupted)[rows]]
    pictures = None
    if is_picture(result.images):
        room = max(1, PIXELS // int(np.prod(result.images.shape[1:])))
        pictures = as_pictures(result.images, rows[:room])
    return Hover(x[rows], y[rows], _names(result, rows), fields, pictures)


def _names(result: RunResult, rows: NDArray[Any]) -> list[str]:
    """Name many points at once."""
    if "label" not in result.points:
        return [f"#{number}" for number in result.points["point"].to_numpy()[rows]]
    numbers, labels = (result.points[column].to_numpy()[rows] for column in ("point", "label"))
    return [f"#{number} · {result.class_name(int(label))}" for number, label in zip(numbers, labels, strict=True)]


def _rounded(result: RunResult, column: str, rows: NDArray[Any]) -> list[float | None]:
    values = result.column(column)
    assert values is not None
    return [value if value == value else None for value in np.round(values[rows], 3).tolist()]


def forgotten_images(result: RunResult) -> Chart | None:
    """The forget points with the highest and the lowest KLoM, as pictures, or as a table where inputs are none."""
    rows, value = result.known("klom"), result.column("klom")
    if value is None or not len(rows):
        return None
    ranked = _largest(rows, value)
    count = min(EXTREMES, len(ranked) // 2) or 1
    extremes = list(dict.fromkeys([*ranked[:count].tolist(), *ranked[-count:].tolist()]))
    title = "Least and most forgotten examples"
    caption = (
        f"Least forgotten are the {count} forget points with the largest KLoM, most forgotten the {count} with the "
        f"smallest. Margins are means over models: {' → '.join(_means(result))}; forgetting is complete where the last "
        "two agree."
    )
    if not is_picture(result.images):
        known = ["point", "class"] if "label" in result.points else ["point"]
        head = [*known, "KLoM", f"margin: {' → '.join(_means(result))}"]
        points = [_name(result, row).split(" · ", 1) for row in extremes]
        table = [
            [*point, f"{value[row]:.2f}", _margins(result, row)] for point, row in zip(points, extremes, strict=True)
        ]
        return Chart("forgotten_examples", title, caption, [], table=[head, *table])
    pictures = as_pictures(result.images, np.array(extremes))
    panels = []
    for place, (pixels, row) in enumerate(zip(pictures, extremes, strict=True)):
        group = "most forgotten" if place >= count else "least forgotten"
        panels.append(Picture(pixels, _name(result, row), _picture_lines(result, row, float(value[row])), group))
    return Chart("forgotten_examples", title, caption, panels, across=count)


def _picture_lines(result: RunResult, row: int, value: float) -> list[str]:
    wrong = ["label corrupted"] if result.points.iloc[row].to_dict().get("corrupted") is True else []
    return [line for line in (f"KLoM {value:.2f}", _margins(result, row), *wrong) if line]


def _margins(result: RunResult, row: int) -> str:
    """Return mean margins original → unlearned → oracle."""
    return " → ".join(written(values[row], 1) for values in _means(result).values())


def _means(result: RunResult) -> dict[str, NDArray[np.float64]]:
    """Return the mean margins of every point ``[points]`` by role, of those that are known."""
    columns = {role: result.column(f"margin_{role}") for role in ("original", "unlearned", "oracle")}
    return {role: values for role, values in columns.items() if values is not None}
