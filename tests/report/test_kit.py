"""What pages and files are drawn with: a chart survives being kept, and only files need matplotlib."""

from __future__ import annotations

import ast
import io
import json
import re
import zlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmm_exp.errors import UserError
from dmm_exp.report.canvas import read_style, save
from dmm_exp.report.charts import (
    Chart,
    Hover,
    Interval,
    Mark,
    Panel,
    Picture,
    axis,
    decades,
    dots,
    histograms,
    interval_chart,
    line,
    log10,
    log_range,
    rebinned,
    round_ticks,
)
from dmm_exp.report.figures import FIGURES, keep, kept, shown
from dmm_exp.report.palette import LIGHT, colour_of, dashes, marker
from dmm_exp.report.pictures import as_pictures, is_picture, png_of, sheet
from dmm_exp.report.svg import drawing

PACKAGE = Path(__file__).resolve().parents[2] / "dmm_exp"


def chart(name: str = "cloud") -> Chart:
    """Return a chart that has everything a chart may have."""
    x, y = np.array([1.0, 2.0, np.nan]), np.array([3.0, 1 / 3, 5.0])
    ends = np.stack([y - 1, y + 1])
    marks = [line("guide", [0, 3], [0, 5]), dots("series9", x, y, "$of$ <ours>", ends=ends, notes=["a", "", "b"])]
    hover = Hover(x[:2], y[:2], ["one", "two"], {"value": [1, None]})
    thumb = np.zeros((4, 4), np.float32)
    panel = Panel(axis("x (nats)", x), axis("y", y), marks, "panel", "note", hover, thumb)
    return Chart(name, "A cloud", "How to read it.", [panel, panel], across=2, table=[["head"], ["row"]])


def test_each_file_of_a_chart_is_the_same_whatever_is_written_beside_it(tmp_path: Path) -> None:
    """A PDF that was written before a PNG left half of its pixels."""
    formats = ("pdf", "svg", "png")
    together = [path.read_bytes() for path in save(chart(), tmp_path / "together", formats)]
    assert together == [save(chart(), tmp_path / name, [name])[0].read_bytes() for name in formats]


def test_a_kept_chart_is_drawn_as_before(tmp_path: Path) -> None:
    before = chart()
    keep([before, Chart("bare", "No panels", "", [])], tmp_path, {"of": 1})
    (after,) = kept(tmp_path)
    assert shown(tmp_path) == {"of": 1}
    assert (after.name, after.title, after.caption, after.across, after.height) == ("cloud", *before_words(before))
    for old, new in zip(before.panels, after.panels, strict=True):
        assert isinstance(old, Panel)
        assert isinstance(new, Panel)
        assert str(drawing(before, old)).startswith(str(drawing(after, new)))  # but for what dots tell


def before_words(before: Chart) -> tuple[str, str, int, float]:
    return before.title, before.caption, before.across, before.height


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_a_kept_picture_has_its_pixels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = (np.random.default_rng(0).integers(0, 256, shape) / 255).astype(np.float32)
    keep([Chart("pictures", "", "", [Picture(pixels, "one", ["line"], "group")])], tmp_path)
    (panel,) = kept(tmp_path)[0].panels
    assert isinstance(panel, Picture)
    assert (panel.title, panel.lines, panel.group) == ("one", ["line"], "group")
    np.testing.assert_allclose(panel.pixels, pixels, atol=1e-6)


def test_a_folder_without_charts_says_that_nothing_is_shown(tmp_path: Path) -> None:
    assert shown(tmp_path) is None
    with pytest.raises(FileNotFoundError):
        kept(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.update(format=0),
        lambda found: found.update(charts=[{"panels": 3}]),
        lambda found: found["charts"][0].update(name="../../elsewhere"),
        lambda found: found["charts"][0]["panels"][0].update(surprise=1),
        lambda found: found["charts"][0]["panels"][0]["marks"][0].update(role="nobody"),
        lambda found: found["charts"][0]["panels"][0]["marks"][0].update(x=[1, 2, 3]),
        lambda found: found["charts"][0]["panels"][0].update(pixels="no picture"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, change) -> None:
    keep([chart()], tmp_path)
    found = json.loads((tmp_path / FIGURES).read_text())
    change(found)
    (tmp_path / FIGURES).write_text(json.dumps(found))
    with pytest.raises(UserError, match=re.escape(str(tmp_path / FIGURES))):
        kept(tmp_path)


def test_the_same_chart_makes_the_same_files(tmp_path: Path) -> None:
    one, two = (save(chart(), tmp_path / place) for place in ("one", "two"))
    assert [path.suffix for path in one] == [".pdf", ".png", ".svg"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert sorted(tmp_path.glob("one/*")) == sorted(one)  # and no temporary files


def test_letters_of_a_pdf_are_embedded_truetype(tmp_path: Path) -> None:
    (path,) = save(chart(), tmp_path, ["pdf"])
    whole = unpacked(path.read_bytes())
    assert b"/FontFile2" in whole
    assert b"/Type3" not in whole


def unpacked(pdf: bytes) -> bytes:
    """Return a PDF with what is compressed in it."""
    parts = re.findall(rb"FlateDecode.*?stream\r?\n(.*?)endstream", pdf, re.DOTALL)
    return pdf + b"".join(map(zlib.decompress, parts))


def test_a_style_file_changes_letters_and_their_font(tmp_path: Path) -> None:
    style = tmp_path / "paper.mplstyle"
    style.write_text("font.family: DejaVu Serif\nfont.size: 6\naxes.labelsize: 6\n")
    (path,) = save(chart(), tmp_path, ["pdf"], 3.3, read_style(style))
    assert b"/BaseFont /" in path.read_bytes()
    assert b"DejaVuSerif" in path.read_bytes()
    assert b"DejaVuSans" not in path.read_bytes()
    assert b"/Type3" not in unpacked(path.read_bytes())
    sizes = font_sizes(unpacked(path.read_bytes()))
    assert 6.0 in sizes
    assert max(sizes) < 8


def test_letters_of_a_column_can_be_read_and_fit(tmp_path: Path) -> None:
    (path,) = save(chart(), tmp_path, ["pdf"], 3.3)
    sizes = font_sizes(unpacked(path.read_bytes()))
    assert 5.5 < min(sizes) <= max(sizes) < 8.5


@pytest.mark.parametrize("width", [3.3, 6.9])
def test_a_long_label_across_stays_below_its_panel(tmp_path: Path, width: float) -> None:
    long = replace(axis("", [0, 1]), label="cost of unlearning ÷ cost of retraining, log scale")
    panel = Panel(long, axis("y", [0, 1]), [])
    (path,) = save(Chart("long", "", "", [panel, panel], across=2), tmp_path, ["svg"], width)
    said = [part.strip() for part in re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"), re.DOTALL)]
    lines = [text for text in said if "cost" in text]
    assert len(lines) >= 2
    assert max(map(len, lines)) <= 7.5 / 2 / 0.07


def font_sizes(pdf: bytes) -> set[float]:
    """Return the sizes of letters of a PDF in points."""
    return {float(size) for size in re.findall(rb"/F\d+ ([\d.]+) Tf", pdf)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("font.size: large\n", "font.size"),
        ("font.sise: 8\n", "font.sise"),
        ("no colon\n", "no colon"),
        ("backend: pdf\n", "backend cannot be set"),
        ("figure.figsize: 3, 2\n", "figure.figsize cannot be set"),
        ("text.usetex: True\n", "text.usetex cannot be set"),
        ("pdf.fonttype: 3\n", "pdf.fonttype cannot be set"),
        ("font.family: No Such Font\n", "No Such Font is not installed"),
        ("# nothing\n", "sets nothing"),
        (b"\xff\xfe\x00", "cannot be read as text"),
    ],
)
def test_a_wrong_style_file_is_one_sentence(tmp_path: Path, text: str | bytes, said: str) -> None:
    style = tmp_path / "wrong.mplstyle"
    style.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as raised:
        read_style(style)
    assert str(raised.value).startswith(f"style={style}: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("width", [2.0, 5.5, 12.0])
def test_files_are_as_wide_as_asked(tmp_path: Path, width: float) -> None:
    (path,) = save(chart(), tmp_path, ["png"], width)
    with Image.open(path) as image:
        assert image.width == pytest.approx(144 * width, abs=1)


def test_only_the_canvas_imports_matplotlib_and_only_files_need_the_canvas() -> None:
    modules = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    names = {
        path.relative_to(PACKAGE).as_posix(): {
            name
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        for path, tree in modules.items()
    }
    assert [path for path, found in names.items() if any(n.split(".")[0] == "matplotlib" for n in found)] == [
        "report/canvas.py"
    ]
    assert {path for path, found in names.items() if "dmm_exp.report.canvas" in found} == {
        "commands/export.py",
        "runs/trackers.py",  # where logger.figures=true asks for pictures
    }


def test_the_kit_knows_no_metric() -> None:
    words = re.compile(r"klom|tow\b|lira|unlearner|leaderboard|forget|retain", re.IGNORECASE)
    found = {path.name: words.findall(path.read_text(encoding="utf-8")) for path in (PACKAGE / "report").rglob("*.*")
             if path.suffix in (".py", ".j2", ".css", ".js")}  # fmt: skip
    assert {name: used for name, used in found.items() if used} == {}


def test_many_series_look_different_and_each_has_a_colour() -> None:
    looks = {(colour_of(f"series{place}"), marker(f"series{place}")) for place in range(49)}
    assert len(looks) == 49
    assert {colour for colour, _ in looks} <= set(LIGHT)
    assert {colour_of(f"other{place}") for place in range(7)} == {"other"}
    assert len({marker(f"other{place}") for place in range(7)}) == 7


def test_lines_of_series_differ_in_colour_or_dashes_and_neighbours_in_both() -> None:
    looks = [(colour_of(f"series{place}"), dashes(f"series{place}")) for place in range(49)]
    assert len(set(looks)) == 49
    for one, other in pairwise(looks):
        assert one[0] != other[0]
        assert one[1] != other[1]


def test_of_two_lines_that_coincide_the_one_with_gaps_lies_above() -> None:
    dashed, whole, dot = line("original", [0, 1], [0, 1]), line("unlearned", [0, 1], [0, 1]), dots("floor", [0], [0])
    area = Mark("oracle", "area", dashed.x, dashed.y)
    panel = Panel(axis("x", [0, 1]), axis("y", [0, 1]), [dot, dashed, whole, area])
    assert panel.layers == [area, whole, dashed, dot]
    shown = str(drawing(Chart("one", "", "", [panel]), panel))
    assert shown.index("line unlearned") < shown.index('line original" stroke-dasharray')


def test_histograms_are_drawn_again_with_other_bins_from_what_is_kept(tmp_path: Path) -> None:
    samples = {"oracle": np.arange(60.0), "unlearned": np.array([*np.arange(59.0), np.nan])}
    before = histograms(samples, {"oracle": "a", "unlearned": "b"}, "oracle", "margin", "models")
    keep([Chart("margins", "", "", [before])], tmp_path)
    (panel,) = kept(tmp_path)[0].panels
    assert isinstance(panel, Panel)
    np.testing.assert_array_equal(panel.samples["unlearned"], samples["unlearned"])
    again = rebinned(panel, 6)
    direct = histograms(samples, {"oracle": "a", "unlearned": "b"}, "oracle", "margin", "models", 6)
    assert [(mark.form, mark.label) for mark in again.marks] == [("area", "a"), ("line", "b")]
    for one, other in zip(again.marks, direct.marks, strict=True):
        np.testing.assert_allclose(one.y, other.y)
    assert len(again.marks[0].y) == 14  # two corners a bin, and the ends
    plain = Panel(axis("x", [0, 1]), axis("y", [0, 1]), [])
    assert rebinned(plain, 6) is plain


def test_every_interval_has_its_row_and_its_series() -> None:
    found = {
        "a": [Interval("top", 1.0, 0.5, 1.5), Interval("bottom", 2.0, np.nan, np.nan)],
        "b": [Interval("bottom", 3.0, 2.5, 3.5)],
    }
    (panel,) = interval_chart("name", "title", "", {"value": found}).panels
    assert isinstance(panel, Panel)
    assert [word for _, word in panel.y.ticks] == ["top", "bottom"]
    heights = {word: at for at, word in panel.y.ticks}
    a, b = panel.marks
    assert (a.label, b.label) == ("a", "b")
    np.testing.assert_allclose(a.x, [1, 2])
    np.testing.assert_allclose(a.y, [heights["top"], heights["bottom"]])
    assert b.y[0] < a.y[1]
    assert panel.x.low < 0.5 < 3.5 < panel.x.high


def test_logarithmic_ticks_are_a_few_whatever_the_range() -> None:
    for low, high in ((-3, 3), (-2, 0), (-1, 0), (-0.2, 0.4), (0.1, 0.7), (-12, 1)):
        ticks = decades(low, high)
        assert 3 <= len(ticks) <= 7
        for at, word in ticks:
            assert low - 1e-6 <= at <= high + 1e-6
            assert float(word) == pytest.approx(10**at)
    assert np.isnan(log10([0.0, -1.0])).all()


@pytest.mark.parametrize(("low", "high"), [(-13.4, 1.4), (-7, 0), (-5.2, -3), (-3, 0), (1, 4), (3, 9), (-0.2, 0.4)])
def test_all_ticks_of_a_logarithmic_axis_are_written_in_one_way(low: float, high: float) -> None:
    words = [word for _, word in decades(low, high)]
    assert len({"e" in word for word in words}) == 1
    assert ("e" in words[0]) == (low < -4 or high > 5)


@pytest.mark.parametrize(("low", "high"), [(-1.99, 0), (-1, 0), (-0.5, 0.9), (-3.4, -1.5)])
def test_below_two_decades_words_stand_between_the_decades(low: float, high: float) -> None:
    found = log_range("loss", low, high)
    assert found.label == "loss, log scale"
    between = [word for at, word in found.ticks if abs(at - round(at)) > 0.01]
    assert between
    assert {round(10 ** (at % 1)) for at in found.fine} <= set(range(2, 10))
    assert all(low <= at <= high for at in found.fine)


def test_small_ticks_of_a_logarithmic_axis_are_drawn(tmp_path: Path) -> None:
    across = log_range("x", -1, 0)
    panel = Panel(across, axis("y", [0, 1]), [line("ink", [-1, 0], [0, 1])])
    shown = str(drawing(Chart("one", "", "", [panel]), panel))
    assert shown.count("v3") == len(across.fine) == 8
    save(Chart("with", "", "", [panel]), tmp_path, ["svg"])
    save(Chart("without", "", "", [replace(panel, x=replace(across, fine=()))]), tmp_path, ["svg"])
    text, bare = ((tmp_path / f"{name}.svg").read_text() for name in ("with", "without"))
    assert text.count("<use") == bare.count("<use") + 8 - 2  # at .2 and .5 there are words


def test_ticks_are_round_and_within_the_axis() -> None:
    assert round_ticks(0, 10.4) == [(0.0, "0.0"), (2.5, "2.5"), (5.0, "5.0"), (7.5, "7.5"), (10.0, "10.0")]
    assert [word for _, word in round_ticks(-1, 1)] == ["−1.0", "−0.5", "0.0", "0.5", "1.0"]
    flat = axis("x", [3.0, 3.0])
    assert flat.low < 3 < flat.high


def test_a_sheet_keeps_every_picture() -> None:
    pictures = np.random.default_rng(0).random((7, 4, 6, 3)).astype(np.float32)
    laid, across = sheet(pictures)
    for place, picture in enumerate(pictures):
        top, left = 4 * (place // across), 6 * (place % across)
        np.testing.assert_array_equal(laid[top : top + 4, left : left + 6], picture)
    read = np.asarray(Image.open(io.BytesIO(png_of(laid))))
    np.testing.assert_array_equal(read, np.rint(255 * laid))


@pytest.mark.parametrize(
    ("shape", "dtype", "low", "high"),
    [((3, 1, 8, 8), "uint8", 0, 16), ((3, 3, 8, 8), "uint8", 0, 255), ((3, 3, 8, 8), "float32", -2, 2)],
)
def test_pictures_lie_between_black_and_white(shape: tuple[int, ...], dtype: str, low: int, high: int) -> None:
    images = np.random.default_rng(0).uniform(low, high, shape).astype(dtype)
    pictures = as_pictures(images, np.arange(3))
    assert pictures.shape == ((3, 8, 8) if shape[1] == 1 else (3, 8, 8, 3))
    assert 0.0 <= pictures.min() < 0.1
    assert 0.9 < pictures.max() <= 1.0


def test_flat_vectors_are_not_pictures() -> None:
    assert not is_picture(np.zeros((5, 64)))
