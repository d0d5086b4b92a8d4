"""Charts as files: PDF, PNG and SVG. The only module that imports matplotlib, and never ``pyplot``."""

from __future__ import annotations

import logging
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dmm_exp.errors import UserError
from dmm_exp.files.writing import write_atomically
from dmm_exp.report.charts import Axis, Chart, Mark, Panel, Picture
from dmm_exp.report.palette import LIGHT, colour_of, dashes, is_hollow, marker

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 144  # of a PNG
WIDTH = 10.0  # inches, of a full row of panels at the largest letters
LARGEST = 10.5  # points, of letters
SMALLEST = 0.7  # of letters, as a share of the largest: 7.4 points, for a column of a paper
CANVASES: dict[str, type[FigureCanvasBase]] = {"pdf": FigureCanvasPdf, "png": FigureCanvasAgg, "svg": FigureCanvasSVG}
FORMATS = tuple(CANVASES)
_LETTER = 0.082  # inches that a letter takes at the largest
_METADATA = {"pdf": {"CreationDate": None}, "png": {}, "svg": {"Date": None}}  # the same chart, the same bytes

# A person's own matplotlibrc (a dark style, TeX text) must not change figures.
STYLE: dict[str, Any] = {
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "text.color": "#1c1c1c",
    "axes.labelcolor": "#1c1c1c", "axes.edgecolor": "#7a7a7a", "xtick.color": "#3c3c3c", "ytick.color": "#3c3c3c",
    "font.family": ["DejaVu Sans"], "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.8, "text.usetex": False,
    "pdf.fonttype": 42, "svg.hashsalt": "dmm_exp",
}  # fmt: skip
_LETTERS = {"font.size": LARGEST, "axes.titlesize": LARGEST, "axes.labelsize": LARGEST, "xtick.labelsize": 9.5,
            "ytick.labelsize": 9.5, "legend.fontsize": LARGEST}  # fmt: skip
_FIXED = ("figure.figsize", "figure.dpi", "savefig.dpi", "pdf.fonttype", "svg.fonttype", "text.usetex")
_ELSEWHERE = ("backend", "interactive", "toolbar", "webagg.", "tk.", "macosx.", "keymap.", "animation.", "savefig.dir")
Style = Mapping[str, Any]


def read_style(path: Path) -> Style:
    """Return what a matplotlib style file sets: key → value.

    Raises:
        UserError: the file cannot be read, has a key or a value that matplotlib does not know, a key that is none of a
            look (``backend``) or that figures decide themselves (``figure.figsize``), or a font that is not installed.
    """
    with _Complaints() as said:  # of lines and keys that it does not know, matplotlib warns; of values, it raises
        try:
            read = matplotlib.rc_params_from_file(path, fail_on_error=True, use_default_template=False)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"style={path}: cannot be read as text; expected a matplotlib style file") from error
        except Exception as error:
            raise UserError(f"style={path}: {' '.join(str(error).split())}") from error
    if said.first:
        raise UserError(f"style={path}: {re.sub(' in file .*?, line ', ', line ', said.first)}")
    style = {str(name): value for name, value in read.items()}
    for name in style:
        if name in _FIXED or name.startswith(_ELSEWHERE):
            raise UserError(
                f"style={path}: {name} cannot be set; expected colours, fonts, lines, ticks, grids, legends"
            )
    if not style:
        raise UserError(f"style={path}: sets nothing; expected lines such as 'font.size: 8'")
    _check_font(style, path)
    return style


class _Complaints(logging.Handler):
    """Keeps the first line that matplotlib logs, and lets none of it be printed."""

    first = ""

    def __enter__(self) -> _Complaints:
        self._logger = logging.getLogger("matplotlib")
        self._logger.addHandler(self)
        self._propagated, self._logger.propagate = self._logger.propagate, False
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.first = self.first or record.getMessage().strip().splitlines()[0]


def _check_font(style: Style, path: Path) -> None:
    if not any(name.startswith("font.") for name in style):
        return
    look: Any = {**STYLE, **style}
    with matplotlib.rc_context(look):
        try:
            font_manager.findfont(font_manager.FontProperties(), fallback_to_default=False)
        except ValueError as error:
            names = ", ".join(matplotlib.rcParams["font.family"])
            raise UserError(f"style={path}: font.family {names} is not installed; expected a TrueType font") from error


def save(
    chart: Chart,
    folder: Path,
    formats: Sequence[str] = FORMATS,
    width: float | None = None,
    style: Style | None = None,
) -> list[Path]:
    """Write ``<name>.<format>`` for each format; returns the paths. Letters of a PDF are embedded TrueType.

    Args:
        chart: what is drawn.
        folder: where to.
        formats: some of ``FORMATS``.
        width: in inches; a chart's own where it is None. Below 7.5 letters are smaller, and fewer panels make a row
            where they would be too narrow.
        style: what :func:`read_style` returned. Its ``font.size``, where it has one, takes the place of the size that
            follows from the width.
    """
    folder.mkdir(parents=True, exist_ok=True)
    given = dict(style or {})
    width = width or (WIDTH if chart.across > 1 else 0.75 * WIDTH)
    size = min(1.0, max(SMALLEST, width / 7.5))
    size = given.get("font.size", size * LARGEST) / LARGEST
    paths = [folder / f"{chart.name}.{name}" for name in formats]
    look: Any = STYLE | {name: size * points for name, points in _LETTERS.items()} | given
    with matplotlib.rc_context(look):
        figure = _drawn(chart, width, size)
        for name, path in zip(formats, paths, strict=True):
            figure.set_dpi(DPI)  # writing a PDF or SVG leaves 72
            write = getattr(CANVASES[name](figure), f"print_{name}")
            write_atomically(path, lambda to, write=write, name=name: write(str(to), metadata=_METADATA[name]))
    return paths


def _drawn(chart: Chart, width: float, size: float) -> Figure:
    """Draw a chart in the colours of paper; ``size`` is that of its letters, 1 the largest."""
    figure, axes, across = _laid_out(chart, width, size)
    for place, (own, shown) in enumerate(zip(axes, chart.panels, strict=True)):
        if isinstance(shown, Picture):
            _draw_picture(own, shown, size)
        else:
            _draw_panel(own, shown, size, first=place % across == 0)
    if chart.legend:
        handles = [_handle(mark, size) for mark in chart.legend]
        labels = [_literal(mark.label) for mark in chart.legend]
        columns = _legend_columns(chart, width / size)
        figure.legend(handles, labels, loc="upper center", ncols=columns, handlelength=2.2)
    return figure


def _legend_columns(chart: Chart, width: float) -> int:
    """Return how many names of a legend fit in a line, whose width is in inches at the largest letters."""
    longest = max((len(mark.label) for mark in chart.legend), default=0)
    return min(len(chart.legend), max(1, int(width / (_LETTER * longest + 0.65)))) or 1


def _laid_out(chart: Chart, width: float, size: float) -> tuple[Figure, list[Axes], int]:
    """Make a figure with room for all words; matplotlib's own layouts draw everything twice to find out.

    Everything is worked out in inches at the largest letters. Returns also how many panels make a row.
    """
    pictures, width = isinstance(chart.panels[0], Picture), width / size
    longest = max(len(line) for panel in chart.panels for line in _title(panel).split("\n"))
    fitting = max(1, int(width / (1.2 if pictures else max(2.3, _LETTER * longest))))
    across = min(chart.across, len(chart.panels), fitting)
    each = (width - 0.1) / min(chart.across, fitting)
    names = [len(word) for p in chart.panels if isinstance(p, Panel) and not p.y.inside for _, word in p.y.ticks]
    left = 0.1 if pictures else 0.45 + 0.075 * max(names, default=0)
    titles = max(_title(panel).count("\n") + bool(_title(panel)) for panel in chart.panels)
    below = max(_across(panel, each - left).count("\n") for panel in chart.panels)
    top, bottom = 0.1 + 0.17 * titles, 0.05 if pictures else 0.5 + 0.2 * below
    label = max(len(panel.y.label) if isinstance(panel, Panel) else 0 for panel in chart.panels)
    inside = each - 2 * left if pictures else max(chart.height * (each - left), _LETTER * label)
    height = top + bottom + inside
    above = 0.1 + 0.24 * -(-len(chart.legend) // _legend_columns(chart, width))
    down = -(-len(chart.panels) // across)
    whole = np.array([each * across + 0.1, height * down + above])
    figure, axes = Figure(figsize=(size * whole[0], size * whole[1]), dpi=DPI), []
    for place in range(len(chart.panels)):
        corner = (each * (place % across) + left, height * (down - 1 - place // across) + bottom)
        inner = (each - left - (left if pictures else 0.1), height - top - bottom)
        axes.append(figure.add_axes((*(corner / whole), *(inner / whole))))
    return figure, axes, across


def _across(shown: Panel | Picture, width: float) -> str:
    """Return the label of the axis across in lines that fit a panel; its width is in inches at the largest letters."""
    return textwrap.fill(shown.x.label, max(8, int(width / _LETTER))) if isinstance(shown, Panel) else ""


def _literal(text: str) -> str:
    """Keep a person's text out of matplotlib's mathematics."""
    return text.replace("$", r"\$")


def _title(shown: Panel | Picture) -> str:
    """Return the lines above a panel or a picture."""
    lines = (shown.title, *shown.lines, shown.group) if isinstance(shown, Picture) else (shown.title, shown.note)
    return "\n".join(line for line in lines if line)


def _draw_picture(axes: Axes, shown: Picture, size: float) -> None:
    axes.imshow(shown.pixels, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(_literal(_title(shown)), fontsize=8.5 * size, y=1.0)  # a given height need not be worked out


def _draw_panel(axes: Axes, panel: Panel, size: float, *, first: bool) -> None:
    axes.set_xlim(panel.x.low, panel.x.high)
    axes.set_ylim(panel.y.low, panel.y.high)
    for mark in panel.layers:
        _draw_mark(axes, mark, size)
    _draw_axis(axes.xaxis, panel.x)
    _draw_axis(axes.yaxis, panel.y)
    for value, word in panel.y.ticks if panel.y.inside else ():
        place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
        axes.annotate(_literal(word), (0, value), (2, 6 * size), fontsize=9 * size, **place)
    figure = axes.get_figure(root=True)
    assert figure is not None
    width = axes.get_position().width * figure.get_size_inches()[0] / size
    axes.set_xlabel(_literal(_across(panel, width + 0.1)))
    axes.set_ylabel(_literal(panel.y.label) if first else "")
    axes.set_title(_literal(_title(panel)), y=1.0)
    axes.grid(axis="x", visible=False, which="both")


def _draw_axis(axis: Any, shown: Axis) -> None:
    axis.set_ticks([at for at, _ in shown.ticks], ["" if shown.inside else _literal(word) for _, word in shown.ticks])
    axis.set_ticks(list(shown.fine), minor=True)


def _draw_mark(axes: Axes, mark: Mark, size: float) -> None:
    """Draw one mark; the legend is made from ``_handle``, once for all panels."""
    colour = LIGHT[colour_of(mark.role)]
    if mark.ends is not None:
        middle = mark.x if mark.across else mark.y
        ends = np.abs(mark.ends - middle)
        along = {"xerr": ends, "yerr": None} if mark.across else {"xerr": None, "yerr": ends}
        axes.errorbar(mark.x, mark.y, **along, fmt="none", ecolor=colour, capsize=4 * size, lw=1.5 * size)
    if mark.form == "area":
        axes.fill(mark.x, mark.y, color=colour, alpha=0.4, lw=0)
    elif mark.form == "line":
        axes.plot(mark.x, mark.y, color=colour, **_line_look(mark, size))
    else:
        axes.plot(mark.x, mark.y, rasterized=mark.small, alpha=0.5 if mark.small else 0.85, **_dot_look(mark, size))
    for x, y, word in zip(mark.x, mark.y, mark.notes, strict=False):
        right = (x - axes.get_xlim()[0]) / np.ptp(axes.get_xlim()) < 0.8
        place = {"xytext": (7 * size if right else -7 * size, 7 * size), "ha": "left" if right else "right"}
        axes.annotate(_literal(word), (x, y), textcoords="offset points", fontsize=9 * size, **place)


def _line_look(mark: Mark, size: float) -> dict[str, Any]:
    thin = colour_of(mark.role) in ("guide", "other")
    gaps = dashes(mark.role)
    return {"linestyle": (0, gaps) if gaps else "-", "lw": (1.0 if thin else 1.8) * size}


def _dot_look(mark: Mark, size: float) -> dict[str, Any]:
    """Return how a role's dots look; few are large, many small and round."""
    full = mark.large or mark.small or not is_hollow(mark.role)
    colour, shape = LIGHT[colour_of(mark.role)], "o" if mark.small else marker(mark.role)
    return {"ls": "", "marker": shape, "ms": size * (9 if mark.large else 2.5 if mark.small else 4.5),
            "mfc": colour if full else "none", "mec": colour, "mew": 0 if mark.small else 0.8}  # fmt: skip


def _handle(mark: Mark, size: float) -> Any:
    """Return a legend's sample of a mark."""
    colour = LIGHT[colour_of(mark.role)]
    if mark.form == "area":
        return Patch(color=colour, alpha=0.4, lw=0)
    if mark.form == "line":
        return Line2D([], [], color=colour, **_line_look(mark, size))
    return Line2D([], [], **_dot_look(mark, size))
