"""Runs that trackio keeps on this machine, read back from its database; nothing leaves the machine."""

from __future__ import annotations

import dataclasses
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dmm_exp.errors import UserError
from dmm_exp.report.charts import Chart, Panel, axis
from dmm_exp.report.figures import keep
from dmm_exp.runs.result import RunResult
from dmm_exp.runs.trackers import TrackioTracker

CHOICES = {"choices": {"unlearner": "dmm", "forget": "random"}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of trackio's data: a process can have one only."""
    pytest.importorskip("trackio")
    folder = tmp_path_factory.mktemp("trackio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", "")  # restored afterwards
        for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
            patch.delitem(sys.modules, name)
        yield folder


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that looks a host up or connects to one; somebody is logged in at Hugging Face."""

    def refuse(*arguments: Any, **_: Any) -> None:
        pytest.fail(f"asked for the network: {arguments}")

    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def reported(tmp_path: Path) -> Path:
    """Return a run's folder with a page that has one figure."""
    (tmp_path / "report.html").write_text("<p>report</p>", encoding="utf-8")
    keep([Chart("klom_by_group", "", "", [Panel(axis("x", [0, 1]), axis("y", [0, 1]), [])])], tmp_path)
    return tmp_path


def logged(project: str) -> list[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """Return name, configuration and entries of every run of a project."""
    import trackio

    storage = trackio.SQLiteStorage
    runs = list(trackio.Api().runs(project))
    return [(run.name, run.config or {}, storage.get_logs(project, run.name, run_id=run.id)) for run in runs]


def test_a_run_holds_everything_by_name_and_value(
    make_run: Callable[..., RunResult], data: Path, reported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(members=10, n_points=60, forgotten=10)
    run = dataclasses.replace(run, members=pd.DataFrame({"member": [0, 1], "tow": [0.5, 0.75]}))
    tracker = TrackioTracker("whole", str(data), group="sweep", figures=True)
    tracker.start(run.name, run.config | CHOICES, reported)
    tracker.finish(run)
    assert capsys.readouterr().out == ""  # standard output ends with the run's folder
    assert (data / "whole.db").is_file()
    ((name, config, entries),) = logged("whole")
    assert (name, config["_Group"], config["choices.unlearner"]) == (run.name, "sweep", "dmm")
    assert {key: config[key] for key in run.config} == run.config
    values = {key: value for entry in entries for key, value in entry.items()}
    assert {key: values[key] for key in run.metrics} == run.metrics
    for stage, rows in run.history.groupby("stage"):
        losses = [(entry["step"], entry[f"loss/{stage}"]) for entry in entries if f"loss/{stage}" in entry]
        assert sorted(losses) == list(zip(rows["epoch"], rows["loss"], strict=True))
    assert values["members"]["_value"] == [{"member": 0, "tow": 0.5}, {"member": 1, "tow": 0.75}]
    assert [row["point"] for row in values["points"]["_value"][:10]] == run.points["point"][run.rows("forget")].tolist()
    media = data / "media"
    assert (media / values["report"]["file_path"]).read_text() == "<p>report</p>"
    picture = (media / values["figures/klom_by_group"]["file_path"]).read_bytes()
    assert picture == (reported / "figures" / "klom_by_group.png").read_bytes()


def test_a_run_that_is_started_again_replaces_what_it_wrote(run: RunResult, data: Path, reported: Path) -> None:
    tracker = TrackioTracker("again", str(data))
    for name in (run.name, run.name, "another"):
        tracker.start(name, run.config, reported)
        tracker.finish(run)
    found = logged("again")
    assert sorted(name for name, *_ in found) == sorted(["another", run.name])
    assert len({len(entries) for *_, entries in found}) == 1
    assert not any(key.startswith("figures/") for *_, entries in found for entry in entries for key in entry)
    assert not (reported / "figures").exists()  # nobody asked for pictures


def test_a_run_that_failed_says_why(run: RunResult, data: Path, tmp_path: Path) -> None:
    tracker = TrackioTracker("failed", str(data))
    tracker.fail("before the start")
    tracker.start(run.name, run.config, tmp_path)
    tracker.fail("it broke")
    ((name, _, entries),) = logged("failed")
    assert name == run.name
    assert ["it broke" in str(entry["error"]) for entry in entries] == [True]


def test_a_second_folder_in_one_process_is_refused(run: RunResult, data: Path, tmp_path: Path) -> None:
    TrackioTracker("one", str(data)).start(run.name, run.config, tmp_path)
    with pytest.raises(UserError, match="already keeps trackio's data in"):
        TrackioTracker("one", str(tmp_path)).start(run.name, run.config, tmp_path)
