"""The main job, small: what it writes, what it reuses, and that it says the same thing twice."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from results_of_runs import without_seconds
from safetensors.torch import load_file

from dmm_exp.attribution import EmpiricalBayes, GroupKriging
from dmm_exp.config.instantiate import instantiate
from dmm_exp.models import MLP, Normalised

GROUPS = ("forget", "retain", "val")
ENDS, ENSEMBLES = ("", "_floor", "_original"), ("unlearned", "original", "oracle", "floor")
BOTH_WAYS = [f"{measure}{end}" for measure in ("klom_reverse", "klom_sum") for end in ("", "_floor", "_original")]

ALWAYS = {
    *(f"klom/{group}/{value}" for group in GROUPS for value in ("p50", "p95", "p99", "mean")),
    *(f"{kind}/{group}/p95" for group in GROUPS for kind in ("klom_floor", "klom_original")),
    *(f"{kind}/{group}/p95" for group in GROUPS for kind in BOTH_WAYS),
    *(f"accuracy/{kind}/{group}" for group in GROUPS for kind in ENSEMBLES),
    *(f"mia/{kind}" for kind in ENSEMBLES),
    *(f"{score}{end}" for score in ("tow", "tow_mia") for end in ENDS),
    *(f"ulira{end}/{rate}" for rate in ("accuracy", "tpr_at_1fpr") for end in ENDS),
    *("ulira/false_positive_rate", "ulira_original/false_positive_rate"),
    *("tow/std", "tow_mia/std"),
    *(f"cost/{name}" for name in ("unlearning", "ratio", "shared", "own", "shared_per_request")),
}
WITH_INTERVAL = {
    *(f"klom{end}/{group}/p95" for group in GROUPS for end in ("", "_floor")),
    *(f"competition/quality{end}" for end in ("", "_floor", "_original")),
    *(name for name in ALWAYS if name.startswith(("accuracy", "mia", "tow", "ulira")) and "/std" not in name),
}
EFFECT = ("r2", "correlation", "slope", "standard_error", "expected_error", "error_ratio")
PREDICTED = {
    *(f"effect/{kind}/{group}" for group in GROUPS for kind in EFFECT),
    *("lds", "cost/attribution"),
    *(f"lds/{group}{end}" for group in GROUPS for end in ("", "_low", "_high")),
}
SMALL = [
    *("n_models=3", "training.epochs=1", "training.batch_size=512"),
    *("pool.size=20", "pool.held_out=4", "pool.larger.size=0"),
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Return a folder that tests elsewhere have left nothing in: members of larger ensembles differ by rounding."""
    return tmp_path_factory.mktemp("main_job")


@pytest.fixture(scope="module")
def main_job(start, outputs):
    return start(outputs, "evaluation.report=true")


def test_metrics_have_exactly_the_documented_names(start, outputs):
    metrics = start(outputs, "attribution=debiased").metrics  # the best estimator predicts nothing from so small a pool
    found = {name for name in metrics if not name.startswith("seconds/")}
    assert found == ALWAYS | PREDICTED  # 8 members are too few for intervals


def test_intervals_appear_with_enough_members(start, outputs):
    found = start(outputs, "n_models=20", "training.batch_size=512", "unlearner=do_nothing", "forget=random").metrics
    for name in WITH_INTERVAL:
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"], name
    assert {name.rpartition("_")[0] for name in found if name.endswith(("_low", "_high"))} == WITH_INTERVAL
    for group in GROUPS:
        assert found[f"single/distance_original/{group}"] == found[f"single/distance/{group}"]  # nothing was done


def test_every_stage_has_its_seconds_and_says_whether_it_was_reused(main_job):
    stages = {name.split("/")[1] for name in main_job.metrics if name.startswith("seconds/")}
    assert {"dataset", "pool", "scores", "originals", "oracles", "floor_oracles", "attribution", "unlearning"} <= stages
    for stage in stages:
        assert main_job.metrics[f"seconds/{stage}"] >= 0
        assert main_job.metrics[f"seconds/{stage}/cached"] in (0.0, 1.0)


def test_run_folder_is_named_by_choices_and_holds_all_results(main_job):
    assert re.fullmatch(r"digits-mlp-rum_high_mem-dmm__[0-9a-f]{10}", main_job.folder.name)
    files = {path.name for path in main_job.folder.iterdir()}
    expected = {"config.yaml", "metrics.json", "report.html", "figures.json", "run.log", "status.json"}
    expected |= {"points.parquet", "members.parquet"}
    assert expected <= files
    assert json.loads((main_job.folder / "status.json").read_text())["state"] == "finished"
    assert "computed in" in (main_job.folder / "run.log").read_text()


def test_the_unlearned_network_of_a_run_is_loaded_as_any_other_and_answers_as_the_first_model(main_job):
    network = MLP((1, 8, 8), 10, hidden=(96, 96))
    network.load_state_dict(load_file(main_job.folder / "unlearned.safetensors"))
    examples = instantiate(yaml.safe_load((main_job.folder / "config.yaml").read_text())["dataset"]).load()
    with torch.no_grad():
        answers = Normalised(network, **vars(examples.normalisation), input_shape=(1, 8, 8))(examples.inputs)
    right = (answers.argmax(1) == examples.labels)[examples.n_train :].double().mean().item()
    first = pd.read_parquet(main_job.folder / "members.parquet").iloc[0]
    assert right == pytest.approx(first["accuracy/unlearned/val"], abs=1e-6)


def test_points_say_what_every_point_is_and_how_it_came_out(main_job):
    points = pd.read_parquet(main_job.folder / "points.parquet")
    forget = json.loads((main_job.folder / "forget.json").read_text())
    assert len(points) == 1797
    assert points.loc[points.group == "forget", "point"].tolist() == forget
    assert (points.group == "val").sum() == 359
    assert points.loc[points.group != "val", "memorization"].notna().all()
    assert {"klom", "klom_floor", "klom_original", "effect_true", "effect_predicted"} <= set(points.columns)
    assert points.ulira.notna().equals(points.group == "forget")
    assert points.ulira.mean() == pytest.approx(main_job.metrics["ulira/accuracy"])


def test_few_models_are_warned_of_with_their_floor(main_job):
    floor = main_job.metrics["klom_floor/forget/p95"]
    warning = " ".join((main_job.folder / "run.log").read_text().split())
    assert f"here the floor alone is {floor:.2f} on forget points" in warning


def test_forget_points_are_the_most_memorized(main_job):
    points = pd.read_parquet(main_job.folder / "points.parquet")
    train = points[points.group != "val"]
    assert train[train.group == "forget"].memorization.min() >= train[train.group == "retain"].memorization.max()


def test_second_run_reuses_everything_and_says_the_same(main_job, start, outputs):
    before = without_seconds(main_job.folder)
    again = start(outputs, "evaluation.report=true")
    assert again.folder == main_job.folder
    assert all(value == 1.0 for name, value in again.metrics.items() if name.endswith("/cached"))
    assert without_seconds(again.folder) == before


def test_fresh_start_elsewhere_gives_byte_identical_metrics(main_job, start, tmp_path):
    assert without_seconds(start(tmp_path).folder) == without_seconds(main_job.folder)


def test_worker_processes_give_byte_identical_metrics(main_job, start, tmp_path):
    found = start(tmp_path, "executor=processes", "executor.workers=2")
    assert without_seconds(found.folder) == without_seconds(main_job.folder)


def test_another_method_on_the_same_forget_set_retrains_nothing(main_job, start, outputs):
    found = start(outputs, "unlearner=gradient_ascent").metrics
    for stage in ("pool", "scores", "originals", "oracles", "floor_oracles"):
        assert found[f"seconds/{stage}/cached"] == 1.0
    assert found["seconds/unlearning/cached"] == 0.0
    assert not PREDICTED & set(found)


def test_another_process_takes_up_what_was_learnt_from_the_pool(main_job, start, outputs, monkeypatch):
    monkeypatch.setattr(GroupKriging, "learn", None)
    monkeypatch.setattr(EmpiricalBayes, "learn", None)
    found = start(outputs, "forget=random", "unlearner=dm_direct").metrics
    assert found["seconds/attribution/cached"] == 0.0


def test_doing_nothing_is_the_originals_and_costs_nothing(start, outputs):
    found = start(outputs, "unlearner=do_nothing").metrics
    assert found["cost/ratio"] == 0
    for group in GROUPS:
        assert found[f"klom/{group}/p95"] == found[f"klom_original/{group}/p95"]
        assert found[f"accuracy/unlearned/{group}"] == found[f"accuracy/original/{group}"]


def test_retraining_costs_one_retraining(start, outputs):
    found = start(outputs, "unlearner=retrain").metrics
    assert found["cost/ratio"] == 1
    assert found["cost/shared"] == found["cost/shared_per_request"] == 0


def test_shared_cost_counts_the_pool_and_the_originals_that_predictions_look_at(start, outputs):
    halves, original = 60 * 719 / 1388, 1438 / 1388
    found = start(outputs, "attribution=debiased", "pool.amortised_over=4").metrics
    assert found["cost/shared"] == pytest.approx(halves)
    assert found["cost/shared_per_request"] == pytest.approx(halves / 4)
    few = ["attribution=empirical_bayes", "pool.larger.size=0", "attribution.oracles=2"]
    few = start(outputs, *few, "pool.amortised_over=4").metrics
    assert few["cost/shared"] == pytest.approx(halves + 8 * original)
    assert few["cost/own"] == 2
    assert few["cost/shared_per_request"] == pytest.approx(few["cost/shared"] / 4 + 2)


def test_targets_from_retrained_models_are_costs_of_the_request(start, outputs):
    found = start(outputs, "unlearner=oracle_matching").metrics
    assert (found["cost/shared"], found["cost/own"], found["cost/shared_per_request"]) == (0, 8, 8)
    found = start(outputs, "unlearner=dm_direct", "attribution=oracle").metrics
    assert found["cost/shared"] == pytest.approx(8 * 1438 / 1388)
    assert found["cost/shared_per_request"] == pytest.approx(8 * 1438 / 1388 + 8)


def test_scores_of_a_refinement_count_the_pool(start, outputs):
    found = start(outputs, "unlearner=finetune", "refinement=rum_f").metrics
    assert found["cost/shared"] == pytest.approx(60 * 719 / 1388)


def test_the_floor_is_scored_like_unlearned_models(start, outputs):
    members = pd.read_parquet(start(outputs, "unlearner=retrain").folder / "members.parquet")
    by_hand = np.prod([1 - (members[f"accuracy/floor/{g}"] - members[f"accuracy/oracle/{g}"]).abs() for g in GROUPS], 0)
    assert members["tow_floor"].to_numpy() == pytest.approx(by_hand)


def test_true_effect_predicts_itself(start, outputs):
    """The ceiling of every estimator, measured on other oracles than those that score it."""
    found = start(outputs, "unlearner=dm_direct", "attribution=oracle", "n_models=40").metrics
    assert found["effect/correlation/forget"] > 0.9
    assert "lds" not in found


@pytest.mark.parametrize(
    "overrides",
    [
        ("forget=random", "model=logistic", "unlearner=finetune"),
        ("forget=class", "forget.label=3", "unlearner=retrain", "model=cnn"),
        ("forget=mislabelled", "dataset.corruption.fraction=0.03", "unlearner=oracle_matching"),
        ("forget=rum_low_mem", "attribution=feldman_zhang"),
        ("forget=rum_mid_mem", "attribution=datamodel"),
        ("forget=rum_mix_mem", "unlearner=dm_direct", "pool=alpha70", "attribution=empirical_bayes", "pool.size=40"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_choice_works_with_the_others(start, outputs, overrides):
    found = start(outputs, *SMALL, *overrides)
    assert set(found.metrics) >= ALWAYS


def test_forget_set_from_a_file(start, outputs, tmp_path):
    (tmp_path / "rows.csv").write_text("index\n5\n3\n8\n")
    found = start(outputs, "forget=indices", f"forget.indices={tmp_path / 'rows.csv'}", "unlearner=do_nothing", *SMALL)
    assert json.loads((found.folder / "forget.json").read_text()) == [3, 5, 8]


def test_a_plan_makes_nothing(start, tmp_path, capsys):
    assert start(tmp_path / "none", "dry_run=true") is None
    assert "would be made" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_a_damaged_artifact_is_said_and_made_again(main_job, start, outputs, capsys):
    before = without_seconds(main_job.folder)
    for shard in (outputs / "artifacts" / "ensemble").glob("*/shard-00000.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-100])
    again = start(outputs, "evaluation.report=true")
    assert "is damaged" in capsys.readouterr().err
    assert without_seconds(again.folder) == before
