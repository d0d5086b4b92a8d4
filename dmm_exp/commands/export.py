"""Draw the figures of a finished page as files.

usage: python -m dmm_exp.export FOLDER [format=pdf,png,svg] [width=INCHES]

FOLDER is that of a run, leaderboard, study, convex experiment or scores, and gets a folder figures/. What is drawn is
what its page shows; nothing is computed again. Letters of a PDF are embedded TrueType, as publishers ask for.

  format=pdf,png,svg   which files to write (default: all three)
  width=INCHES         of every figure, from 2 to 20; below 7.5 letters shrink to 7.4 points, and fewer panels make a
                       row where they would be too narrow (default: 10, or 7.5 for a figure of one panel)

Examples:
  python -m dmm_exp.export outputs/runs/digits-mlp-rum_high_mem-dmm__1a2b3c4d5e
  python -m dmm_exp.export outputs/studies/tables_1_and_2__3f2a91c07d format=pdf width=5.5
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmm_exp.errors import UserError, did_you_mean

FORMATS = ("pdf", "png", "svg")
NARROWEST, WIDEST = 2.0, 20.0  # inches


@dataclass(frozen=True)
class Request:
    """What a command line asks for; ``width`` is in inches, None for each figure's own."""

    folder: Path
    formats: tuple[str, ...] = FORMATS
    width: float | None = None


def export_figures(words: Sequence[str]) -> int:
    """Do what a command line asks for, print the path of every file, and return the exit code.

    Raises:
        UserError: an argument is wrong, or the folder has no figures; nothing was written.
    """
    if {"-h", "--help"} & set(words):
        print(str(__doc__).strip())
        return 0
    request = parse(words)
    from dmm_exp.report.canvas import save
    from dmm_exp.report.figures import FIGURES, kept

    try:
        charts = kept(request.folder)
    except FileNotFoundError as error:
        raise UserError(
            f"{request.folder}: has no {FIGURES}; expected the folder of a run (with evaluation.report=true), "
            "leaderboard, study, convex experiment or scores"
        ) from error
    for chart in charts:
        for path in save(chart, request.folder / "figures", request.formats, request.width):
            print(path)
    return 0


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
        elif key not in ("format", "width"):
            raise UserError(f"{key}: is unknown; expected format or width{did_you_mean(key, ('format', 'width'))}")
        elif key in values:
            raise UserError(f"{key}: is given twice; expected one value")
        else:
            values[key] = value
    if len(folders) != 1:
        raise UserError(f"expected one FOLDER, found {len(folders)}; --help shows what is accepted")
    if not Path(folders[0]).is_dir():
        raise UserError(f"{folders[0]}: there is no such folder")
    formats = _formats(values["format"]) if "format" in values else FORMATS
    return Request(Path(folders[0]), formats, _width(values["width"]) if "width" in values else None)


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.strip("[]").split(",")))
    for name in names:
        if name not in FORMATS:
            raise UserError(f"format={text}: expected some of {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}")
    return names


def _width(text: str) -> float:
    try:
        width = float(text)
    except ValueError:
        width = math.nan
    if not NARROWEST <= width <= WIDEST:
        raise UserError(f"width={text}: expected inches from {NARROWEST:g} to {WIDEST:g}")
    return width
