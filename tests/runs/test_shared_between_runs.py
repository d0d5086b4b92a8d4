"""Runs of one process read a dataset once, and let an estimator learn once; what they find does not depend on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import compose_cells
from dmm_exp.config.schema import register
from dmm_exp.data import Digits
from dmm_exp.pipeline import Effects, Shared
from dmm_exp.runs.run import run

SMALL = [
    "experiment=quick", "pool=halves", "pool.size=20", "pool.larger.size=0", "attribution=empirical_bayes",
    "n_models=3", "training.epochs=1", "executor=local", "evaluation.report=false", "unlearner.epochs=1", "logger=none",
]  # fmt: skip


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return how often data was read and an estimator learnt."""
    counts = {"read": 0, "learnt": 0}
    load, learn = Digits.load, Effects._learn

    def counting_load(self):
        counts["read"] += 1
        return load(self)

    def counting_learn(self, rows, spec):
        counts["learnt"] += 1
        return learn(self, rows, spec)

    monkeypatch.setattr(Digits, "load", counting_load)
    monkeypatch.setattr(Effects, "_learn", counting_learn)
    return counts


def metrics_of(outputs: Path, shared: Shared | None, *overrides: str) -> list[dict[str, float]]:
    register()
    cells = compose_cells(config_directory(), [*SMALL, *overrides, f"paths.outputs={outputs}"], [])
    finished = [run(config, choices, table=False, shared=shared) for config, choices in cells]
    return [one.metrics for one in finished if one is not None]


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if "seconds" not in name}


def test_runs_that_share_read_and_learn_once_and_find_the_same(tmp_path, counted):
    sets = "forget=random", "forget.seed=0,1"
    together = metrics_of(tmp_path / "together", Shared(), *sets)
    assert counted == {"read": 1, "learnt": 1}
    alone = metrics_of(tmp_path / "alone", None, *sets)
    assert counted == {"read": 3, "learnt": 3}
    assert [untimed(one) for one in together] == [untimed(one) for one in alone]


def test_another_dataset_is_read(tmp_path, counted):
    first, second = metrics_of(tmp_path, Shared(), "forget=random", "dataset.corruption.fraction=0.0,0.1")
    assert counted["read"] == 2
    assert first != second


def test_a_search_reads_the_data_once(tmp_path, counted):
    search = ["hparams_search=grid", "hparams_search.spaces.finetune={epochs:[1,2]}", "unlearner=finetune"]
    metrics_of(tmp_path, None, "forget=random", *search, "forget_tuning=['random seed=8','random seed=9']")
    assert counted["read"] == 1
