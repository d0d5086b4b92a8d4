"""A method and what it has learnt are two objects: neither changes, whatever is learnt or asked afterwards."""

from __future__ import annotations

import copy
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest
import torch

from dmm_exp.attribution import (
    Datamodel,
    Debiased,
    EmpiricalBayes,
    Estimator,
    Evidence,
    FeldmanZhang,
    Gradients,
    Learned,
    OracleEffect,
    SparseDatamodel,
    SubsetModels,
    TrakFactored,
    towards,
)
from dmm_exp.ensembles import RandomSubsets

N_TRAIN, POINTS, CLASSES, MEMBERS = 20, 30, 3, 40
FORGET, OTHERS = torch.tensor([1, 2, 7]), torch.tensor([4, 15])
ESTIMATORS = {
    "difference": FeldmanZhang(),
    "ridge": Datamodel(tuning_outputs=10),
    "debiased": Debiased(tuning_outputs=10),
    "empirical_bayes": EmpiricalBayes(tuning_outputs=10, prior_examples=10, prior_points=10),
    "lasso": SparseDatamodel(outputs_at_once=50, path_length=3),
    "gradients": TrakFactored(checkpoints=2),
    "oracles": OracleEffect(),
}


def evidence(seed: int) -> Evidence:
    """Return evidence of every kind; of another seed, of other models."""
    draw = torch.Generator().manual_seed(seed)
    labels, groups = torch.arange(POINTS) % CLASSES, torch.ones(POINTS, dtype=torch.long)
    groups[FORGET], groups[N_TRAIN:] = 0, 2

    def pool(alpha: float) -> SubsetModels:
        masks = RandomSubsets(N_TRAIN, alpha, seed, complementary=True).masks(range(MEMBERS))
        logits = torch.randn(MEMBERS, POINTS, CLASSES, generator=draw)
        return SubsetModels(masks, logits, round(1 / (1 - alpha)), labels)

    features = [torch.randn(2, *shape, 4, generator=draw) for shape in ((N_TRAIN,), (POINTS, CLASSES))]
    return Evidence(
        groups,
        N_TRAIN,
        pool=pool(0.5),
        larger=pool(0.75),
        gradients=Gradients(features[0], torch.ones(2, N_TRAIN), features[1]),
        originals=torch.randn(3, POINTS, CLASSES, generator=draw),
        oracles=torch.randn(4, POINTS, CLASSES, generator=draw),
        labels=labels,
    )


def said(learned: Learned) -> list[torch.Tensor]:
    effect = learned.effect(FORGET)
    return [effect.mean] if effect.standard_error is None else [effect.mean, effect.standard_error]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_learning_and_predicting_change_no_method(name: str):
    method = ESTIMATORS[name]
    before = copy.deepcopy(vars(method))
    method.learn(evidence(0)).effect(FORGET)
    assert vars(method).keys() == before.keys()
    for key, value in vars(method).items():
        assert vars(value) == vars(before[key]) if isinstance(value, Estimator) else value == before[key]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_was_learnt_says_the_same_whatever_the_method_learns_next_and_whatever_is_asked(name: str):
    method = ESTIMATORS[name]
    learned = method.learn(evidence(0))
    first = said(learned)
    other = method.learn(evidence(1))
    assert not same(said(other), first)
    if method.source != "oracles":
        learned.effect(OTHERS)
        learned.predict_at(torch.rand(2, N_TRAIN), torch.tensor([3, 25]))
    assert same(said(learned), first)
    assert same(said(method.learn(evidence(0))), first)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_was_learnt_is_frozen(name: str):
    learned = ESTIMATORS[name].learn(evidence(0))
    assert is_dataclass(learned)
    for value in (learned, learned.effect(FORGET)):
        for field in fields(value):
            with pytest.raises(FrozenInstanceError):
                setattr(value, field.name, None)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "oracles"])
def test_an_effect_is_the_prediction_for_ones_at_its_rows(name: str):
    learned = ESTIMATORS[name].learn(evidence(0))
    assert torch.equal(learned.effect(FORGET).mean, learned.predict(towards(FORGET, N_TRAIN))[0])
    directions, points = torch.rand(3, N_TRAIN), torch.tensor([3, 25, 8])
    found = learned.predict(directions)
    assert found.shape == (3, POINTS, CLASSES)
    torch.testing.assert_close(learned.predict_at(directions, points), found[:, points], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_those_that_remember_can_be_kept_and_others_say_that_they_cannot(name: str):
    method, known = ESTIMATORS[name], evidence(0)
    learned = method.learn(known)
    if method.remembers:
        again = method.recall(known, {key: value.clone() for key, value in learned.tensors().items()})
        assert same(said(again), said(learned))
        assert again.facts() == learned.facts()
    else:
        with pytest.raises(NotImplementedError, match=type(learned).__name__):
            learned.tensors()
        with pytest.raises(NotImplementedError, match=type(method).__name__):
            method.recall(known, {})


@pytest.mark.parametrize("name", ["difference", "ridge", "debiased", "empirical_bayes", "lasso"])
def test_estimators_of_the_pool_say_when_there_is_none(name: str):
    with pytest.raises(TypeError, match="needs a pool"):
        ESTIMATORS[name].learn(replace(evidence(0), pool=None))
