from __future__ import annotations

import csv
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmm_exp.errors import UserError
from dmm_exp.report.result import RunResult
from dmm_exp.report.trackers import RUN_ID_FILE, CsvTracker, NoTracker, WandbTracker


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


def test_wandb_writes_an_offline_run_under_the_runs_folder(
    make_run: Callable[..., RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = make_run(members=10, n_points=60, forgotten=10)
    (tmp_path / "report.html").write_text("<p>report</p>", encoding="utf-8")
    image = pytest.importorskip("PIL.Image").new("RGB", (8, 8))
    (tmp_path / "figures").mkdir()
    image.save(tmp_path / "figures" / "klom_by_group.png")
    tracker = WandbTracker("dmm_exp", group="sweep", tags=["test"])
    tracker.start(run.name, run.config, tmp_path)
    identity = (tmp_path / RUN_ID_FILE).read_text().strip()
    tracker.finish(run)
    (offline,) = (tmp_path / "wandb").glob(f"offline-run-*-{identity}")
    assert list(offline.glob("*.wandb"))
    assert list(offline.glob("files/media/images/figures/*.png"))
    assert list(offline.glob("files/media/html/*.html"))
    assert list(offline.glob("files/media/table/*.json"))


def test_wandb_keeps_the_id_of_a_folder_that_was_tracked_before(
    run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    (tmp_path / RUN_ID_FILE).write_text("abcd1234\n")
    tracker = WandbTracker("dmm_exp", mode="offline")
    tracker.start(run.name, run.config, tmp_path)
    tracker.fail("it broke")
    assert list((tmp_path / "wandb").glob("offline-run-*-abcd1234"))


def test_wandb_that_cannot_be_imported_is_one_clear_sentence(
    run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UserError, match="pip install wandb"):
        WandbTracker("dmm_exp").start(run.name, run.config, tmp_path)
