"""Posterior means of single effects: what they are, and that they beat what they are made from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.stats import norm

from dmm_exp.attribution import Datamodel, EmpiricalBayes, Evidence, FeldmanZhang, Learned, SubsetModels, towards
from dmm_exp.attribution.adaptive import WIDTHS, AdaptiveShrinkage
from dmm_exp.attribution.priors import kinds, response_weights
from dmm_exp.ensembles import RandomSubsets
from dmm_exp.errors import UserError

N_TRAIN, POINTS, CLASSES = 60, 75, 3
LABELS = torch.arange(POINTS) % CLASSES
FORGET = torch.arange(6)
GROUPS = torch.where(torch.arange(POINTS) < 6, 0, torch.where(torch.arange(POINTS) < N_TRAIN, 1, 2))


def world(members: int, noise: float = 1.0, seed: int = 0, block: int = 2):
    """Return subset models whose examples act on themselves strongly and on a few others weakly, and those effects."""
    draw = torch.Generator().manual_seed(99)
    weights = 0.3 * torch.randn(N_TRAIN, POINTS, CLASSES, generator=draw)
    weights *= torch.rand(N_TRAIN, POINTS, 1, generator=draw) < 0.1
    own = torch.arange(N_TRAIN)
    weights[own, own] -= 1
    weights[own, own, LABELS[:N_TRAIN]] += 3
    alpha = 1 - 1 / block if block > 1 else 0.5
    masks = RandomSubsets(N_TRAIN, alpha, seed, complementary=block > 1).masks(range(members))
    logits = torch.einsum("mn,npc->mpc", masks.float(), weights)
    logits += noise * torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed))
    return SubsetModels(masks, logits, block, LABELS), weights


def learned(pool: SubsetModels, **options) -> Learned:
    return EmpiricalBayes(**options).learn(Evidence(GROUPS, N_TRAIN, pool=pool))


def error(estimator, pool, weights) -> float:
    found = estimator.learn(Evidence(GROUPS, N_TRAIN, pool=pool)).effect(FORGET).mean
    return float((found - weights[FORGET].sum(0)).square().sum())


@pytest.mark.parametrize("block", [1, 2, 4])
def test_it_is_closer_to_the_truth_than_what_it_is_made_from(block):
    pool, weights = world(400, block=block)
    found = error(EmpiricalBayes(), pool, weights)
    assert found < 0.7 * min(error(FeldmanZhang(), pool, weights), error(Datamodel(), pool, weights))
    assert found < 0.5 * float(weights[FORGET].sum(0).square().sum())


def test_where_there_is_no_effect_it_predicts_next_to_none():
    pool, _ = world(200)
    pool = SubsetModels(pool.masks, torch.randn(200, POINTS, CLASSES), 2, LABELS)
    nothing = torch.zeros(N_TRAIN, POINTS, CLASSES)
    assert error(EmpiricalBayes(), pool, nothing) < 0.05 * error(FeldmanZhang(), pool, nothing)


def test_means_alone_are_those_beside_variances_and_none_is_of_an_example_on_itself():
    priors = learned(world(200)[0]).priors
    rows, points = torch.tensor([0, 3, 7]), torch.arange(10)
    means, variances = priors.effects(rows, points)
    assert torch.equal(priors.means(rows, points), means)
    itself = rows[:, None] == points
    assert (means[itself] == 0).all()
    assert (variances[itself] == 0).all()
    assert (means[~itself] != 0).all()
    assert (variances[~itself] > 0).all()


def test_large_effects_are_hardly_shrunk():
    pool, weights = world(600, noise=0.5)
    found = learned(pool).predict(torch.eye(N_TRAIN))
    own = torch.arange(N_TRAIN)
    kept = found[own, own, LABELS[:N_TRAIN]] / weights[own, own, LABELS[:N_TRAIN]]
    assert kept.mean() == pytest.approx(1, abs=0.05)


def test_standard_errors_are_as_large_as_errors():
    pool, weights = world(400)
    found = learned(pool).effect(FORGET)
    apart = (found.mean - weights[FORGET].sum(0)) / found.standard_error
    assert 0.6 < float(apart.square().mean().sqrt()) < 1.5


def test_predictions_add_up_over_examples_and_need_no_other_points():
    known = learned(world(200)[0])
    directions = torch.randn(4, N_TRAIN)
    found = known.predict(directions)
    torch.testing.assert_close(found.sum(0), known.predict(directions.sum(0, keepdim=True))[0], atol=1e-4, rtol=1e-4)
    points = torch.tensor([3, 60, 7])
    torch.testing.assert_close(known.predict_at(directions, points), found[:, points], atol=1e-5, rtol=1e-5)


def test_names_of_classes_do_not_matter():
    pool, _ = world(200)
    order = torch.tensor([2, 0, 1])
    renamed = SubsetModels(pool.masks, pool.logits[..., order], 2, order.argsort()[LABELS])
    options = {"tuning_outputs": POINTS * CLASSES}  # else λ is chosen on other outputs
    found, other = (learned(which, **options).predict(towards(FORGET, N_TRAIN)) for which in (pool, renamed))
    torch.testing.assert_close(found[..., order], other, atol=1e-3, rtol=1e-3)


def test_the_forget_set_is_not_looked_at_before_it_is_asked_for():
    pool, _ = world(200)
    first, second = (
        EmpiricalBayes().learn(Evidence(groups, N_TRAIN, pool=pool)) for groups in (GROUPS, torch.zeros_like(GROUPS))
    )
    torch.testing.assert_close(first.predict(torch.eye(N_TRAIN)), second.predict(torch.eye(N_TRAIN)))


def test_responses_are_covariances_over_models_without_the_example():
    pool, _ = world(40)
    found = response_weights(pool) @ pool.logits.flatten(1)
    for example in (0, 17):
        without = ~pool.masks[:, example]
        logits = pool.logits[without].double()
        missing = torch.nn.functional.one_hot(LABELS[example], CLASSES) - logits[:, example].softmax(-1).mean(0)
        along = logits[:, example] @ missing
        covariance = ((along - along.mean())[:, None] * logits.flatten(1)).mean(0)
        torch.testing.assert_close(found[example].double(), covariance, atol=1e-5, rtol=1e-4)


def test_kinds_are_told_apart_by_labels():
    found = kinds(torch.tensor([0]), torch.tensor([0, 1]), 3)[0]
    assert found.tolist() == [[0, 1, 1], [3, 2, 4]]


@pytest.mark.parametrize("option", ["prior_examples", "prior_points"])
def test_options_out_of_range_are_named(option):
    with pytest.raises(UserError, match=f"attribution.{option}=0: expected a whole number of at least 1"):
        EmpiricalBayes(**{option: 0})


def test_it_says_when_labels_are_missing():
    pool, _ = world(40)
    with pytest.raises(TypeError, match="labels"):
        learned(SubsetModels(pool.masks, pool.logits, 2))


def test_adaptive_shrinkage_is_the_posterior_under_its_own_mixture():
    draw = torch.Generator().manual_seed(0)
    true = 2 * torch.randn(20_000, generator=draw) * (torch.rand(20_000, generator=draw) < 0.3)
    seen = true + torch.randn(20_000, generator=draw)
    cells = (torch.arange(20_000) % 2).long()
    shrinkage = AdaptiveShrinkage.of(seen, cells, 3)
    numbers = torch.tensor([-7.03, -1.0, 0.0, 0.42, 3.33])
    for cell in range(2):
        mean, weights, widths = (
            float(shrinkage.means[cell]),
            shrinkage.mixture[cell].double(),
            torch.tensor(WIDTHS).double(),
        )
        for number in numbers.tolist():
            density = weights * torch.from_numpy(norm.pdf(number, mean, (1 + widths.square()).sqrt().numpy()))
            share, kept = density / density.sum(), widths.square() / (1 + widths.square())
            expected = mean + (number - mean) * float((share * kept).sum())
            found, found_variance = map(float, shrinkage.posterior(torch.tensor(number), torch.tensor(cell)))
            assert found == pytest.approx(expected, abs=2e-3)
            second = float((share * (kept + ((number - mean) * kept).square())).sum())
            variance = second - (expected - mean) ** 2
            assert found_variance == pytest.approx(variance, abs=5e-3)
    left = (shrinkage.posterior(seen, cells)[0] - true).square().mean()
    assert left < 0.6 * (seen - true).square().mean()
    assert abs(shrinkage.posterior(torch.tensor(2.0), torch.tensor(2))[0]) < 1e-6  # a cell that saw nothing
    assert shrinkage.posterior(torch.tensor(90.0), torch.tensor(0))[0] == pytest.approx(90, abs=1)


# ---------------------------------------------------------------- models trained on larger subsets


def fading(size: int, alpha: float, seed: int):
    """Return models in a world where effects on others, and what is answered unseen, are linear in 1/α.

    At the whole training set's size an example's own effect is 2 on the label's logit, and effects of others are as
    large as the second return value says.
    """
    draw = torch.Generator().manual_seed(7)
    others = 0.5 * torch.randn(N_TRAIN, POINTS, CLASSES, generator=draw)
    others *= torch.rand(N_TRAIN, POINTS, 1, generator=draw) < 0.15
    own = torch.arange(N_TRAIN)
    others[own, own] = 0
    masks = RandomSubsets(N_TRAIN, alpha, seed, complementary=True).masks(range(size))
    logits = torch.einsum("mn,npc->mpc", masks.float() - alpha, others / alpha)
    label = torch.nn.functional.one_hot(LABELS[:N_TRAIN], CLASSES).float()
    unseen = 3 - 2 / alpha
    logits[:, :N_TRAIN] += torch.where(masks[..., None], 3 * label, unseen * label)
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed))
    originals = torch.zeros(4, POINTS, CLASSES)
    originals[:, :N_TRAIN] = 3 * label
    return SubsetModels(masks, logits + 0.5 * noise, round(1 / (1 - alpha)), LABELS), others, originals


def test_effects_are_carried_on_to_the_whole_training_set():
    pool, others, originals = fading(1200, 0.5, seed=0)
    larger, *_ = fading(600, 0.75, seed=1)
    near = learned(pool)
    far = EmpiricalBayes().learn(Evidence(GROUPS, N_TRAIN, pool=pool, larger=larger, originals=originals))
    assert near.carried == 1
    assert far.carried == pytest.approx(0.5, abs=0.1)  # 1/α is 2, then 1.33, then 1
    label = torch.arange(N_TRAIN), LABELS[:N_TRAIN]
    assert near.own[0][label].mean() == pytest.approx(4, rel=0.1)
    assert far.own[0][label].mean() == pytest.approx(2, rel=0.1)
    elsewhere = GROUPS != 0
    truth = others[FORGET].sum(0)[elsewhere]
    errors = [(known.effect(FORGET).mean[elsewhere] - truth).square().sum() for known in (near, far)]
    assert errors[1] < 0.3 * errors[0]


def test_effects_of_what_is_forgotten_together_do_not_fade():
    pool, _, originals = fading(600, 0.5, seed=0)
    larger, *_ = fading(400, 0.75, seed=1)
    far = EmpiricalBayes().learn(Evidence(GROUPS, N_TRAIN, pool=pool, larger=larger, originals=originals))
    everything = torch.ones(1, N_TRAIN)
    found, expected = (known.predict(everything)[0, :N_TRAIN] for known in (far, learned(pool)))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("extrapolates", [False, True])
def test_what_was_learnt_and_recalled_predicts_the_very_same(extrapolates):
    pool, _, originals = fading(200, 0.5, seed=0)
    evidence = Evidence(GROUPS, N_TRAIN, pool=pool)
    if extrapolates:
        evidence = replace(evidence, larger=fading(100, 0.75, seed=1)[0], originals=originals)
    first = EmpiricalBayes().learn(evidence)
    second = EmpiricalBayes().recall(evidence, {name: tensor.clone() for name, tensor in first.tensors().items()})
    for asked in (towards(FORGET, N_TRAIN), torch.ones(1, N_TRAIN), torch.rand(3, N_TRAIN)):
        assert torch.equal(first.predict(asked), second.predict(asked))
    assert torch.equal(first.effect(FORGET).standard_error, second.effect(FORGET).standard_error)
    assert first.facts() == second.facts()
    again = second.tensors()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.tensors().items())
