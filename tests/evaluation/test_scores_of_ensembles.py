"""Scores of unlearned models, of the floor and of doing nothing are computed in the same way."""

from __future__ import annotations

import numpy as np
import pytest

from dmm_exp.evaluation.by_member import accuracy_columns, attack_columns, intervals, means
from dmm_exp.evaluation.likelihood import LikelihoodAttack

ENSEMBLES = ("unlearned", "oracle", "floor", "original")


def accuracies(members=20, seeds=(0, 1, 2, 3)):
    """Draw accuracies of every ensemble; equal seeds give identical ensembles."""
    draws = {name: np.random.default_rng(seed) for name, seed in zip(ENSEMBLES, seeds, strict=True)}
    return {
        name: {group: draw.uniform(0.5, 1, members) for group in ("forget", "retain", "val")}
        for name, draw in draws.items()
    }


def attacks(members=20):
    return {name: np.random.default_rng(seed).uniform(size=members) for seed, name in enumerate(ENSEMBLES)}


def margins(members, seeds=(0, 1, 2, 3)):
    """Draw margins on 30 forget points; equal seeds give identical ensembles."""
    return {
        name: np.random.default_rng(seed).normal(size=(members, 30)).astype(np.float32)
        for name, seed in zip(ENSEMBLES, seeds, strict=True)
    }


def test_ensembles_identical_to_the_oracles_have_a_tug_of_war_of_one():
    columns = accuracy_columns(accuracies(seeds=(0, 0, 0, 1)))
    found = {**means(columns), **intervals(columns)}
    assert (found["tow"], found["tow_floor"], found["tow/std"]) == (1, 1, 0)
    assert (found["tow_floor_low"], found["tow_floor_high"]) == (1, 1)
    assert found["tow_original"] < 1


def test_every_score_of_unlearned_models_has_a_floor_and_one_of_doing_nothing():
    columns = {**accuracy_columns(accuracies()), **attack_columns(accuracies(), attacks())}
    for end in ("_floor", "_original"):
        assert {f"tow{end}", f"tow_mia{end}", f"mia/{end[1:]}", f"accuracy/{end[1:]}/val"} <= set(columns)
        rates = {name.partition("/")[2] for name in LikelihoodAttack(margins(20)).metrics() if f"ulira{end}/" in name}
        assert {"accuracy", "tpr_at_1fpr"} <= rates


def test_a_floor_is_what_unlearned_models_score_in_its_place():
    known, scores = accuracies(), attacks()
    swapped = {**known, "unlearned": known["floor"]}, {**scores, "unlearned": scores["floor"]}
    found, other = means(attack_columns(known, scores)), means(attack_columns(*swapped))
    assert other["tow_mia"] == found["tow_mia_floor"]
    ensembles = margins(20)
    floor = LikelihoodAttack(ensembles).metrics()
    moved = LikelihoodAttack({**ensembles, "unlearned": ensembles["floor"]}).metrics()
    for rate in ("accuracy", "tpr_at_1fpr"):
        assert moved[f"ulira/{rate}"] == floor[f"ulira_floor/{rate}"]


@pytest.mark.parametrize(("members", "some"), [(19, False), (20, True)])
def test_there_are_intervals_of_all_scores_or_for_few_members_of_none(members, some):
    columns, attack = accuracy_columns(accuracies(members)), LikelihoodAttack(margins(members))
    ends = {f"{name}_{end}" for name in [*columns, *attack.metrics()] for end in ("low", "high")}
    assert set(intervals(columns)) | set(attack.intervals()) == (ends if some else set())


def test_two_members_are_not_attacked():
    attack = LikelihoodAttack(margins(2))
    assert attack.metrics() == attack.intervals() == {}
    assert attack.curves().empty
    assert np.isnan(attack.by_point()).all()
