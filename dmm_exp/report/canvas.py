"""The paper that figures are drawn on: one style, one palette, one way to render; nothing touches ``pyplot``."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dmm_exp.report.charts import Axis, Chart, Mark, Panel, Picture
from dmm_exp.report.palette import HOLLOW, LIGHT, LINES, marker

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 144  # one and a half times the 96 pixels an inch at which a page shows a figure
WIDTH = 10.0  # inches, of a full row of panels

# A person's own matplotlibrc (a dark style, TeX text) must not change the report.
STYLE: Any = {
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white",
    "text.color": "#1c1c1c", "axes.labelcolor": "#1c1c1c", "axes.edgecolor": "#7a7a7a",
    "xtick.color": "#3c3c3c", "ytick.color": "#3c3c3c",
    "font.family": ["DejaVu Sans"], "font.size": 10.5, "axes.titlesize": 10.5, "axes.labelsize": 10.5,
    "xtick.labelsize": 9.5, "ytick.labelsize": 9.5, "legend.fontsize": 10.5, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#e4e4e4", "grid.linewidth": 0.8, "text.usetex": False, "lines.linewidth": 2.0,
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A figure with the words around it; ``png`` is the picture as a page shows it."""

    name: str
    title: str
    caption: str
    figure: Figure
    png: bytes

    @property
    def width(self) -> int:
        """Width on a page in CSS pixels, chosen so that all figures' letters come out equally large."""
        return round(96 * self.figure.get_figwidth())

    def save(self, folder: Path) -> None:
        """Write ``<name>.png`` for pages, and ``<name>.pdf`` and ``<name>.svg`` for papers."""
        self.save_for_reading(folder)
        with style():  # `savefig` would draw twice
            FigureCanvasSVG(self.figure).print_svg(folder / f"{self.name}.svg", metadata={"Date": None})

    def save_for_reading(self, folder: Path) -> None:
        """Write ``<name>.png`` and ``<name>.pdf``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.png").write_bytes(self.png)
        with style():
            FigureCanvasPdf(self.figure).print_pdf(folder / f"{self.name}.pdf", metadata={"CreationDate": None})


@contextmanager
def style() -> Iterator[None]:
    """Draw under this report's own style, whatever the surrounding matplotlib settings."""
    with matplotlib.rc_context(STYLE):
        yield


def png(figure: Figure) -> bytes:
    """Render a figure, and fix its layout: working it out takes as long as drawing, and once is enough."""
    buffer, canvas, layout = io.BytesIO(), FigureCanvasAgg(figure), figure.get_layout_engine()
    with style():
        if layout is not None:
            layout.execute(figure)
            figure.set_layout_engine("none")
        canvas.print_png(buffer)
    return buffer.getvalue()


def panels(count: int, across: int, height: float, width: float = WIDTH, **sharing: Any) -> tuple[Figure, list[Axes]]:
    """Make a figure with ``count`` panels of ``height`` inches; ``across`` of them fill a row of ``width`` inches."""
    columns = min(across, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width / across * columns, height * rows), dpi=DPI, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **sharing).flat)
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, axes[:count]


def literal(text: str) -> str:
    """Keep a person's text out of matplotlib's mathematics."""
    return text.replace("$", r"\$")


def plot(chart: Chart) -> Drawn:
    """Draw a chart for files, in the colours of paper."""
    with style():
        figure, axes = _laid_out(chart)
        for place, (axes_of, shown) in enumerate(zip(axes, chart.panels, strict=True)):
            if isinstance(shown, Picture):
                _draw_picture(axes_of, shown)
            else:
                _draw_panel(axes_of, shown, first=place % chart.across == 0)
        if chart.legend:
            handles, labels = _handles(chart)
            figure.legend(handles, labels, loc="upper center", ncols=_legend_columns(chart), handlelength=2.2)
    return Drawn(chart.name, chart.title, chart.caption, figure, png(figure))


def _width(chart: Chart) -> float:
    """Return how wide a row of panels is, in inches."""
    return WIDTH if chart.across > 1 else 0.75 * WIDTH


def _legend_columns(chart: Chart) -> int:
    """Return how many names of a legend fit in a line."""
    longest = max((len(mark.label) for mark in chart.legend), default=0)
    return min(len(chart.legend), max(1, int(_width(chart) / (0.085 * longest + 0.65)))) or 1


def _laid_out(chart: Chart) -> tuple[Figure, list[Axes]]:
    """Make a figure with room for all words; matplotlib's own layouts draw everything twice to find out."""
    pictures = isinstance(chart.panels[0], Picture)
    across = min(chart.across, len(chart.panels))
    width = _width(chart) / chart.across
    names = [len(word) for p in chart.panels if isinstance(p, Panel) and not p.y.inside for _, word in p.y.ticks]
    left = 0.1 if pictures else 0.45 + 0.075 * max(names, default=0)
    titles = max(_title(panel).count("\n") + bool(_title(panel)) for panel in chart.panels)
    top, bottom = 0.1 + 0.17 * titles, 0.05 if pictures else 0.5
    height = top + bottom + (width - 2 * left if pictures else chart.height * (width - left))
    above = 0.1 + 0.24 * -(-len(chart.legend) // _legend_columns(chart))
    down = -(-len(chart.panels) // across)
    size = np.array([width * across + 0.1, height * down + above])
    figure, axes = Figure(figsize=(size[0], size[1]), dpi=DPI), []
    for place in range(len(chart.panels)):
        corner = (width * (place % across) + left, height * (down - 1 - place // across) + bottom)
        inner = (width - left - (left if pictures else 0.1), height - top - bottom)
        axes.append(figure.add_axes((*(corner / size), *(inner / size))))
    return figure, axes


def _title(shown: Panel | Picture) -> str:
    """Return the lines above a panel or a picture."""
    lines = (shown.title, *shown.lines, shown.group) if isinstance(shown, Picture) else (shown.title, shown.note)
    return "\n".join(line for line in lines if line)


def _draw_picture(axes: Axes, shown: Picture) -> None:
    axes.imshow(shown.pixels, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(literal(_title(shown)), fontsize=8.5, y=1.0)  # a given height need not be worked out


def _draw_panel(axes: Axes, panel: Panel, *, first: bool) -> None:
    axes.set_xlim(panel.x.low, panel.x.high)
    axes.set_ylim(panel.y.low, panel.y.high)
    for mark in panel.marks:
        _draw_mark(axes, mark)
    _draw_axis(axes.xaxis, panel.x)
    _draw_axis(axes.yaxis, panel.y)
    for value, word in panel.y.ticks if panel.y.inside else ():
        place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
        axes.annotate(literal(word), (0, value), (2, 6), fontsize=9, **place)
    axes.set_xlabel(literal(panel.x.label))
    axes.set_ylabel(literal(panel.y.label) if first else "")
    axes.set_title(literal(_title(panel)), y=1.0)
    axes.grid(axis="x", visible=False)


def _draw_axis(axis: Any, shown: Axis) -> None:
    axis.set_ticks([at for at, _ in shown.ticks], ["" if shown.inside else literal(word) for _, word in shown.ticks])


def _draw_mark(axes: Axes, mark: Mark) -> None:
    """Draw one mark; the legend is made from ``_handles``, once for all panels."""
    colour = LIGHT[mark.role]
    if mark.ends is not None:
        middle = mark.x if mark.across else mark.y
        ends = np.abs(mark.ends - middle)
        along = {"xerr": ends, "yerr": None} if mark.across else {"xerr": None, "yerr": ends}
        axes.errorbar(mark.x, mark.y, xerr=along["xerr"], yerr=along["yerr"], fmt="none", ecolor=colour, capsize=4)
    if mark.form == "area":
        axes.fill(mark.x, mark.y, color=colour, alpha=0.4, lw=0)
    elif mark.form == "line":
        axes.plot(mark.x, mark.y, color=colour, **_line_look(mark))
    else:
        axes.plot(mark.x, mark.y, rasterized=mark.small, alpha=0.5 if mark.small else 0.85, **_dot_look(mark))
    for x, y, word in zip(mark.x, mark.y, mark.notes, strict=False):
        right = (x - axes.get_xlim()[0]) / np.ptp(axes.get_xlim()) < 0.8
        place = {"xytext": (7 if right else -7, 7), "ha": "left" if right else "right"}
        axes.annotate(literal(word), (x, y), textcoords="offset points", fontsize=9, **place)


def _line_look(mark: Mark) -> dict[str, Any]:
    return {"linestyle": LINES.get(mark.role, "-"), "lw": 1.0 if mark.role in ("guide", "other") else 1.8}


def _dot_look(mark: Mark) -> dict[str, Any]:
    """Return how a role's dots look; few are large, many small and round."""
    size = 9 if mark.large else 2.5 if mark.small else 4.5
    full = mark.large or mark.small or mark.role not in HOLLOW
    shape = "o" if mark.small else marker(mark.role)
    return {"ls": "", "marker": shape, "ms": size, "mfc": LIGHT[mark.role] if full else "none",
            "mec": LIGHT[mark.role], "mew": 0 if mark.small else 0.8}  # fmt: skip


def _handles(chart: Chart) -> tuple[list[Any], list[str]]:
    """Return one sample a label for a legend."""
    handles: list[Any] = []
    for mark in chart.legend:
        colour = LIGHT[mark.role]
        if mark.form == "area":
            handles.append(Patch(color=colour, alpha=0.4, lw=0))
        elif mark.form == "line":
            handles.append(Line2D([], [], color=colour, **_line_look(mark)))
        else:
            handles.append(Line2D([], [], **_dot_look(mark)))
    return handles, [literal(mark.label) for mark in chart.legend]
