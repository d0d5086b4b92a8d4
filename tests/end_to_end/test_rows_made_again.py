"""Rows of a leaderboard that runs: they are written as runs end, made again, and told from changed ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmm_exp.leaderboard.rows import read_row

BOARD = """# @package _global_
defaults:
  - override /job: leaderboard
leaderboard:
  board: tiny
  rows: rows
  methods: [gradient_ascent]
  checkpoints: false
  forget_sets: {class: [class label=2 fraction=0.2]}
"""
TINY = [
    *("experiment=tiny_board", "n_models=2", "training.epochs=1", "pool=halves", "pool.size=16", "pool.held_out=2"),
    *("pool.larger.size=0", "executor=local", "evaluation.report=false"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, command: Any) -> Path:
    """Return a folder in which a leaderboard of one cell was made."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / "tiny_board.yaml").write_text(BOARD)
    done = command("--config-dir", "conf", *TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def the_row(folder: Path) -> Path:
    (path,) = (folder / "rows").rglob("*.json")
    return path


def changed(folder: Path, to: Path, name: str, value: Any) -> Path:
    found = json.loads(the_row(folder).read_text())
    if name == "klom/val/p95":
        found["scores"][name]["value"] += value
    else:
        found[name] = value
    path = to / "changed.json"
    path.write_text(json.dumps(found))
    return path


def test_every_run_of_a_leaderboard_is_a_row(made: Path) -> None:
    path = the_row(made)
    row = read_row(path)
    assert path.relative_to(made / "rows").as_posix() == "tiny/gradient_ascent/class-label-2-fraction-0-2.json"
    (run,) = (made / "outputs" / "runs").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert row.run == run.name
    assert row.run.endswith(row.id)
    assert row.scores["klom/val/p95"]["value"] == pytest.approx(metrics["klom/val/p95"], rel=1e-5)
    assert row.cost["ratio"] == pytest.approx(metrics["cost/ratio"], rel=1e-5)
    assert row.points["forget"] == len(json.loads((run / "forget.json").read_text()))
    assert not row.reference
    assert "paths" not in row.command
    assert "executor" not in row.command


def test_a_run_added_by_hand_is_the_same_row(made: Path, command: Any) -> None:
    (run,) = (made / "outputs" / "runs").iterdir()
    words = ["--board", "tiny", "--forget", "class label=2 fraction=0.2", "--to", "again"]
    done = command("leaderboard", "add", run, *words, cwd=made)
    assert done.returncode == 0, done.stderr
    assert Path(made / done.stdout.strip()).read_bytes() == the_row(made).read_bytes()


def test_a_row_is_made_again_from_nothing(made: Path, tmp_path: Path, command: Any) -> None:
    done = command("leaderboard", "check", the_row(made), "executor=local", "--anew", "--exact", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[1].strip() == read_row(the_row(made)).command  # printed before it is run
    assert done.stdout.splitlines()[-1].startswith("reproduced: ")
    assert "originals" in done.stderr
    assert "computed in" in done.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("klom/val/p95", -0.01), ("id", "0123456789"), ("forget_digest", "0" * 16), ("reference", True)],
)
def test_what_was_changed_by_hand_is_not_reproduced(
    made: Path, tmp_path: Path, command: Any, name: str, value: Any
) -> None:
    path = changed(made, tmp_path, name, value)
    done = command("leaderboard", "check", path, "executor=local", cwd=made)
    assert done.returncode == 1, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.strip().startswith(f"{name} ")]
    assert line.rstrip().endswith("differs")
    assert "not reproduced" in done.stdout.splitlines()[-1]


def test_what_no_row_may_say_is_refused_before_anything_is_run(made: Path, tmp_path: Path, command: Any) -> None:
    words = ["unlearner.optimizer._target_=torch.optim.Adam", f"paths.outputs={tmp_path / 'out'}"]
    done = command("--config-dir", made / "conf", *TINY, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: unlearner.optimizer.")
    assert not (tmp_path / "out").exists()
