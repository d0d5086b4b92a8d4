"""The charts of a page as plain data beside it, ``figures.json``, from which they can be drawn again as files."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmm_exp.errors import UserError
from dmm_exp.files.reading import Json, plain_name, read_json
from dmm_exp.files.writing import write_text
from dmm_exp.report.charts import Axis, Chart, Mark, Panel, Picture, floats
from dmm_exp.report.palette import LIGHT, colour_of
from dmm_exp.report.pictures import png_of

FIGURES = "figures.json"
FORMAT = 1  # raised when the same file means something else
_PAGE_ALONE = ("hover", "thumb", "table")  # what no file shows


def keep(charts: Sequence[Chart], folder: Path, shows: Any = None) -> None:
    """Write what charts show into a folder.

    Args:
        charts: those with panels are kept.
        folder: of the page that they are on.
        shows: plain containers that tell what the page was made from; :func:`shown` gives them back.
    """
    kept = [_plain(chart) for chart in charts if chart.panels]
    text = json.dumps({"format": FORMAT, "shows": shows, "charts": kept}, allow_nan=False, separators=(",", ":"))
    write_text(folder / FIGURES, text + "\n")


def shown(folder: Path) -> Any:
    """Return what the page in a folder was made from; None where there is no page, or a damaged file."""
    try:
        return read_json(folder / FIGURES)["shows"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def kept(folder: Path) -> list[Chart]:
    """Return the charts of the page in a folder.

    Raises:
        FileNotFoundError: there are none.
        UserError: the file is damaged.
    """
    path = folder / FIGURES
    try:
        found = read_json(path)
        if found["format"] != FORMAT:
            raise UserError(f"{path}: has format {found['format']!r}; this version reads {FORMAT}: make the page again")
        charts = [_chart(chart) for chart in found["charts"]]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, binascii.Error) as error:
        raise UserError(f"{path}: is damaged; make the page again") from error
    if bad := [chart.name for chart in charts if not plain_name(chart.name)]:
        raise UserError(f"{path}: {bad[0]!r} is no name of a figure")
    return charts


def _plain(value: Any) -> Any:
    """Return a part of a chart as plain containers; numbers keep six digits, unknown ones are None."""
    if isinstance(value, Picture):
        pixels = base64.b64encode(png_of(value.pixels)).decode("ascii")
        return {"title": value.title, "lines": list(value.lines), "group": value.group, "pixels": pixels}
    if is_dataclass(value):
        named = [part.name for part in fields(value) if part.name not in _PAGE_ALONE]
        return {name: _plain(getattr(value, name)) for name in named}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _chart(found: Json) -> Chart:
    panels = [_picture(part) if "pixels" in part else _panel(part) for part in found["panels"]]
    return Chart(**{**found, "panels": panels})


def _panel(found: Json) -> Panel:
    x, y = Axis(**found["x"]), Axis(**found["y"])
    samples = {role: floats(values) for role, values in found.get("samples", {}).items()}
    if any(colour_of(role) not in LIGHT or values.ndim != 1 for role, values in samples.items()):
        raise ValueError("samples that cannot be drawn")
    return Panel(**{**found, "x": x, "y": y, "marks": [_mark(mark) for mark in found["marks"]], "samples": samples})


def _mark(found: Json) -> Mark:
    ends = None if found["ends"] is None else np.asarray(found["ends"], dtype=np.float64)
    x, y = floats(found["x"]), floats(found["y"])
    if x.shape != y.shape or x.ndim != 1 or colour_of(found["role"]) not in LIGHT:
        raise ValueError("a mark that cannot be drawn")
    return Mark(**{**found, "x": x, "y": y, "ends": ends})


def _picture(found: Json) -> Picture:
    return Picture(**{**found, "pixels": _pixels(base64.b64decode(found["pixels"], validate=True))})


def _pixels(png: bytes) -> NDArray[np.float32]:
    from PIL import Image

    with Image.open(BytesIO(png), formats=["PNG"]) as image:
        return np.asarray(image, dtype=np.float32) / np.float32(255)
