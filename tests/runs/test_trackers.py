from __future__ import annotations

import csv
import dataclasses
import importlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from wandb_files import written_runs

from dmm_exp.console.progress import Console, StageRecord
from dmm_exp.errors import UserError
from dmm_exp.report.charts import Chart, Panel, axis
from dmm_exp.report.figures import keep
from dmm_exp.runs import aside
from dmm_exp.runs.aside import Aside
from dmm_exp.runs.result import RunResult
from dmm_exp.runs.trackers import RUN_ID_FILE, CsvTracker, NoTracker, Tracker, WandbTracker


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
    tracker = WandbTracker(
        "project", entity="team", group="sweep", tags=["test"], mode="offline", figures=True, report=True
    )
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


def test_what_shows_the_data_is_sent_only_where_it_is_asked_for(run: RunResult, reported: Path) -> None:
    tracker = WandbTracker("project", mode="offline")
    tracker.start(run.name, run.config, reported)
    tracker.finish(run)
    (written,) = written_runs(reported)
    assert not [name for name in written.summary if name == "report" or name.startswith("figures")]
    sent = [path.suffix for path in (written.folder / "files").rglob("*")]
    assert not {".html", ".png"} & set(sent)


def test_csv_shows_progress_while_the_run_goes_on(run: RunResult, tmp_path: Path) -> None:
    tracker = CsvTracker()
    tracker.start(run.name, run.config, tmp_path)
    rows = []
    for done, loss in ((2, 0.5), (4, None)):
        tracker.progress("oracles", done, 4, loss)
        with (tmp_path / "progress.csv").open(newline="") as stream:
            rows.append([tuple(row.values())[1:] for row in csv.DictReader(stream)])
    tracker.stage(StageRecord("scores", "", 1.0, False))
    assert rows[0] == [("oracles", "2", "4", "0.5")]
    assert rows[1] == [*rows[0], ("oracles", "4", "4", "")]
    assert (tmp_path / "progress.csv").read_text().splitlines()[-1].endswith(",scores,1,1,")


def test_wandb_has_a_run_of_each_job_type_that_computed_something(run: RunResult, tmp_path: Path) -> None:
    tracker = WandbTracker("project", group="sweep", mode="offline")
    tracker.start(run.name, run.config, tmp_path)
    tracker.progress("pool: class", 3, 6, 0.75)
    tracker.progress("unlearning", 2, 2, 0.25)
    tracker.stage(StageRecord("unlearning", "", 2.5, False))
    tracker.fail("it broke")
    found = {written.job_type: written for written in written_runs(tmp_path, job_type=None)}
    assert set(found) == {"evaluate", "pool", "unlearn"}
    assert len({written.id for written in found.values()}) == 3
    assert {written.group for written in found.values()} == {"sweep"}
    assert {written.exit_code for written in found.values()} == {1}
    assert found["pool"].history[0]["members/pool: class"] == 3
    assert found["pool"].history[0]["loss/pool: class"] == 0.75
    assert found["unlearn"].history[0]["members/unlearning"] == 2
    assert found["evaluate"].summary["seconds/unlearning"] == 2.5
    assert found["evaluate"].summary["now/stage"] == "unlearning"


class Broken(Tracker):
    """A tracker whose server is down."""

    def progress(self, name: str, done: int, total: int, loss: float | None) -> None:
        raise ConnectionError("no route to host")


class Stuck(Tracker):
    """A tracker whose server answers nothing."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.heard: list[int] = []

    def start(self, run_name: str, config: Any, folder: Path) -> None:
        self.goes_on.wait(30)

    def progress(self, name: str, done: int, total: int, loss: float | None) -> None:
        self.heard.append(done)


def test_a_tracker_that_is_down_is_said_once_and_stops_nothing(run: RunResult, tmp_path: Path) -> None:
    said: list[str] = []
    tracker = Aside(Broken(), said.append)
    tracker.start(run.name, run.config, tmp_path)
    for done in range(5):
        tracker.progress("oracles", done, 5, None)
    tracker.finish(run)
    assert said == ["Broken: ConnectionError: no route to host; the run goes on without it"]


def test_a_tracker_that_is_slow_is_not_waited_for_and_gets_everything_in_order(
    run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "START_WAIT", 0.01)
    said: list[str] = []
    stuck = Stuck()
    tracker = Aside(stuck, said.append)
    tracker.start(run.name, run.config, tmp_path)
    for done in range(3):
        tracker.progress("oracles", done, 3, None)
    assert stuck.heard == []
    stuck.goes_on.set()
    tracker.finish(run)
    assert stuck.heard == [0, 1, 2]
    assert len(said) == 1
    assert said[0].startswith("Stuck: has not begun")


def test_a_tracker_that_takes_no_results_is_left_alone(
    run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "START_WAIT", 0.01)
    monkeypatch.setattr(aside, "END_WAIT", 0.01)
    monkeypatch.setattr(aside, "MOST_WAITING", 2)
    said: list[str] = []
    stuck = Stuck()
    tracker = Aside(stuck, said.append)
    tracker.start(run.name, run.config, tmp_path)
    for done in range(100):
        tracker.progress("oracles", done, 100, None)
    tracker.finish(run)
    assert said[-1].startswith("Stuck: has not taken the results")
    assert tracker._calls.qsize() <= 3  # no memory is filled
    stuck.goes_on.set()


def test_settings_of_a_tracker_that_cannot_work_end_the_run_before_any_work(run: RunResult, tmp_path: Path) -> None:
    class Wrong(Tracker):
        def start(self, run_name: str, config: Any, folder: Path) -> None:
            raise UserError("logger=wrong: expected another")

    with pytest.raises(UserError, match="logger=wrong"):
        Aside(Wrong(), pytest.fail).start(run.name, run.config, tmp_path)


def test_a_console_tells_of_stages_members_and_losses(tmp_path: Path) -> None:
    heard: list[Any] = []

    class Heard(Tracker):
        def stage(self, record: StageRecord) -> None:
            heard.append(record.name)

        def progress(self, name: str, done: int, total: int, loss: float | None) -> None:
            heard.append((name, done, total, loss))

    console = Console(quiet=True)
    console.report_to(Heard())
    with console.progress("oracles", 3) as advance:
        for loss in (0.5, 0.25, 0.125):
            advance(1, loss)
    console.stage_done(StageRecord("oracles", "", 1.0, False))
    assert heard == [("oracles", 1, 3, 0.5), ("oracles", 3, 3, 0.125), "oracles"]
