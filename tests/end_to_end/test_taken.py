"""What in a person's files was taken as what is printed, and stands in the run's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dmm_exp import Ledger, prepare, train, unlearn
from dmm_exp.data import Dataset, Split
from dmm_exp.data.formats import Table
from dmm_exp.records.files import read

SMALLEST = [
    "model=logistic",
    "n_models=2",
    "pool.size=8",
    "pool.held_out=2",
    "training.epochs=1",
    "unlearner=finetune",
    "unlearner.epochs=1",
    "forget=random",
    "forget.size=3",
    "evaluation.report=false",
    "executor=local",
    "logger=none",
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    x, labels = np.random.default_rng(0).normal(size=60), np.array(["NA", "US"] * 30)
    pd.DataFrame({"x": x, "label": labels}).to_csv(tmp_path / "table.csv", sep=";")
    return tmp_path / "table.csv"


def test_a_run_prints_what_was_taken_as_what_and_keeps_it(table: Path, command: Any):
    done = command("dataset=table", f"dataset.path={table}", *SMALLEST, cwd=table.parent)
    said = "table.csv: values separated by semicolons; label 'label' of 2 classes ('NA', 'US'); inputs 'x'; "
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(said) == 1
    assert f"# {said}" in (Path(done.stdout.splitlines()[-1]) / "config.yaml").read_text()


@pytest.mark.parametrize("column", ["id", "copy", "date"])
def test_what_is_refused_ends_the_command_with_2_and_writes_nothing(column: str, table: Path, command: Any):
    content = pd.read_csv(table, sep=";", keep_default_na=False).drop(columns="Unnamed: 0")
    more = {"id": range(60), "copy": content["label"], "date": "2020-01-01"}
    content.assign(**{column: more[column]}).to_csv(table, index=False)
    done = command("dataset=table", f"dataset.path={table}", *SMALLEST, cwd=table.parent)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: column '{column}' of {table}")
    assert done.stderr.count("\n") == 1
    assert not (table.parent / "outputs" / "runs").exists()


def test_deletions_from_python_print_it_too_and_records_keep_it(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    content = pd.read_csv(table, sep=";", keep_default_na=False).drop(columns="Unnamed: 0")
    content["x"] += np.where(content["label"] == "US", 5, 0)  # so that a network learns something
    content.to_csv(table, sep=";", index=False)
    data = Dataset({"table": Table()}, path=str(table), split=Split(test=0.25))
    said = "table.csv: values separated by semicolons"
    network = train(torch.nn.Linear(1, 2), data, {"epochs": 40}, seed=0)
    capsys.readouterr()
    one = unlearn(network, data, [3], method="finetune epochs=1")
    assert capsys.readouterr().err.count(said) == 1
    book = Ledger(tmp_path / "book", network, data, method="finetune epochs=1")
    assert capsys.readouterr().err.count(said) == 1
    other = book.delete([3])
    assert capsys.readouterr().err.count(said) == 0
    prepare(network, data, {"epochs": 1}, tmp_path / "pool", size=40)
    assert capsys.readouterr().err.count(said) == 1
    for result in (one, other):
        (kept,) = read(result.save(tmp_path / "out"))["taken"]
        assert kept.startswith(said)
    assert book.delete([3]).taken == [kept]
