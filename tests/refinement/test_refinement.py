"""A refinement splits a forget set without loss; parts are unlearned in turn, and later ones are retained meanwhile."""

import pandas as pd
import pytest
import torch

from dmm_exp.config.parts import auto_parts, composed_parts
from dmm_exp.config.schema import Config, register
from dmm_exp.data import Rows
from dmm_exp.errors import UserError
from dmm_exp.refinement import ByScore, Shuffle, Whole
from dmm_exp.scores import hardness
from dmm_exp.search.assignment import resembling

FORGET = Rows(torch.tensor([2, 3, 5, 7, 11, 13, 17]), 20)
SCORES = pd.DataFrame(
    {
        "point": range(20),
        "memorization": [(7 * index) % 20 / 20 for index in range(20)],
        "memorization_se": 0.01,
        "confidence": [1 - (7 * index) % 20 / 20 for index in range(20)],
    }
)
PARTS = {name: {"unlearner": None} for name in ("low", "mid", "high")}


def points(refinement):
    return [part.rows.tolist() for part in refinement.parts(FORGET, SCORES)]


@pytest.mark.parametrize("refinement", [Whole(), Shuffle(count=3), Shuffle(count=7), ByScore(**PARTS)])
def test_parts_are_disjoint_nearly_equal_and_all_of_it(refinement):
    parts = points(refinement)
    assert sorted(index for part in parts for index in part) == FORGET.tolist()
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_parts_are_cut_by_score_and_go_from_low_to_high():
    low, mid, high = ([SCORES["memorization"][index] for index in part] for part in points(ByScore(**PARTS)))
    assert max(low) <= min(mid)
    assert max(mid) <= min(high)


def test_the_other_order_unlearns_the_same_parts_from_high_to_low():
    refinement = ByScore(order="descending", **PARTS)
    assert list(refinement.unlearners) == ["high", "mid", "low"]
    assert points(refinement) == points(ByScore(**PARTS))[::-1]


def test_a_score_that_is_high_for_easy_examples_gives_the_same_parts():
    assert points(ByScore(score="confidence", **PARTS)) == points(ByScore(**PARTS))


def test_any_number_of_parts():
    parts = {f"part{number}": {"unlearner": None} for number in range(5)}
    assert len(points(ByScore(**parts))) == 5
    with pytest.raises(UserError, match="7 forget examples cannot be split into 8 parts"):
        points(Shuffle(count=8))


def test_shuffling_looks_at_no_score_and_another_seed_shuffles_otherwise():
    assert points(Shuffle(seed=0)) == [part.rows.tolist() for part in Shuffle(seed=0).parts(FORGET, None)]
    assert points(Shuffle(seed=0)) != points(Shuffle(seed=1))


def test_an_unknown_score_is_refused_with_a_suggestion():
    with pytest.raises(UserError, match=r"score=confidnce: expected one of .*did you mean 'confidence'"):
        hardness(SCORES, "confidnce")


def test_unlearners_of_parts_are_written_as_choices():
    register()
    refinement = {"_target_": "x", "low": {"unlearner": "finetune epochs=2"}, "high": {"unlearner": "auto"}}
    found = composed_parts(Config(refinement=refinement)).refinement
    assert found["low"]["unlearner"]["_target_"].endswith("Finetune")
    assert found["low"]["unlearner"]["epochs"] == 2
    assert auto_parts(Config(refinement=found)) == ["high"]
    with pytest.raises(UserError, match="did you mean 'finetune'"):
        composed_parts(Config(refinement={"low": {"unlearner": "finetun"}}))


def test_an_experiment_lends_its_unlearner():
    register()
    refinement = {"low": {"unlearner": "fair/rum_high_mem/salun"}}
    assert composed_parts(Config(refinement=refinement)).refinement["low"]["unlearner"]["_target_"].endswith("SalUn")


def test_a_set_like_a_part_has_nearly_its_scores_and_none_of_the_forget_set():
    values = torch.linspace(0, 1, 200)
    forget = torch.arange(0, 200, 10)
    part = forget[-6:]
    chosen = resembling(values, part, forget)
    assert len(chosen) == len(part)
    assert not set(chosen.tolist()) & set(forget.tolist())
    assert float((values[chosen].sort().values - values[part].sort().values).abs().max()) < 0.02
    with pytest.raises(UserError, match="are left"):
        resembling(values, torch.arange(150), torch.arange(150))


def test_a_control_may_have_settings_of_its_own_for_every_part():
    own = {"_target_": "x", "epochs": 1}
    assert [part.unlearner for part in Shuffle(count=3, each={"unlearner": own}).parts(FORGET, None)] == [own] * 3
    assert [part.unlearner for part in Shuffle(count=2).parts(FORGET, None)] == [None] * 2
    with pytest.raises(UserError, match=r"refinement\.each=finetune: expected a part"):
        Shuffle(each="finetune")  # type: ignore[arg-type]
