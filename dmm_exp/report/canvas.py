"""The paper that figures are drawn on: one style, one palette, one way to render; nothing touches ``pyplot``."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from dmm_exp.report.result import RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: colour-blind readers can tell these apart. Line styles say the same once more, for printers.
COLOURS = {"original": "#D55E00", "unlearned": "#0072B2", "oracle": "#009E73", "floor": "#6E6E6E"}
LINES: dict[str, Any] = {"original": (0, (5, 2)), "unlearned": "-", "oracle": "-", "floor": (0, (1.5, 1.2))}
WORDS = {
    "original": "original (doing nothing)",
    "unlearned": "unlearned (this run)",
    "oracle": "oracle (retrained)",
    "floor": "noise floor",
}
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

Draw = Callable[[RunResult], Figure | None]


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
        """Write ``<name>.png`` for pages and ``<name>.svg`` for papers."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.png").write_bytes(self.png)
        with style():  # `savefig` would draw twice
            FigureCanvasSVG(self.figure).print_svg(folder / f"{self.name}.svg", metadata={"Date": None})


@contextmanager
def style() -> Iterator[None]:
    """Draw under this report's own style, whatever the surrounding matplotlib settings."""
    with matplotlib.rc_context(STYLE):
        yield


def styled(draw: Draw) -> Draw:
    """Make a figure function draw under this report's style."""

    def drawn(result: RunResult) -> Figure | None:
        with style():
            return draw(result)

    drawn.__name__, drawn.__doc__ = draw.__name__, draw.__doc__
    return drawn


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


def legend_above(figure: Figure, axes: Axes) -> None:
    """Put one legend above all panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), handlelength=2.2)
