from __future__ import annotations

import csv
import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from wandb_files import written_runs

from dmm_exp.errors import UserError
from dmm_exp.report.charts import Chart, Panel, axis
from dmm_exp.report.figures import keep
from dmm_exp.runs.result import RunResult
from dmm_exp.runs.trackers import RUN_ID_FILE, CsvTracker, NoTracker, WandbTracker


def test_csv_files_hold_the_run_to_the_last_digit(run: RunResult, tmp_path: Path) -> None:
    tracker = CsvTracker()
    tracker.start(run.name, run.config, tmp_path)
    tracker.finish(run)
    with (tmp_path / "metrics.csv").open(newline="") as stream:
        assert {row["name"]: float(row["value"]) for row in csv.DictReader(stream)} == run.metrics
    with (tmp_path / "history.csv").open(newline="") as stream:
        rows = [(row["stage"], int(row["epoch"]), float(row["loss"])) for row in csv.DictReader(stream)]
    assert rows == [tuple(row) for row in run.history.itertuples(index=False)]


def test_csv_of_a_run_without_history_has_only_a_header(make_run: Callable[..., RunResult], tmp_path: Path) -> None:
    run = make_run(history=make_run().history.iloc[:0])
    tracker = CsvTracker()
    tracker.start(run.name, run.config, tmp_path)
    tracker.finish(run)
    assert (tmp_path / "history.csv").read_text() == "stage,epoch,loss\n"


def test_no_tracker_leaves_no_trace(run: RunResult, tmp_path: Path) -> None:
    tracker = NoTracker()
    tracker.start(run.name, run.config, tmp_path)
    tracker.finish(run)
    tracker.fail("error")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def reported(tmp_path: Path) -> Path:
    """Return a run's folder with a page that has one figure."""
    (tmp_path / "report.html").write_text("<p>report</p>", encoding="utf-8")
    keep([Chart("klom_by_group", "", "", [Panel(axis("x", [0, 1]), axis("y", [0, 1]), [])])], tmp_path)
    return tmp_path


def test_an_offline_wandb_run_holds_everything_by_name_and_value(
    make_run: Callable[..., RunResult], reported: Path
) -> None:
    members = pd.DataFrame({"member": [0, 1], "tow": [0.5, 0.75]})
    run = make_run(members=10, n_points=60, forgotten=10)
    run = dataclasses.replace(run, members=members, checkpoints={1: {"tow": 0.25}, 2: {"tow": 0.5}})
    tracker = WandbTracker("project", entity="team", group="sweep", tags=["test"], mode="offline", figures=True)
    tracker.start(run.name, run.config, reported)
    tracker.finish(run)
    (written,) = written_runs(reported)
    assert (written.name, written.group, written.project, written.entity) == (run.name, "sweep", "project", "team")
    assert written.id == (reported / RUN_ID_FILE).read_text().strip()
    assert written.tags == ["test"]
    assert {key: written.config[key] for key in run.config} == run.config
    assert {name: written.summary[name] for name in run.metrics} == run.metrics
    for stage, rows in run.history.groupby("stage"):
        losses = [(row[f"epoch/{stage}"], row[f"loss/{stage}"]) for row in written.history if f"loss/{stage}" in row]
        assert losses == list(zip(rows["epoch"], rows["loss"], strict=True))
    assert written.table("members") == {"columns": ["member", "tow"], "data": [[0, 0.5], [1, 0.75]]}
    assert written.table("checkpoints") == {"columns": ["epoch", "tow"], "data": [[1, 0.25], [2, 0.5]]}
    points = written.table("points")
    assert points["columns"] == list(run.points.columns)
    assert sorted(row[0] for row in points["data"]) == list(run.points["point"])
    picture = written.folder / "files" / written.summary["figures/klom_by_group"]["path"]
    assert picture.read_bytes() == (reported / "figures" / "klom_by_group.png").read_bytes()
    assert (written.folder / "files" / written.summary["report"]["path"]).read_text() == "<p>report</p>"


def test_wandb_keeps_the_id_of_a_folder_that_was_tracked_before(
    run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / RUN_ID_FILE).write_text("abcd1234\n")
    tracker = WandbTracker("dmm_exp", mode="offline")
    tracker.start(run.name, run.config, tmp_path)
    tracker.fail("it broke")
    (written,) = written_runs(tmp_path)
    assert (written.id, written.summary["error"], written.exit_code) == ("abcd1234", "it broke", 1)


def test_wandb_that_cannot_be_imported_is_one_clear_sentence(
    run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UserError, match="pip install wandb"):
        WandbTracker("dmm_exp").start(run.name, run.config, tmp_path)
