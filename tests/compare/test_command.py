"""What a person at the keyboard meets."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import resource
import struct
import subprocess
import sys
import termios

import numpy as np
import pandas as pd
import pytest
from browser import crushed, faults

from dmm_exp.commands.compare import compare_runs
from dmm_exp.compare.looks import method_roles
from dmm_exp.report.palette import colour_of


def started(*arguments, cwd):
    """Start the command as a person does; what needs no process of its own takes the fixture ``command``."""
    line = [sys.executable, "-m", "dmm_exp.compare", *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def folder(written, tmp_path):
    for seed in (0, 1):
        written("dmm", seed, tow=np.linspace(0.8, 0.9, 20))
        written("finetune", seed, tow=np.linspace(0.7, 0.9, 20))
    written("scrub", state="running")
    return tmp_path / "runs"


def test_tables_on_standard_output_and_what_is_left_out_on_standard_error(folder, tmp_path):
    done = started(folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for title in ("means", "mean ranks in 2 blocks", "paired differences from dmm"):
        assert title in done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert "it did not finish (its state is 'running')" in done.stderr
    assert started(folder, cwd=tmp_path).stdout == done.stdout


def test_on_a_terminal_no_line_is_wider_than_it(written, tmp_path):
    for seed in (0, 1):
        for place, unlearner in enumerate(("dmm", "finetune", "scrub", "retrain")):
            value = {f"klom/{group}/p95": 1.0 + place + seed / 9 for group in ("forget", "retain", "val")}
            floors = {f"klom_floor/{group}/p95": 0.5 for group in ("forget", "retain", "val")}
            written(unlearner, seed, metrics={**value, **floors}, tow=np.linspace(0.7, 0.9 + place / 50, 20))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    line = [sys.executable, "-m", "dmm_exp.compare", str(tmp_path / "runs")]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"TERM": "xterm"}
    with subprocess.Popen(line, cwd=tmp_path, stdout=theirs, stderr=subprocess.PIPE, env=environment) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # the end of what a terminal says
            while part := os.read(ours, 65536):
                said += part
        os.close(ours)
    assert process.returncode == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).splitlines()
    assert max(map(len, lines)) <= 80
    whole = "\n".join(lines)
    assert "means (dataset digits, model mlp, forget random, runs 2)" in whole
    for words in ("± 0.", "±: half of", "floor: the same", "not ranked: retrain (a reference)", "klom/val/p95 ↓"):
        assert words in whole
    (row,) = {tuple(line.split()) for line in lines if line.startswith("method") and "klom/forget/p95 ↓" in line}
    assert row[1:4] == ("klom/forget/p95", "↓", "floor")


def test_tables_stand_before_pictures_on_the_page(folder, tmp_path):
    assert compare_runs([str(folder), f"--html={tmp_path / 'out.html'}"]) == 0
    page = (tmp_path / "out.html").read_text()
    assert page.index("<table") < page.index("Paired differences") < page.index("<figure")


def test_the_page_is_right_on_every_screen_and_on_paper(browser, folder, tmp_path):
    assert compare_runs([str(folder), f"--html={tmp_path / 'out.html'}"]) == 0
    assert faults(browser, tmp_path / "out.html") == []


def test_no_head_of_a_table_is_broken_inside_a_word_and_no_table_is_cut(browser, written, tmp_path):
    names = [f"{kind}/{group}/p95" for kind in ("klom", "klom_floor") for group in ("forget", "retain", "val")]
    for seed in (0, 1):
        for forget in ("random", "rum_high_mem"):
            for place, unlearner in enumerate(("dmm", "finetune", "scrub", "retrain")):
                metrics = dict.fromkeys(names, 9.0 + place + seed / 9) | {"cost/shared": 0.0, "tow_floor": 0.9}
                tow = np.linspace(0.7, 0.9 + place / 50, 20)
                written(unlearner, seed, forget=forget, metrics=metrics, tow=tow)
                written(unlearner, seed, forget=forget, metrics=metrics, tow=tow, lr=0.123456789)
    assert compare_runs([str(tmp_path / "runs"), f"--html={tmp_path / 'out.html'}"]) == 0
    assert crushed(browser, tmp_path / "out.html") == []
    assert faults(browser, tmp_path / "out.html") == []


def test_files_hold_every_run_and_the_page_opens_offline(folder, tmp_path, capsys):
    (folder / "digits-mlp-random-dmm__0-50-0" / "report.html").write_text("a report")
    targets = {name: tmp_path / f"out.{name}" for name in ("csv", "parquet", "html")}
    assert compare_runs([str(folder), *(f"--{name}={path}" for name, path in targets.items())]) == 0
    assert len(pd.read_csv(targets["csv"])) == len(pd.read_parquet(targets["parquet"])) == 4
    assert {"name", "method", "dataset", "seed", "forget.seed", "tow"} <= set(pd.read_csv(targets["csv"]).columns)
    page = targets["html"].read_text()
    assert re.findall(r'href="([^"]*)"', page) == ["runs/digits-mlp-random-dmm__0-50-0/report.html"]
    assert "default-src 'none'" in page
    assert page.count('<svg class="plot"') == 3
    for role in method_roles(["dmm", "finetune"]).values():
        assert len(re.findall(rf'class="[^"]*medium {colour_of(role)}"', page)) == 3 + 1  # panels, legend
    assert "http" not in page.replace("http-equiv", "")
    assert "did not finish" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "PATH 'nowhere' holds no run"),
        (["runs", "--where", "unlearner=dm"], "--where unlearner=dm leaves no run"),
        (["runs", "--metric", "towe"], "did you mean 'tow'?"),
        (["runs", "--by", "forget.sze"], "did you mean 'forget.size'?"),
        (["runs", "--baseline", "dm"], "did you mean 'dmm'?"),
        (["runs", "--html", "nowhere/x.html"], "--html 'nowhere/x.html' cannot be written"),
        (["runs", "--colour"], "unrecognized arguments: --colour"),
        (["runs/digits-mlp-random-scrub__0-50-0"], "none of 1 runs can be compared"),
    ],
)
def test_bad_input_is_one_sentence_with_exit_code_2_and_nothing_written(command, folder, tmp_path, arguments, said):
    before = sorted(tmp_path.rglob("*"))
    done = command("compare", *arguments, "--csv", "x.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_tables_for_papers_say_what_the_terminal_says(command, folder, tmp_path):
    done = command(
        "compare", "runs", "--latex", "means.tex", "--markdown", "tables.md", "--metric", "tow", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    latex, markdown = ((tmp_path / name).read_text(encoding="utf-8") for name in ("means.tex", "tables.md"))
    assert latex.count(r"\textbf{") >= 1
    assert latex.count("\\\\") == markdown.split("## Ranks")[0].count("\n| ") - 1  # without the line below the head
    assert "## Ranks" in markdown
    assert "## Differences from" in markdown


def test_help_says_enough(tmp_path):
    done = started("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "examples:" in done.stdout


def test_a_hundred_runs_are_compared_without_torch_in_seconds(written, tmp_path):
    draw = np.random.default_rng(0)
    for seed in range(34):
        for unlearner in ("dmm", "finetune", "scrub"):
            written(unlearner, seed, tow=draw.uniform(0.5, 0.9, 100))
    code = (
        "import sys; from dmm_exp.commands.compare import compare_runs; compare_runs(sys.argv[1:]); "
        "assert not {'torch', 'lightning', 'hydra', 'matplotlib'} & set(sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "runs"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 5  # of processor time: others may be busy
