"""What a figure shows, before it is drawn: panels of marks with the axes around them.

A chart is drawn from one description by ``svg`` in pages, where it follows the reader's colours and screen, and by
``canvas`` in files. Colours, line styles and shapes belong to *roles*, so whatever has one looks the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmm_exp.report.palette import is_dashed

Ticks = Sequence[tuple[float, str]]
MANY = 300  # dots
LOG = ", log scale"  # what the label of a logarithmic axis ends in
_FORMS = {"area": 0, "line": 1, "dots": 3}  # the order in which marks are drawn; dashed lines are 2
WIDTHS = {1: 480, 2: 400, 3: 312}  # of a panel on a page in units of about a pixel, by how many make a row


def letters(across: int) -> int:
    """Return how many letters fit beside one another in a panel, when so many panels make a row."""
    return int((WIDTHS[across] - 24) / 6)


@dataclass(frozen=True)
class Mark:
    """Something drawn on a panel.

    Attributes:
        role: whose it is (``unlearned``, ``oracle`` ...); decides colour, line style and shape.
        form: a line through all points, the area below that line, or a dot at each point.
        x: positions ``[n]``, in units of the axis.
        y: positions ``[n]``.
        label: what the legend calls it; "" leaves it out.
        ends: intervals ``[2, n]`` (low, high) through dots, or None.
        across: whether the intervals lie along x rather than along y.
        notes: a word beside each dot, or nothing; "" for none.
        large: whether dots are large, as few of them should be.
    """

    role: str
    form: Literal["line", "area", "dots"]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    label: str = ""
    ends: NDArray[np.float64] | None = None
    across: bool = False
    notes: Sequence[str] = ()
    large: bool = False

    @property
    def small(self) -> bool:
        """Whether there are so many dots that only small round ones can be told apart."""
        return len(self.x) > MANY


@dataclass(frozen=True)
class Axis:
    """One axis, always linear: what is drawn on another scale is transformed before, and its ticks and label name it.

    With ``inside`` the words of its ticks stand within the panel, above their lines: there is room for long ones.
    ``fine`` are places of small ticks without words.
    """

    label: str
    low: float
    high: float
    ticks: Ticks
    inside: bool = False
    fine: Sequence[float] = ()


@dataclass(frozen=True)
class Hover:
    """What a page shows of the dot nearest to a pointer; files do not show it.

    Attributes:
        x: of the dots ``[n]``.
        y: of the dots ``[n]``.
        titles: the first line, a dot each.
        fields: name → a text, a number or None (unknown) for each dot.
        pictures: ``[m, height, width]`` or ``[m, height, width, 3]`` in [0, 1], of the first ``m`` dots.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    titles: Sequence[str]
    fields: Mapping[str, Sequence[Any]]
    pictures: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes with its marks.

    Attributes:
        x: across.
        y: upwards.
        marks: what is drawn; areas lie below lines, and dashed lines above whole ones, so that both are seen where
            they coincide.
        title: of the panel.
        note: below the title.
        hover: what a page shows under a pointer.
        thumb: a small picture that a page puts beside the title.
        samples: by role, the values ``[n]`` that histograms count; empty where there are none. See :func:`rebinned`.
    """

    x: Axis
    y: Axis
    marks: Sequence[Mark]
    title: str = ""
    note: str = ""
    hover: Hover | None = None
    thumb: NDArray[np.float32] | None = None
    samples: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def layers(self) -> list[Mark]:
        """Return the marks in the order in which they are drawn."""
        return sorted(self.marks, key=lambda mark: _FORMS[mark.form] + is_dashed(mark.role) * (mark.form == "line"))


@dataclass(frozen=True)
class Picture:
    """An image ``[height, width]`` or ``[height, width, 3]`` in [0, 1], with a title and lines below it.

    Pictures of one ``group`` follow one another, below its name.
    """

    pixels: NDArray[np.float32]
    title: str
    lines: Sequence[str]
    group: str


@dataclass(frozen=True)
class Chart:
    """A figure with the words around it.

    Attributes:
        name: of its files, and of its place on a page.
        title: its heading.
        caption: how to read it.
        panels: what it shows.
        across: how many panels or pictures make a row where there is room.
        height: of a panel over its width.
        table: rows of a small table below it on a page, the head first.
    """

    name: str
    title: str
    caption: str
    panels: Sequence[Panel | Picture]
    across: int = 1
    height: float = 0.6
    table: Sequence[Sequence[str]] = field(default_factory=list)

    @property
    def legend(self) -> list[Mark]:
        """Return the first mark of every label, in order of appearance."""
        first: dict[str, Mark] = {}
        for mark in (mark for panel in self.panels if isinstance(panel, Panel) for mark in panel.marks if mark.label):
            first.setdefault(mark.label, mark)
        return list(first.values())

    @property
    def has_hover(self) -> bool:
        """Whether a page shows facts of a dot when one points at it."""
        return any(isinstance(panel, Panel) and panel.hover is not None for panel in self.panels)


def floats(values: ArrayLike) -> NDArray[np.float64]:
    """Return values as float64 ``[n]``."""
    return np.atleast_1d(np.asarray(values, dtype=np.float64))


def line(role: str, x: ArrayLike, y: ArrayLike, label: str = "", **more: Any) -> Mark:
    """Return a line through points."""
    return Mark(role, "line", floats(x), floats(y), label, **more)


def dots(role: str, x: ArrayLike, y: ArrayLike, label: str = "", **more: Any) -> Mark:
    """Return a dot at each point."""
    return Mark(role, "dots", floats(x), floats(y), label, **more)


def band(role: str, x: NDArray[Any], low: NDArray[Any], high: NDArray[Any], label: str = "") -> Mark:
    """Return the area between two lines over the same positions."""
    return Mark(role, "area", np.concatenate([x, x[::-1]]), np.concatenate([low, high[::-1]]), label)


def steps(role: str, edges: NDArray[Any], counts: NDArray[Any], label: str = "", *, filled: bool = False) -> Mark:
    """Return the outline of a histogram, or its area, from its first to its last bin that is not empty."""
    filled_bins = np.flatnonzero(counts)
    first, last = (filled_bins[0], filled_bins[-1] + 1) if len(filled_bins) else (0, 0)
    x, y = np.repeat(edges[first : last + 1], 2), np.concatenate([[0], np.repeat(counts[first:last], 2), [0]])
    return Mark(role, "area" if filled else "line", floats(x), floats(y), label)


def histograms(
    samples: Mapping[str, NDArray[Any]], words: Mapping[str, str], filled: str, label: str, counted: str, bins: int = 30
) -> Panel:
    """Overlay histograms of finite values on one range.

    Args:
        samples: by role, values ``[n]``.
        words: what the legend calls a role.
        filled: the role that is drawn as an area, being the target.
        label: of the values, with their unit.
        counted: what is counted.
        bins: how many.
    """
    finite = {role: sample[np.isfinite(sample)] for role, sample in samples.items()}
    x = axis(label, np.concatenate(list(finite.values())), count=4)
    edges = np.linspace(x.low, x.high, bins + 1)
    counts = {role: np.histogram(sample, edges)[0] for role, sample in finite.items()}
    marks = [steps(role, edges, found, words[role], filled=role == filled) for role, found in counts.items()]
    top = max(1.0, *(float(found.max()) for found in counts.values()))
    ticks = whole_ticks(0, 1.06 * top, 3)
    return Panel(x, Axis(counted, 0, 1.06 * top, ticks), marks, samples=samples)


def rebinned(panel: Panel, bins: int) -> Panel:
    """Draw a panel of histograms again with another number of bins; one without samples stays as it is."""
    if not panel.samples:
        return panel
    words = {mark.role: mark.label for mark in panel.marks}
    filled = next((mark.role for mark in panel.marks if mark.form == "area"), "")
    again = histograms(panel.samples, words, filled, panel.x.label, panel.y.label, bins)
    return replace(panel, x=again.x, y=again.y, marks=again.marks)


def axis(label: str, values: ArrayLike, *, zero: bool = False, count: int = 5, room: float = 0.04) -> Axis:
    """Return an axis with round ticks that holds all finite values, from 0 if ``zero``, with a little room around."""
    found = floats(values)
    found = found[np.isfinite(found)]
    low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 1.0)
    low = min(low, 0.0) if zero else low
    pad = room * (high - low) or max(0.5 * abs(high), 0.5)
    low, high = (0.0 if zero and low == 0 else low - pad), high + pad
    return Axis(label, low, high, round_ticks(low, high, count))


def round_ticks(low: float, high: float, count: int = 5) -> Ticks:
    """Return about ``count`` round numbers between two ends, as they are written."""
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    values = [step * k for k in range(first, math.floor(high / step + 1e-9) + 1)]
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) + (round(step / unit, 1) == 2.5)
    return [(value, written(value, digits)) for value in values]


def whole_ticks(low: float, high: float, count: int = 5) -> Ticks:
    """Return about ``count`` whole numbers between two ends, as they are written."""
    return [(value, written(value, 0)) for value, _ in round_ticks(low, high, count) if float(value).is_integer()]


def written(value: float, digits: int) -> str:
    """Write a number with a real minus sign, and without one on zero."""
    return f"{value + 0.0:.{digits}f}".replace("-", "−") if round(value, digits) else f"{0:.{digits}f}"


def log_axis(label: str, logs: ArrayLike, *, room: float = 0.04) -> Axis:
    """Return an axis that holds all finite base-10 logarithms, with a little room around; its label says what it is."""
    found = axis(label, logs, room=room)
    return log_range(label, found.low, found.high)


def log_range(label: str, low: float, high: float) -> Axis:
    """Return an axis for base-10 logarithms between two ends, with small ticks within decades; its label says so."""
    return Axis(f"{label}{LOG}", low, high, decades(low, high), fine=within_decades(low, high))


def within_decades(low: float, high: float) -> list[float]:
    """Return where 2, 3 … 9 times a power of ten lie between two ends; of many decades, nothing."""
    if high - low > 6:
        return []
    powers = range(math.floor(low), math.ceil(high) + 1)
    values = [power + math.log10(factor) for power in powers for factor in range(2, 10)]
    return [at for at in values if low <= at <= high]


def decades(low: float, high: float) -> Ticks:
    """Return ticks for base-10 logarithms between two ends: whole powers, thinned if they are many.

    Where there are three or fewer, which is so below two decades, there are some between.
    """
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        values = [(math.log10(factor) + power, factor, power) for power in powers for factor in factors]
        found = [value for value in values if low - 1e-9 <= value[0] <= high + 1e-9]
        if len(found) > 3:
            return _powers(found[:: max(1, -(-len(found) // 6))])
    return [(math.log10(value), word) for value, word in round_ticks(10**low, 10**high) if value > 0]


def _powers(found: Sequence[tuple[float, float, int]]) -> Ticks:
    """Write places with their factors and powers of ten, all in one way: ``0.001``, or ``1e-7`` if one needs that."""
    plain = [(at, f"{factor * 10.0**power:g}") for at, factor, power in found]
    if any("e" in word for _, word in plain):
        return [(at, f"{factor:g}e{power}") for at, factor, power in found]
    return plain


def log10(values: ArrayLike) -> NDArray[np.float64]:
    """Return base-10 logarithms ``[n]``; NaN for what has none."""
    found = floats(values)
    return np.log10(found, out=np.full(found.shape, np.nan), where=found > 0)


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its interval, NaN where there is none, in a row that it belongs to."""

    row: str
    mean: float
    low: float
    high: float


def interval_chart(
    name: str,
    title: str,
    caption: str,
    panels: Mapping[str, Mapping[str, Sequence[Interval]]],
    roles: Mapping[str, str] | None = None,
) -> Chart:
    """Lay intervals out below one another: a line a row, in it a mark with its interval for each series.

    Args:
        name: of the figure.
        title: its heading.
        caption: how to read it.
        panels: by the label of the axis across, the intervals of each series by its name.
        roles: by the name of a series, its role; by default they are numbered in order of appearance.
    """
    parts = [part for by_series in panels.values() for part in by_series.items()]
    names, rows = list(dict(parts)), list(dict.fromkeys(one.row for _, found in parts for one in found))
    fitting = [count for count in (3, 2) if count <= len(panels) and max(map(len, rows)) <= letters(count)]
    across = fitting[0] if fitting else 1
    height = (60 + len(rows) * (26 + 12 * len(names))) / WIDTHS[across]
    ticks = [(len(rows) - 1 - place, row) for place, row in enumerate(rows)]
    y = Axis("", -0.6, len(rows) - 0.3, ticks, inside=True)
    looks = roles or {name: f"series{place}" for place, name in enumerate(names)}
    shown = [
        _intervals(label, by_series, rows, {name: looks[name] for name in names}, y)
        for label, by_series in panels.items()
    ]
    return Chart(name, title, caption, shown, across=across, height=height)


def _intervals(
    label: str, series: Mapping[str, Sequence[Interval]], rows: Sequence[str], roles: Mapping[str, str], y: Axis
) -> Panel:
    marks = []
    for place, (name, role) in enumerate(roles.items()):
        found = series.get(name, ())
        heights = [len(rows) - 1 - rows.index(one.row) - 0.5 * place / len(roles) for one in found]
        ends = np.array([[one.low for one in found], [one.high for one in found]])
        means = [one.mean for one in found]
        words = name if len(roles) > 1 else ""
        marks.append(dots(role, means, heights, words, ends=ends, across=True))
    everything = np.concatenate([part for mark in marks for part in (mark.x, *mark.ends)])
    return Panel(axis(label, everything, count=4), y, marks)


def thinned(rows: NDArray[Any], most: int) -> NDArray[Any]:
    """Keep an evenly spaced selection of at most ``most``."""
    return rows[:: max(1, -(-len(rows) // most))]
