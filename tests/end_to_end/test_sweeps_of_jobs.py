"""Sweeps over what consists of many runs: leaderboards, studies, convex experiments."""

import csv
import json
from pathlib import Path

import pytest
from results_of_runs import SMALLEST

CONVEX = """# @package _global_
defaults:
  - override /job: convex
convex:
  loss: ridge
  repeats: 2
  tuning_repeats: 1
  steps: 20
  passes: 1
  multiples: [0.5, 1.5]
  pool: {size: 20, estimator: {_target_: dmm_exp.attribution.Datamodel, tuning_outputs: 10, penalties: [1.0]}}
  base: {n: 40, d: 5, rare: 1, size: 3}
  settings: {base: {}}
"""
BOARD = """# @package _global_
defaults:
  - override /job: leaderboard
leaderboard:
  title: Small
  methods: [gradient_ascent, do_nothing]
  checkpoints: false
  forget_sets: {random: [random seed=0]}
"""
STUDY = """# @package _global_
defaults:
  - override /job: study
study:
  title: Small
  seeds: [5]
  tables: {table: {rows: {nothing: unlearner=do_nothing}, columns: {here: forget=random}}}
"""
FAILING = STUDY.replace("unlearner=do_nothing", "unlearner=ssd unlearner.alpha=1e9").replace("Small", "Failing")
SMALL = [*SMALLEST[1:], "n_models=2", "logger=none", "executor=local"]


@pytest.fixture(scope="module")
def sweep(command, tmp_path_factory):
    """Return a function that does a sweep, and gives what the command said and the records of its cells."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "conf" / "experiment").mkdir(parents=True)
    for name, text in {"convex": CONVEX, "board": BOARD, "study": STUDY, "failing": FAILING}.items():
        (folder / "conf" / "experiment" / f"{name}.yaml").write_text(text)

    def do(*words, multirun=True):
        done = command(*(["-m"] if multirun else []), "--config-dir", "conf", *words, *SMALL, cwd=folder)
        printed = "dry_run=true" not in words and done.stdout.splitlines()
        cells = sorted(Path(printed[-1]).glob("cell-*.json")) if printed else []
        return done, [json.loads(path.read_text()) for path in cells]

    return do


def test_a_convex_experiment_over_seeds_is_an_experiment_for_each(sweep):
    done, cells = sweep("experiment=convex", "seed=0,1")
    assert done.returncode == 0, done.stderr
    assert [cell["status"] for cell in cells] == ["done", "done"]
    assert len({cell["folder"] for cell in cells}) == 2
    assert all((Path(cell["folder"]) / "convex.html").exists() for cell in cells)
    assert "failed" not in done.stdout
    assert "seed=0" in done.stdout
    assert "seed=1" in done.stdout


def test_a_convex_cell_that_fails_is_the_only_one_reported(sweep):
    done, cells = sweep("experiment=convex", "++convex.settings.base.size=3,50")
    assert done.returncode == 2  # refused before the first cell starts
    assert "convex.settings.base.size=50" in done.stderr
    assert cells == []


def test_a_leaderboard_in_a_sweep_is_a_leaderboard(sweep):
    done, (cell,) = sweep("experiment=board")
    assert done.returncode == 0, done.stderr
    assert cell["status"] == "done"
    folder = Path(cell["folder"])
    assert (folder / "leaderboard.html").exists()
    rows = list(csv.DictReader((folder / "cells.csv").open()))
    assert {row["method"] for row in rows} == {"gradient_ascent", "do_nothing"}
    alone, _ = sweep("experiment=board", multirun=False)
    assert alone.stdout.splitlines()[-1] == str(folder)
    assert f"board: {folder}" in done.stderr or f"cell 0: {folder}" in done.stderr


def test_studies_and_leaderboards_stand_side_by_side_and_a_failing_one_is_reported(sweep):
    done, cells = sweep("experiment=study,failing,board")
    assert done.returncode == 1
    assert [cell["status"] for cell in cells] == ["done", "failed", "done"]
    assert "1 of 3 cells failed" in done.stdout
    assert all(name in done.stdout for name in ("study", "failing", "board"))
    assert "all 1 runs failed" in cells[1]["error"]


def test_a_study_over_seeds_takes_each_seed_in_a_folder_of_its_own(sweep):
    done, cells = sweep("experiment=study", "seed=0,1")
    assert done.returncode == 0, done.stderr
    seeds = [next(csv.DictReader((Path(cell["folder"]) / "cells.csv").open()))["seed"] for cell in cells]
    assert seeds == ["0", "1"]
    alone, _ = sweep("experiment=study", multirun=False)
    (row,) = csv.DictReader((Path(alone.stdout.splitlines()[-1]) / "cells.csv").open())
    assert row["seed"] == "5"


def test_the_plan_of_a_sweep_is_the_plan_of_each(sweep):
    done, cells = sweep("experiment=convex,board", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "base: data=gaussian" in done.stdout
    assert "unlearner=gradient_ascent" in done.stdout
    assert cells == []
