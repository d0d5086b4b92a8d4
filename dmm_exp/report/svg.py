"""Charts as SVG inside a page: colours come from its style sheet, so that they follow light, dark and paper."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from dmm_exp.files.reading import Json
from dmm_exp.report.charts import WIDTHS, Axis, Chart, Hover, Mark, Panel, Picture, letters
from dmm_exp.report.palette import PATHS, colour_of, dashes, is_hollow, marker
from dmm_exp.report.pictures import data_uri, png_of, sheet

LEFT, RIGHT, TOP, BOTTOM = 46, 12, 8, 42  # room around the axes
SHORT = 26  # width of a sample in a legend


@dataclass(frozen=True)
class Frame:
    """Where a panel's axes are on its drawing, in units of the drawing."""

    panel: Panel
    width: float
    height: float
    left: float

    @property
    def inner(self) -> tuple[float, float]:
        """Width and height between the axes."""
        return self.width - self.left - RIGHT, self.height - TOP - BOTTOM

    def across(self, x: Any) -> NDArray[np.float64]:
        """Return where positions lie, from the left axis."""
        return self.inner[0] * _share(self.panel.x, x)

    def down(self, y: Any) -> NDArray[np.float64]:
        """Return where positions lie, from the top."""
        return self.inner[1] * (1 - _share(self.panel.y, y))


def _share(axis: Axis, values: Any) -> NDArray[np.float64]:
    return (np.asarray(values, dtype=np.float64) - axis.low) / (axis.high - axis.low)


def drawing(chart: Chart, panel: Panel) -> Markup:
    """Return one panel as an ``<svg>``, followed by what its dots tell, if they tell something."""
    frame = _frame(chart, panel)
    inner_width, inner_height = frame.inner
    words = _attribute(f"{panel.title or chart.title}: {panel.y.label or 'groups'} against {panel.x.label}")
    body = [
        f'<svg class="plot" viewBox="0 0 {frame.width:g} {frame.height:g}" role="img" aria-label="{words}">',
        *_axes(frame),
        f'<svg x="{frame.left:g}" y="{TOP}" width="{inner_width:g}" height="{inner_height:g}">',
        *(piece for mark in panel.layers for piece in _mark(frame, mark)),
        "</svg>",
        *(piece for mark in panel.marks for piece in _notes(frame, mark)),
        "</svg>",
    ]
    return Markup("".join(body) + (_hover_data(frame, panel.hover) if panel.hover else ""))


def _frame(chart: Chart, panel: Panel) -> Frame:
    """Size a drawing, with room on the left for the longest word there."""
    width = WIDTHS[chart.across]
    longest = 0 if panel.y.inside else max((len(word) for _, word in panel.y.ticks), default=0)
    letter = 9 if chart.across == 1 else 7.2  # on a phone a wide drawing shrinks, and its letters grow
    left = max(RIGHT if panel.y.inside else LEFT, letter * longest + 12 + 18 * bool(panel.y.label))
    return Frame(panel, width, round(chart.height * width), left)


def _axes(frame: Frame) -> Iterable[str]:
    """Yield grid lines, ticks and labels of both axes."""
    panel, (width, height) = frame.panel, frame.inner
    left, bottom = frame.left, TOP + height
    for value, word in panel.y.ticks:
        y = TOP + float(frame.down(value))
        yield f'<path class="grid" d="M{left:g} {y:.1f}h{width:g}"/>'
        if panel.y.inside:
            words = textwrap.shorten(word, letters(1), placeholder="…")
            yield f'<text class="inside" x="{left:g}" y="{y - 9:.1f}">{_text(words)}</text>'
        else:
            yield f'<text x="{left - 7:g}" y="{y + 4:.1f}" text-anchor="end">{_text(word)}</text>'
    for value, word in panel.x.ticks:
        x = left + float(frame.across(value))
        yield f'<path class="tick" d="M{x:.1f} {bottom:g}v5"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 18:g}" text-anchor="middle">{_text(word)}</text>'
    fine = "".join(f"M{left + at:.1f} {bottom:g}v3" for at in map(float, frame.across(panel.x.fine)))
    fine += "".join(f"M{left:g} {TOP + at:.1f}h-3" for at in map(float, frame.down(panel.y.fine)))
    if fine:
        yield f'<path class="tick" d="{fine}"/>'
    yield f'<path class="axis" d="M{left:g} {bottom:g}h{width:g}"/>'
    middle = f'x="{left + width / 2:.1f}" y="{frame.height - 5:g}"'
    yield f'<text class="name" {middle} text-anchor="middle">{_text(panel.x.label)}</text>'
    if panel.y.label:
        turned = f'transform="translate(13 {TOP + height / 2:.1f}) rotate(-90)"'
        yield f'<text class="name" {turned} text-anchor="middle">{_text(panel.y.label)}</text>'


def _mark(frame: Frame, mark: Mark) -> Iterable[str]:
    """Yield the paths of a mark, in units of the drawing from the corner of the axes."""
    x, y = frame.across(mark.x), frame.down(mark.y)
    known = np.isfinite(x) & np.isfinite(y)
    if mark.ends is not None:
        yield f'<path class="ends {colour_of(mark.role)}" d="{_whiskers(frame, mark, x, y)}"/>'
    if mark.form == "dots":
        yield _dots(mark, x[known], y[known])
        return
    path = "M" + "L".join(f"{_n(a)} {_n(b)}" for a, b in zip(x[known], y[known], strict=True))
    if mark.form == "area":
        yield f'<path class="area {colour_of(mark.role)}" d="{path}Z"/>'
    else:
        yield _line(mark.role, path)


def _line(role: str, path: str) -> str:
    """Return a line in the colour and with the dashes of its role."""
    lengths = " ".join(_n(1.6 * length) for length in dashes(role))
    gaps = f' stroke-dasharray="{lengths}"' if lengths else ""
    return f'<path class="line {colour_of(role)}"{gaps} d="{path}"/>'


def _dots(mark: Mark, x: Iterable[float], y: Iterable[float]) -> str:
    """Return dots as one path: a dozen bytes each, rather than an element each."""
    places, shape = [f"M{_n(a)} {_n(b)}" for a, b in zip(x, y, strict=True)], marker(mark.role)
    kind = "large" if mark.large else "small" if mark.small else "medium"
    if mark.small or (shape == "o" and not is_hollow(mark.role)):
        return f'<path class="dots {kind} {colour_of(mark.role)}" d="{"".join(f"{place}h0" for place in places)}"/>'
    hollow = "hollow " if is_hollow(mark.role) and not mark.large else ""
    outline = "".join(place + PATHS[shape] for place in places)
    return f'<path class="shapes {hollow}{kind} {colour_of(mark.role)}" d="{outline}"/>'


def _whiskers(frame: Frame, mark: Mark, x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    """Return intervals with a short bar at each end."""
    assert mark.ends is not None
    low, high = (frame.across(end) if mark.across else frame.down(end) for end in mark.ends)
    parts = [part for part in zip(low, high, y if mark.across else x, strict=True) if np.isfinite(part).all()]
    if mark.across:
        return "".join(f"M{_n(a)} {_n(c - 4)}v8M{_n(a)} {_n(c)}H{_n(b)}m0 -4v8" for a, b, c in parts)
    return "".join(f"M{_n(c - 4)} {_n(a)}h8M{_n(c)} {_n(a)}V{_n(b)}m-4 0h8" for a, b, c in parts)


def _notes(frame: Frame, mark: Mark) -> Iterable[str]:
    """Yield words beside dots, on the side where there is room."""
    for x, y, word in zip(frame.across(mark.x), frame.down(mark.y), mark.notes, strict=False):
        if word:
            right = x + 12 + 6.5 * len(word) < frame.inner[0]
            place = f'x="{frame.left + x + (9 if right else -9):.1f}" y="{TOP + y - 7:.1f}"'
            yield f'<text class="word" {place} text-anchor="{"start" if right else "end"}">{_text(word)}</text>'


def sample(mark: Mark) -> Markup:
    """Return a legend's sample of a mark."""
    if mark.form == "dots":
        inside = _dots(mark, [SHORT / 2], [6]).replace("dots small", "dots medium")
    elif mark.form == "area":
        inside = f'<path class="area {colour_of(mark.role)}" d="M1 1h{SHORT - 2}v10h-{SHORT - 2}z"/>'
    else:
        inside = _line(mark.role, f"M0 6h{SHORT}")
    return Markup(
        f'<svg class="sample" width="{SHORT}" height="12" viewBox="0 0 {SHORT} 12" aria-hidden="true">{inside}</svg>'
    )


def image(picture: Picture | NDArray[np.float32]) -> Markup:
    """Return a picture as an ``<img>`` that holds its pixels."""
    pixels, words = (picture.pixels, picture.title) if isinstance(picture, Picture) else (picture, "")
    height, width = pixels.shape[:2]
    source = data_uri(png_of(pixels))
    return Markup(f'<img class="pixels" width="{width}" height="{height}" alt="{_attribute(words)}" src="{source}">')


def _hover_data(frame: Frame, hover: Hover) -> str:
    """Return what the page shows of dots as data beside the drawing: no element a dot, and nothing is run."""
    data: Json = {
        "x": np.round(frame.left + frame.across(hover.x), 1).tolist(),
        "y": np.round(TOP + frame.down(hover.y), 1).tolist(),
        "titles": list(hover.titles),
        "fields": {name: list(values) for name, values in hover.fields.items()},
    }
    if hover.pictures is not None and len(hover.pictures):
        pixels, across = sheet(hover.pictures)
        count, height, width = hover.pictures.shape[:3]
        data["sheet"] = {"count": count, "across": across, "width": width, "height": height}
        data["sheet"] |= {"down": len(pixels) // height, "source": data_uri(png_of(pixels))}
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return f'<script type="application/json">{text.replace("<", chr(92) + "u003c")}</script>'


def _n(value: float) -> str:
    """Write a coordinate with a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def _text(words: str) -> str:
    return str(Markup.escape(words))


_attribute = _text
