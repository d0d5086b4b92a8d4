"""Everything of one user goes from a network: by the command line, from Python and by a ledger."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from networks import checkpoint

from dmm_exp import Ledger, prepare, unlearn
from dmm_exp.commands.cli import main
from dmm_exp.data import Dataset, Examples, Split
from dmm_exp.data.formats import Table
from dmm_exp.errors import UserError
from dmm_exp.forget import OneGroup

ROWS, METHOD = 90, "finetune epochs=1"
DATA = ["dataset=table", "dataset.path=rows.csv", "dataset.formats.table.group_by=[user]"]
SMALL = [*DATA, "model=logistic", "executor=local", "unlearner=finetune", "unlearner.epochs=1"]
NO_GROUPS = ["dataset.formats.table.group_by=null", "dataset.formats.table.leave_out=[user]"]
ASKED = ["request.checkpoint=net.pt", "forget=group", "forget.column=user"]


def dataset() -> Dataset:
    return Dataset({"table": Table(group_by=["user"])}, "rows.csv", split=Split(test=0.2))


def rows_of(examples: Examples, user: str) -> list[int]:
    return [row for row, value in enumerate(examples.columns["user"]) if value == user]


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """A network trained on the rows of nine users, in a folder with its checkpoint and its data."""
    monkeypatch.chdir(tmp_path)
    draw, labels = np.random.default_rng(0), np.arange(ROWS) % 2
    x = draw.normal(size=(ROWS, 3)) + 2 * labels[:, None]
    table = pd.DataFrame({"user": draw.integers(11, 20, ROWS), **dict(zip("xyz", x.T, strict=True)), "label": labels})
    table.to_csv("rows.csv", index=False)
    return checkpoint(SMALL, 50)


def start(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: str) -> tuple[Any, str]:
    monkeypatch.setattr(sys, "argv", ["dmm-exp", "unlearn", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


def test_a_user_goes_by_the_command_line(network, monkeypatch, capsys):
    code, said = start(monkeypatch, capsys, *SMALL, *ASKED, "forget.value=17")
    expected = rows_of(dataset().load(), "17")
    assert code == 0, said
    assert len(expected) > 1
    assert f"rows to delete: user=17 ({len(expected)} rows)" in said
    removed = json.loads(Path("unlearned/deletion.json").read_text())["removed"]
    assert (removed["indices"], removed["read"]) == (expected, f"user=17 ({len(expected)} rows)")
    assert f"user=17 ({len(expected)} rows)" in Path("unlearned/report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["forget.value=77"], "forget.value=77: no training row has this value; expected one of the 9 of the column"),
        (["forget.value=17", "forget.column=users"], "forget.column=users: expected one of 'user'; did you mean"),
        (["forget.value=17", *NO_GROUPS], "forget.column=user: the dataset names no groups of rows; name them with"),
        ([], "forget.value"),
    ],
)
def test_a_group_that_is_not_there_is_refused_and_nothing_is_written(network, monkeypatch, capsys, words, message):
    code, said = start(monkeypatch, capsys, *SMALL, *ASKED, *words)
    assert code == 2
    assert message in said
    assert not Path("unlearned").exists()


def test_a_user_goes_in_python_and_by_a_ledger(network, tmp_path):
    expected = rows_of(dataset().load(), "17")
    result = unlearn(network, dataset(), OneGroup("user", 17), method=METHOD, progress=False)
    assert (result.forgotten, result.read) == (expected, f"user=17 ({len(expected)} rows)")
    ledger = Ledger("ledger", network, dataset(), method=METHOD, progress=False)
    assert ledger.delete(OneGroup("user", "17")).read == result.read
    assert ledger.delete(OneGroup("user", 17)).forgotten == expected  # the same request again
    assert len(ledger.entries) == 1
    ledger.delete(OneGroup("user", 12))
    assert ledger.gone == sorted([*expected, *rows_of(dataset().load(), "12")])


def test_tensors_have_no_groups(network):
    examples = dataset().load()
    data = examples.inputs[: examples.n_train], examples.labels[: examples.n_train]
    with pytest.raises(UserError, match=r"^forget\.column=user: the dataset names no groups"):
        unlearn(network, data, OneGroup("user", 17), method=METHOD, progress=False)


def test_a_purge_of_a_pool_takes_rows_and_no_group(network, monkeypatch, capsys):
    recipe = {"epochs": 1, "batch_size": 32}
    prepare(network, dataset(), recipe, "pool", size=40, progress=False)
    code, said = start(monkeypatch, capsys, "request.purge=pool", *ASKED[1:], "forget.value=17")
    assert code == 2
    assert "a pool does not keep the groups of its rows; expected forget.indices=FILE" in said
