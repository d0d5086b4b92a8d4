"""Beyond a single run: a method of one's own, several numbers of epochs, searches, leaderboards."""

import csv
import json
from pathlib import Path

import pytest
from results_of_runs import SMALLEST

from dmm_exp.executors import close_executors
from dmm_exp.leaderboard.board import early_epochs

SMALL = [
    *SMALLEST,
    "n_models=2",
    "logger=none",
]
METHOD = '''
from dmm_exp.unlearners import FineTuning, shuffled


class Shrink(FineTuning):
    """Shrinks the logits of the forget set."""

    def __init__(self, *, strength, **optimisation):
        super().__init__(**optimisation)
        self.strength = strength

    def sample(self, task, generator):
        return shuffled(task.forget, generator)

    def losses(self, fit, indices):
        return self.strength * fit.predict_batch(indices).square().mean((1, 2))
'''
SETTINGS = """
_target_: own_methods.Shrink
strength: 1.0
epochs: 3
batch_size: 64
optimizer: {_target_: torch.optim.Adam, _partial_: true, lr: 0.001}
schedule: {_target_: dmm_exp.ensembles.schedules.Constant}
"""


@pytest.fixture(scope="module")
def local(command):
    """Return the function that does a command in this process, and its work too."""
    return lambda *arguments, **options: command(*arguments, "executor=local", **options)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return a folder with a method and its YAML file, outside the package."""
    (tmp_path / "conf" / "unlearner").mkdir(parents=True)
    (tmp_path / "own_methods.py").write_text(METHOD)
    (tmp_path / "conf" / "unlearner" / "shrink.yaml").write_text(SETTINGS)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_method_of_ones_own_is_a_class_and_a_file_that_workers_find_too(command, own):
    workers = ["executor=processes", "executor.workers=1"]
    done = command("--config-dir", own / "conf", *SMALL, *workers, "forget=random", "unlearner=shrink", cwd=own)
    close_executors()
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    assert "-shrink__" in folder.name
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["accuracy/unlearned/forget"] != metrics["accuracy/original/forget"]
    assert metrics["cost/unlearning"] == 3 * len(json.loads((folder / "forget.json").read_text()))


def test_mistakes_with_a_method_of_ones_own_are_one_sentence(local, own):
    for override, said in (("unlearner=shrnk", "did you mean 'shrink'?"), ("+unlearner.strenght=1", "takes no")):
        arguments = ["--config-dir", "conf", *SMALL, *(["unlearner=shrink"] * ("+" in override)), override]
        done = local(*arguments, cwd=own)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert said in done.stderr


def test_a_method_of_ones_own_can_be_searched(local, own):
    space = "+hparams_search.spaces.shrink.strength=[0.1,1.0]"
    arguments = ["hparams_search=grid", 'forget_tuning=["random seed=5"]', space, "unlearner=shrink", "forget=random"]
    done = local("--config-dir", "conf", *SMALL, *arguments, cwd=own)
    assert done.returncode == 0, done.stderr
    assert "best of 2 settings" in done.stderr


def test_several_epochs_give_a_row_each_and_the_last_is_the_run(start, outputs):
    small = ["unlearner=gradient_ascent", "forget=random", "n_models=4", "training.epochs=1", "training.batch_size=512"]
    several = start(outputs, *small, "unlearner.epochs=[1,2,4]")
    alone = start(outputs, *small, "unlearner.epochs=2")
    assert list(several.checkpoints) == [1, 2, 4]
    same = {name: value for name, value in alone.metrics.items() if not name.startswith("seconds")}
    assert {name: several.checkpoints[2][name] for name in same} == same
    with (several.folder / "checkpoints.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "4"]
    assert float(rows[-1]["cost/ratio"]) == several.metrics["cost/ratio"]
    assert float(rows[0]["cost/ratio"]) * 4 == pytest.approx(several.metrics["cost/ratio"])


def test_a_sweep_has_a_row_for_every_number_of_epochs(local, tmp_path):
    done = local("-m", *SMALL, "forget=random", "unlearner=gradient_ascent", "unlearner.epochs=[1,3]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "epoch 1" in done.stdout
    assert "epoch 3" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hparams_search=grid"], "forget_tuning=[]"),
        (["hparams_search=grid", 'forget_tuning=["rum_high_mem"]'], "is the forget set that is reported"),
        (["hparams_search=grid", 'forget_tuning=["randm"]'], "did you mean 'random'?"),
        (["hparams_search=grd"], "did you mean 'grid'?"),
        (["hparams_search=grid", "unlearner=do_nothing", 'forget_tuning=["random"]'], "has none for"),
    ],
)
def test_a_search_that_cannot_be_is_one_sentence(local, tmp_path, arguments, said):
    done = local(*SMALL, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert not list(tmp_path.rglob("trials"))


BOARD = """# @package _global_
defaults:
  - override /job: leaderboard
leaderboard:
  title: Small
  methods: [finetune, do_nothing]
  forget_sets:
    random: [random seed=0, random seed=1]
    class: [class label=2 fraction=0.2]
"""


def board(local, folder, *more):
    (folder / "conf" / "experiment").mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "experiment" / "small_board.yaml").write_text(BOARD)
    arguments = ["--config-dir", "conf", "experiment=small_board", *SMALL[1:], *more]
    return local(*arguments, cwd=folder)


def test_a_leaderboard_is_its_runs(local, tmp_path):
    done = board(local, tmp_path)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    names = {path.name for path in folder.iterdir()}
    assert {"leaderboard.html", "leaderboard.csv", "leaderboard.md", "cells.csv", "figures.json"} <= names
    assert len(list((tmp_path / "outputs" / "runs").iterdir())) == 6
    with (folder / "cells.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "finetune" and row["forget"] == "random seed=1"]
    alone = local(
        *SMALL[1:], "unlearner=finetune", "unlearner.epochs=4", "forget=random", "forget.seed=1", cwd=tmp_path
    )
    metrics = json.loads((Path(alone.stdout.splitlines()[-1]) / "metrics.json").read_text())
    assert float(next(r for r in rows if float(r["epoch"]) == 4)["klom/forget/p95"]) == metrics["klom/forget/p95"]
    damaged, *_ = (folder / "runs").glob("*.json")
    damaged.write_text("{")
    again = board(local, tmp_path)
    assert again.stdout == done.stdout
    assert again.stderr.count("✓ dataset") == 1  # the other five are known from their records
    assert json.loads(damaged.read_text())["metrics"]
    assert "computed in" not in "".join(line for line in again.stderr.splitlines() if "evaluation" in line)


def test_settings_of_another_job_are_refused(local, tmp_path):
    done = board(local, tmp_path, "job=run")
    assert done.returncode == 2
    assert "leaderboard.methods: is a setting of job=leaderboard; expected job=leaderboard" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_leaderboard_with_a_mistake_starts_nothing(local, tmp_path):
    done = board(local, tmp_path, "leaderboard.methods=[finetune,finetun]")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("did you mean 'finetune'?")
    assert not (tmp_path / "outputs").exists()


STUDY = """
# @package _global_
defaults:
  - override /job: study
study:
  title: Two tables
  seeds: [0, 1]
  overrides: [n_models=2, pool.size=12, pool.held_out=2, pool.larger.size=0, training.epochs=1,
    training.batch_size=512, logger=none]
  methods: [finetune]
  tables:
    levels:
      columns: {low: forget=rum_low_mem, high: forget=rum_high_mem}
    other:
      rows: {nothing: unlearner=do_nothing, failing: unlearner=ssd unlearner.alpha=1e9}
      columns: {here: forget=random refinement=shuffle}
"""


@pytest.fixture
def study(tmp_path):
    """Return the arguments of a study that lies outside the package."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "two.yaml").write_text(STUDY)
    return ["--config-dir", "conf", "experiment=two"]


def test_a_study_is_its_runs_over_seeds_and_goes_on_where_it_stopped(local, study, tmp_path):
    done = local(*study, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs" / "studies").iterdir()
    assert done.stdout.strip().endswith(str(folder))
    cells = list(csv.DictReader((folder / "cells.csv").open()))
    assert len(cells) == 2 * (2 + 2)
    assert [cell["status"] for cell in cells].count("failed") == 2
    summary = {
        (row["table"], row["row"], row["column"]): row for row in csv.DictReader((folder / "summary.csv").open())
    }
    low = [float(cell["tow"]) for cell in cells if cell["column"] == "low"]
    assert float(summary["levels", "finetune", "low"]["mean"]) == pytest.approx(sum(low) / 2)
    assert "alpha=1e+09" in (folder / "study.html").read_text()
    assert float(summary["levels", "independent retraining (floor)", "low"]["mean"]) > 0
    again = local(*study, cwd=tmp_path)
    assert again.returncode == 0
    assert "failing" in again.stderr
    assert "by Finetune" not in again.stderr  # what was done is read, what failed is tried again
    assert len(list(csv.DictReader((folder / "cells.csv").open()))) == len(cells)


def test_a_study_with_a_mistake_starts_nothing(local, study, tmp_path):
    done = local(*study, "study.tables.levels.columns.low='forget=rum_lwo_mem'", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_scores_are_written_with_their_correlations(local, tmp_path):
    done = local("scores", *SMALL, "training.epochs=4", "training.batch_size=64", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip().splitlines()[-1])
    scores = list(csv.DictReader((folder / "scores.csv").open()))
    assert len(scores) == 1438
    assert all(0 <= float(row["confidence"]) <= 1 for row in scores)
    found = {row["score"]: float(row["spearman"]) for row in csv.DictReader((folder / "correlations.csv").open())}
    for name in ("max_confidence", "entropy", "binary_accuracy", "loss_curvature", "held_out_retraining", "es", "pc1"):
        assert -1 <= found[name] <= 1
    assert found["confidence"] < -0.2
    assert {"scores.parquet", "scores.html", "figures.json"} <= {path.name for path in folder.iterdir()}
    assert "[1] job=scores seed=1" in local("scores", "-m", "seed=0,1", "dry_run=true", cwd=tmp_path).stderr


def test_early_epochs_are_powers_of_two_and_the_last():
    assert early_epochs(8) == [1, 2, 4, 8]
    assert early_epochs(5) == [1, 2, 4, 5]
    assert early_epochs(2) == [1, 2]
    assert [early_epochs(number) for number in (1, 0, None, [1, 2])] == [[], [], [], []]
