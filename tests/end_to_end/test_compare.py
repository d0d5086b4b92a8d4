"""Real runs side by side: values by member agree with the metrics, and pair up."""

import pandas as pd
import pytest

from dmm_exp.compare.command import compare_runs

SMALL = ("n_models=4", "pool.size=20", "pool.larger.size=8", "pool.held_out=4", "training.epochs=2", "forget=random")


@pytest.fixture(scope="module")
def finished(start, outputs):
    return [start(outputs / "compared", *SMALL, f"unlearner={name}") for name in ("finetune", "do_nothing")]


def test_the_mean_over_members_is_the_metric(finished):
    for run in finished:
        members = pd.read_parquet(run.folder / "members.parquet")
        assert members["member"].tolist() == [0, 1, 2, 3]
        columns = [name for name in members if name != "member"]
        assert {"tow", "tow_mia", "mia/unlearned", "accuracy/oracle/val"} <= set(columns)
        assert members[columns].mean().to_dict() == pytest.approx({name: run.metrics[name] for name in columns})


def test_two_runs_are_paired_by_member(finished, tmp_path, capsys):
    folder = str(finished[0].folder.parent)
    assert compare_runs([folder, "--metric", "tow", "--baseline", "finetune", "--csv", str(tmp_path / "runs.csv")]) == 0
    shown = capsys.readouterr().out
    assert "mean ranks in 1 block " in shown
    (line,) = [line for line in shown.splitlines() if "members" in line]
    assert "do_nothing" in line
    difference = finished[1].metrics["tow"] - finished[0].metrics["tow"]
    assert f"{difference:+.4f}" in line
    assert set(pd.read_csv(tmp_path / "runs.csv")["method"]) == {"finetune", "do_nothing"}
