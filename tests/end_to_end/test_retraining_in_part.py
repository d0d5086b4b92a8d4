"""Rewind, SISA and a certificate in whole runs: what is shared and counted, what is printed, what is refused."""

from __future__ import annotations

import json

import pytest

from dmm_exp.errors import UserError

FEW = ["n_models=3", "training.epochs=4", "training.batch_size=512", "forget=random", "forget.size=50"]
KEY = "evaluation.strong_ulira"


def test_rewind_costs_the_epochs_that_are_done_again_and_shares_those_before(start, outputs):
    found = start(outputs, *FEW, "unlearner=rewind", "unlearner.rewind_to=1").metrics
    assert found["cost/ratio"] == pytest.approx(3 / 4)
    assert found["cost/shared"] == pytest.approx(3 * 1438 / 1388 / 4)


def test_going_back_to_the_end_is_doing_nothing_and_makes_no_checkpoint(start, outputs):
    back, nothing = (start(outputs, *FEW, *words).metrics for words in (["unlearner=rewind"], ["unlearner=do_nothing"]))
    assert back["klom/forget/p95"] == nothing["klom/forget/p95"]
    assert back["cost/ratio"] == 0


def test_the_plan_of_rewind_has_its_checkpoints(start, tmp_path, capsys):
    start(tmp_path, *FEW, "unlearner=rewind", "unlearner.rewind_to=2", "dry_run=true")
    assert "early originals" in capsys.readouterr().out


def test_sisa_costs_the_shards_that_are_hit_and_shares_a_training_of_each_member(start, outputs):
    found = start(outputs, *FEW, "unlearner=sisa").metrics
    assert found["cost/ratio"] == pytest.approx(1)  # fifty rows hit all four shards
    assert found["cost/shared"] == pytest.approx(3 * 1438 / 1388)
    one = start(outputs, *FEW, "unlearner=sisa", "forget.size=1").metrics
    assert one["cost/ratio"] == pytest.approx(1 / 4, abs=1e-3)


def test_a_certificate_stands_in_the_metrics(start, outputs):
    found = start(outputs, *FEW, "unlearner=noisy_finetune", "unlearner.epsilon=2", "unlearner.epochs=1")
    written = json.loads((found.folder / "metrics.json").read_text())
    assert (written["certified/epsilon"], written["certified/delta"]) == (pytest.approx(2), 1e-5)
    assert "certified/epsilon" not in start(outputs, *FEW, "unlearner=do_nothing").metrics


def test_a_certificate_of_a_part_that_is_not_last_is_none_of_the_whole(start, outputs):
    parts = ["refinement=shuffle", "unlearner=finetune", "unlearner.epochs=1"]
    assert "certified/epsilon" not in start(outputs, *FEW, *parts).metrics


def test_a_planted_class_is_forgotten_by_retraining_alone(start, outputs):
    planted = ["dataset.corruption._target_=dmm_exp.data.PlantedClass", "dataset.corruption.fraction=0.05"]
    found = start(outputs, "n_models=3", *planted, "forget=mislabelled", "unlearner=retrain").metrics
    assert found["accuracy/original/forget"] > 0.95
    assert found["accuracy/oracle/forget"] == found["accuracy/unlearned/forget"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["unlearner=rewind", "unlearner.rewind_to=9"],
            r"rewind_to=9: expected an epoch .* from 0 \(retraining\) to 4",
        ),
        (["unlearner=rewind", f"{KEY}.forget_sets=2"], "Rewind would need an early checkpoint of every base model"),
        (["unlearner=sisa", "evaluation/audits=all"], "SISA returns predictions and no models; expected no audits"),
    ],
)
def test_what_cannot_be_is_one_sentence(start, outputs, words, said):
    with pytest.raises(UserError, match=said):
        start(outputs, *FEW, *words)
