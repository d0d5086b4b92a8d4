"""Real runs side by side: values by member agree with the metrics, and pair up."""

import json
import re

import pandas as pd
import pytest

from dmm_exp.commands.compare import compare_runs

SMALL = ("n_models=4", "training.epochs=1", "training.batch_size=512", "forget=random")


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
    assert "not ranked: do_nothing (a reference)" in shown
    (line,) = [line for line in shown.splitlines() if "members" in line]
    assert "do_nothing" in line
    difference = finished[1].metrics["tow"] - finished[0].metrics["tow"]
    assert f"{difference:+.4f}" in line
    assert set(pd.read_csv(tmp_path / "runs.csv")["method"]) == {"finetune", "do_nothing"}


def test_curves_of_the_attack_hold_its_metric_and_doing_nothing_is_found_as_the_originals_are(finished):
    artifacts = list((finished[0].folder.parents[1] / "artifacts" / "evaluation").iterdir())
    nothing = 0
    for artifact in artifacts:
        metrics = json.loads((artifact / "metrics.json").read_text())
        curves = dict(list(pd.read_parquet(artifact / "roc.parquet").groupby("ensemble")))
        unlearned = curves["unlearned"]
        assert set(curves) == {"unlearned", "original", "floor"}
        assert unlearned["fpr"].is_monotonic_increasing
        assert unlearned["tpr"].is_monotonic_increasing
        assert unlearned[["fpr", "tpr"]].iloc[-1].tolist() == [1.0, 1.0]
        assert unlearned.query("fpr <= 0.01")["tpr"].max() == metrics["ulira/tpr_at_1fpr"]
        if metrics["cost/unlearning"] == 0:
            nothing += 1
            assert unlearned["tpr"].tolist() == curves["original"]["tpr"].tolist()
    assert nothing == 1


def test_a_report_shows_the_runs_beside_it_and_is_written_again_when_there_is_another(finished, start):
    outputs = finished[0].folder.parents[1]

    def methods(name):
        page = (
            start(outputs, *SMALL, f"unlearner={name}", "evaluation.report=true").folder / "report.html"
        ).read_text()
        part = page[page.index('<figure id="quality_against_cost"') :]
        told = json.loads(re.search(r'<script type="application/json">(.*?)</script>', part)[1])
        return told["titles"]

    assert methods("finetune") == ["finetune (this run)", "do_nothing"]
    assert methods("gradient_ascent") == ["gradient_ascent (this run)", "do_nothing", "finetune"]
    assert methods("finetune") == ["finetune (this run)", "do_nothing", "gradient_ascent"]
