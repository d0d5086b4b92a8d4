"""Draw the figures of a finished page as files.

usage: dmm-exp export FOLDER [format=pdf,png,svg] [width=column|page|INCHES] [style=FILE] [bins=NUMBER]

FOLDER is that of a run, leaderboard, study, convex experiment or scores, and gets a folder figures/. What is drawn is
what its page shows; nothing is computed again. Letters of a PDF are embedded TrueType, as publishers ask for.

  format=pdf,png,svg   which files to write (default: all three)
  width=column         of every figure: a column of a paper with two (3.3 inches), page, its text across both (6.9), or
                       inches from 2 to 20; below 7.5 letters shrink to 7.4 points, and fewer panels make a row where
                       they would be too narrow (default: 10, or 7.5 for a figure of one panel)
  style=FILE           a matplotlib style file (lines such as 'font.family: serif' and 'font.size: 8'); the colours and
                       shapes of methods and ensembles stay, so that they are the same in all figures
  bins=NUMBER          of the histograms of margins, from 2 to 500 (default: those of the page)

Examples:
  dmm-exp export outputs/runs/digits-mlp-rum_high_mem-dmm__1a2b3c4d5e width=column
  dmm-exp export outputs/studies/tables_1_and_2__3f2a91c07d format=pdf width=page style=paper.mplstyle
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dmm_exp.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from dmm_exp.report.charts import Chart

FORMATS = ("pdf", "png", "svg")
NARROWEST, WIDEST = 2.0, 20.0  # inches
WIDTHS = {"column": 3.3, "page": 6.9}  # inches, of a paper with two columns
FEWEST, MOST = 2, 500  # bins
KEYS = ("format", "width", "style", "bins")


@dataclass(frozen=True)
class Request:
    """What a command line asks for; ``width`` is in inches, None for each figure's own, and so is ``bins``."""

    folder: Path
    formats: tuple[str, ...] = FORMATS
    width: float | None = None
    style: Path | None = None
    bins: int | None = None


def export_figures(words: Sequence[str]) -> int:
    """Do what a command line asks for, print the path of every file, and return the exit code.

    Raises:
        UserError: an argument is wrong, or the folder has no figures; nothing was written.
    """
    if {"-h", "--help"} & set(words):
        print(str(__doc__).strip())
        return 0
    request = parse(words)
    from dmm_exp.report.canvas import read_style, save
    from dmm_exp.report.figures import FIGURES, kept

    style = read_style(request.style) if request.style else None
    try:
        charts = kept(request.folder)
    except FileNotFoundError as error:
        raise UserError(
            f"{request.folder}: has no {FIGURES}; expected the folder of a run (with evaluation.report=true), "
            "leaderboard, study, convex experiment or scores"
        ) from error
    charts = charts if request.bins is None else _rebinned(charts, request.bins, request.folder)
    for chart in charts:
        for path in save(chart, request.folder / "figures", request.formats, request.width, style):
            print(path)
    return 0


def _rebinned(charts: Sequence[Chart], bins: int, folder: Path) -> list[Chart]:
    """Give histograms another number of bins.

    Raises:
        UserError: there are no histograms.
    """
    from dmm_exp.report.charts import Panel, rebinned

    if not any(isinstance(panel, Panel) and panel.samples for chart in charts for panel in chart.panels):
        raise UserError(f"bins={bins}: {folder} has no histograms; expected the folder of a run")
    return [
        replace(chart, panels=[rebinned(one, bins) if isinstance(one, Panel) else one for one in chart.panels])
        for chart in charts
    ]


def parse(words: Sequence[str]) -> Request:
    """Return what the words of a command line ask for.

    Raises:
        UserError: an argument is missing, unknown, given twice or out of range.
    """
    folders, values = [], {}
    for word in filter(None, words):  # make gives an empty one where RUN is missing
        key, equals, value = word.partition("=")
        if not equals or Path(word).is_dir():
            folders.append(word)
        elif key not in KEYS:
            raise UserError(f"{key}: is unknown; expected one of {', '.join(KEYS)}{did_you_mean(key, KEYS)}")
        elif key in values:
            raise UserError(f"{key}: is given twice; expected one value")
        else:
            values[key] = value
    if len(folders) != 1:
        raise UserError(f"expected one FOLDER, found {len(folders)}; --help shows what is accepted")
    if not Path(folders[0]).is_dir():
        raise UserError(f"{folders[0]}: there is no such folder")
    read = {"format": _formats, "width": _width, "style": _style, "bins": _bins}
    found = {"formats" if key == "format" else key: read[key](value) for key, value in values.items()}
    return Request(Path(folders[0]), **found)


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.strip("[]").split(",")))
    for name in names:
        if name not in FORMATS:
            raise UserError(f"format={text}: expected some of {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}")
    return names


def _width(text: str) -> float:
    if text in WIDTHS:
        return WIDTHS[text]
    try:
        width = float(text)
    except ValueError:
        width = math.nan
    if not NARROWEST <= width <= WIDEST:
        inches = f"inches from {NARROWEST:g} to {WIDEST:g}"
        raise UserError(f"width={text}: expected column, page or {inches}{did_you_mean(text, WIDTHS)}")
    return width


def _style(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise UserError(f"style={text}: there is no such file; expected a matplotlib style file")
    return path


def _bins(text: str) -> int:
    if not text.isdecimal() or not FEWEST <= int(text) <= MOST:
        raise UserError(f"bins={text}: expected a whole number from {FEWEST} to {MOST}")
    return int(text)
