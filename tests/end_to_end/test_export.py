"""Figures of a finished page as files: only when someone asks for them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from results_of_runs import SMALLEST

from dmm_exp.commands.export import Request, parse
from dmm_exp.errors import UserError
from dmm_exp.report.figures import kept

Command = Callable[..., subprocess.CompletedProcess[str]]
# lightning brings parts of matplotlib by itself, through torchmetrics; what draws files comes with our canvas alone.
RUN = """
import sys
from dmm_exp.commands import cli
try:
    cli.main()
finally:
    drawing = {"dmm_exp.report.canvas", "matplotlib.backends.backend_pdf", "matplotlib.backends.backend_svg"}
    assert not drawing & set(sys.modules), drawing & set(sys.modules)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that another process did with its page."""
    words = [*SMALLEST, "evaluation.report=true", "n_models=2", "executor=local", "forget=random", "unlearner=finetune"]
    outputs = tmp_path_factory.mktemp("outputs")
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words, f"paths.outputs={outputs}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1])


def test_an_ordinary_run_writes_its_page_and_draws_no_files(folder: Path) -> None:
    assert '<svg class="plot"' in (folder / "report.html").read_text(encoding="utf-8")
    assert not (folder / "figures").exists()


def test_every_figure_of_the_page_is_exported_in_every_format(command: Command, folder: Path, tmp_path: Path) -> None:
    done = command("export", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    names = {chart.name for chart in kept(folder)}
    assert {path.relative_to(folder).as_posix() for path in paths} == {
        f"figures/{name}.{kind}" for name in names for kind in ("pdf", "png", "svg")
    }
    assert all(path.stat().st_size > 1000 for path in paths)


def test_the_first_word_of_a_command_line_may_name_the_command(command: Command, folder: Path, tmp_path: Path) -> None:
    done = command("export", folder, "format=png", "width=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.splitlines()[0])
    with Image.open(path) as image:
        assert image.width == pytest.approx(4 * 144, abs=1)
    assert "FOLDER" in command("export", "--help", cwd=tmp_path).stdout


def test_a_column_of_a_paper_in_a_persons_style(command: Command, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "paper.mplstyle").write_text("font.family: serif\n")
    words = ("format=pdf", "width=column", "style=paper.mplstyle", "bins=8")
    done = command("export", folder, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for path in map(Path, done.stdout.splitlines()):
        pdf = path.read_bytes()
        assert b"DejaVuSerif" in pdf or path.stem == "forgotten_examples"
        assert float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", pdf)[1]) == pytest.approx(72 * 3.3, abs=0.5)
    (tmp_path / "paper.mplstyle").write_text("font.sise: 8\n")
    done = command("export", folder, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: style=paper.mplstyle: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "expected one FOLDER, found 0"),
        ([""], "expected one FOLDER, found 0"),
        ([".", "."], "expected one FOLDER, found 2"),
        (["nowhere"], "nowhere: there is no such folder"),
        ([".", "widht=3"], "did you mean 'width'"),
        ([".", "width=3", "width=4"], "width: is given twice"),
        ([".", "width=wide"], "width=wide: expected column, page or inches from 2 to 20"),
        ([".", "width=colum"], "did you mean 'column'"),
        ([".", "width=nan"], "width=nan: expected column, page or inches from 2 to 20"),
        ([".", "width=100"], "width=100: expected column, page or inches from 2 to 20"),
        ([".", "style=nowhere.mplstyle"], "style=nowhere.mplstyle: there is no such file"),
        ([".", "bins=1"], "bins=1: expected a whole number from 2 to 500"),
        ([".", "bins=many"], "bins=many: expected a whole number from 2 to 500"),
        ([".", "format=eps"], "expected some of pdf, png, svg"),
        ([".", "format="], "expected some of pdf, png, svg"),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse(words)


def test_what_is_asked_for_is_understood() -> None:
    assert parse(["."]) == Request(Path("."))
    assert parse(["format=[svg,pdf,svg]", "."]) == Request(Path("."), ("svg", "pdf"))
    assert parse([".", "width=3.3"]) == parse([".", "width=column"]) == Request(Path("."), width=3.3)
    assert parse([".", "width=page", "bins=12"]) == Request(Path("."), width=6.9, bins=12)


def test_a_folder_without_a_page_is_one_sentence(command: Command, tmp_path: Path) -> None:
    done = command("export", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}: has no figures.json; expected the folder of a run")
    assert list(tmp_path.iterdir()) == []
