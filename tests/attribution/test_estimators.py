"""Estimators on worlds whose true effects are known."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from dmm_exp.attribution import Datamodel, Debiased, Evidence, FeldmanZhang, OracleEffect, SubsetModels, towards
from dmm_exp.attribution.feldman_zhang import difference_weights, summed_differences
from dmm_exp.ensembles import RandomSubsets
from dmm_exp.errors import UserError

N_TRAIN, POINTS, CLASSES = 30, 12, 2


def world(members, *, noise, seed, n_train=N_TRAIN, block=2, own=0.0, others=0.3):
    """Return subset models of a linear world, and its weights ``[n_train, points, classes]``."""
    generator = torch.Generator().manual_seed(seed)
    weights = others * torch.randn(n_train, POINTS, CLASSES, generator=torch.Generator().manual_seed(1000))
    for point in range(POINTS):
        weights[point, point] += own
    alpha = 1 - 1 / block if block > 1 else 0.5
    masks = RandomSubsets(n_train, alpha, seed, complementary=block > 1).masks(range(members))
    logits = torch.einsum("mn,npc->mpc", masks.float(), weights)
    logits += noise * torch.randn(logits.shape, generator=generator)
    return SubsetModels(masks, logits, block), weights


GROUPS = torch.tensor([0] * 4 + [1] * 6 + [2] * 2)
FORGET = torch.arange(4)


ALIKE = torch.zeros(POINTS, dtype=torch.long)


def learned(estimator, pool, groups=GROUPS):
    return estimator.learn(Evidence(groups, pool.n_train, pool=pool))


def estimate(estimator, pool, forget=FORGET):
    return learned(estimator, pool).effect(forget).mean


def identifiable(weights):
    """Return the weights less their mean over examples: subsets of one size cannot tell a common part."""
    return weights - weights.mean(0)


ESTIMATORS = {
    "feldman_zhang": FeldmanZhang,
    "datamodel": lambda: Datamodel(penalties=[1e-6]),
    "debiased": lambda: Debiased("none", penalties=[1e-6]),
}


@pytest.mark.parametrize("name", ["datamodel", "debiased"])
def test_without_noise_the_true_effect_is_found_exactly(name):
    pool, weights = world(200, noise=0.0, seed=0)
    found = estimate(ESTIMATORS[name](), pool)
    torch.testing.assert_close(found, identifiable(weights)[FORGET].sum(0), atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_unbiased_estimators_are_right_on_average(name):
    _, weights = world(4, noise=1.0, seed=0)
    found = torch.stack([estimate(ESTIMATORS[name](), world(120, noise=1.0, seed=seed)[0]) for seed in range(60)])
    # Feldman-Zhang compares in with out: an inclusion leaves (1 - 1/n) of a place for the others
    expected = identifiable(weights)[FORGET].sum(0) * (N_TRAIN / (N_TRAIN - 1) if name == "feldman_zhang" else 1)
    error = (found.mean(0) - expected) / (found.std(0) / len(found) ** 0.5)
    assert error.abs().mean() < 1.1  # mean of |standard normal| is 0.8
    assert error.abs().max() < 4.5


def test_ridge_with_a_large_penalty_is_biased_and_its_correction_is_not():
    _, weights = world(4, noise=1.0, seed=0)
    truth = identifiable(weights)[FORGET].sum(0)
    worlds = [world(120, noise=1.0, seed=seed)[0] for seed in range(60)]
    ridge = torch.stack([estimate(Datamodel(penalties=[3.0]), pool) for pool in worlds]).mean(0)
    debiased = torch.stack([estimate(Debiased("none", penalties=[3.0]), pool) for pool in worlds]).mean(0)
    slope = [float((found * truth).sum() / truth.square().sum()) for found in (ridge, debiased)]
    assert slope[0] < 0.5
    assert abs(slope[1] - 1) < 0.1


def test_difference_of_means_is_just_that():
    pool, _ = world(40, noise=1.0, seed=3)
    masks, logits = pool.masks, pool.logits
    expected = sum(logits[masks[:, i]].mean(0) - logits[~masks[:, i]].mean(0) for i in FORGET)
    torch.testing.assert_close(estimate(FeldmanZhang(), pool), expected, atol=1e-4, rtol=1e-4)


def test_standard_error_of_the_difference_of_means():
    """About ``2 s √(|F|/M)`` at α = 0.5."""
    found = torch.stack([estimate(FeldmanZhang(), world(200, noise=1.5, seed=s, others=0.0)[0]) for s in range(80)])
    assert found.std(0).mean() == pytest.approx(2 * 1.5 * (4 / 200) ** 0.5, rel=0.1)


@pytest.mark.parametrize("members", [20, 80], ids=["fewer members than examples", "more members than examples"])
def test_ridge_equals_scikit_learn(members):
    pool, _ = world(members, noise=1.0, seed=2)
    known = learned(Datamodel(penalties=[0.7]), pool, ALIKE)
    reference = Ridge(alpha=known.penalty[0]).fit(pool.masks.float().numpy(), pool.logits.flatten(1).numpy())
    directions = torch.eye(N_TRAIN)
    found = known.predict(directions).flatten(1)
    np.testing.assert_allclose(found.numpy(), reference.coef_.T, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("block", [1, 2, 5])
def test_left_out_residuals_equal_refitting_without_the_block(block):
    pool, _ = world(40, noise=1.0, seed=4, block=block)
    known = learned(Datamodel(penalties=[0.5]), pool, ALIKE)
    penalty, ridge = known.penalty[0], known.ridge
    found = ridge.leave_out(ridge.logits.at(torch.arange(POINTS)).flatten(1), penalty)
    masks, outputs = pool.masks.float().numpy(), pool.logits.flatten(1).numpy()
    for start in range(0, 40, pool.block):
        out = np.arange(start, start + pool.block)
        kept = np.setdiff1d(np.arange(40), out)
        refit = Ridge(alpha=penalty).fit(masks[kept], outputs[kept])
        np.testing.assert_allclose(found[out].numpy(), outputs[out] - refit.predict(masks[out]), atol=1e-3)


def test_the_chosen_penalty_has_the_smallest_refitted_error():
    pool, _ = world(40, noise=1.0, seed=5, block=1)
    penalties = [0.01, 0.3, 3.0, 100.0]
    known = learned(Datamodel(penalties=penalties), pool, ALIKE)
    masks, outputs = pool.masks.float().numpy(), pool.logits.flatten(1).numpy()
    scale = float(known.ridge.squares.sum()) / min(masks.shape)

    def error(penalty):
        total = 0.0
        for member in range(40):
            kept = np.delete(np.arange(40), member)
            refit = Ridge(alpha=penalty).fit(masks[kept], outputs[kept])
            total += float(((outputs[member] - refit.predict(masks[member : member + 1])) ** 2).sum())
        return total

    assert known.penalty[0] == pytest.approx(min((scale * factor for factor in penalties), key=error))


@pytest.mark.parametrize("estimator", [FeldmanZhang, Datamodel])
def test_predictions_are_linear_in_the_direction(estimator):
    pool, _ = world(60, noise=1.0, seed=6)
    known = learned(estimator(), pool)
    directions = torch.randn(2, N_TRAIN, generator=torch.Generator().manual_seed(0))
    both = known.predict(directions.sum(0, keepdim=True))[0]
    torch.testing.assert_close(known.predict(directions).sum(0), both, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("estimator", [FeldmanZhang, Datamodel, Debiased])
def test_forgetting_nothing_has_no_effect(estimator):
    pool, _ = world(60, noise=1.0, seed=7)
    assert estimate(estimator(), pool, torch.empty(0, dtype=torch.long)).abs().max() == 0


def test_where_there_is_only_noise_the_correction_is_shrunk_away():
    found = {"raw": [], "shrunk": []}
    for seed in range(20):
        pool, _ = world(120, noise=2.0, seed=seed, others=0.0)
        found["raw"].append(estimate(FeldmanZhang(), pool).square().mean())
        found["shrunk"].append(estimate(Debiased("james_stein"), pool).square().mean())
    assert sum(found["shrunk"]) < 0.4 * sum(found["raw"])


def test_what_examples_do_to_themselves_is_kept_when_the_rest_is_noise():
    """The self-influence of memorized examples is large and precise; shrinking it with the rest would lose it."""
    error = {"debiased": 0.0, "ridge": 0.0, "difference": 0.0}
    for seed in range(10):
        pool, weights = world(120, noise=2.0, seed=seed, own=4.0, others=0.0)
        truth = weights[FORGET].sum(0)[FORGET]
        for name, estimator in (("debiased", Debiased()), ("ridge", Datamodel()), ("difference", FeldmanZhang())):
            error[name] += float((estimate(estimator, pool)[FORGET] - truth).square().mean())
    assert error["debiased"] < 0.7 * error["difference"]
    assert error["debiased"] < 0.7 * error["ridge"]


def test_more_caution_stays_closer_to_ridge():
    pool, _ = world(120, noise=1.0, seed=1, own=2.0)
    ridge = estimate(Datamodel(), pool)
    away = [float((estimate(Debiased(caution=caution), pool) - ridge).square().sum()) for caution in (0.0, 8.0, 1e6)]
    assert away[0] > away[1] > away[2] == 0


def test_standard_errors_of_the_correction_match_their_spread():
    corrections, claimed = [], []
    for seed in range(60):
        pool, _ = world(120, noise=1.0, seed=seed, others=0.0)
        known = learned(Debiased(penalties=[1.0]), pool, ALIKE).corrections[0]
        weights = known.ridge.left_out_weights(summed_differences(pool, towards(FORGET, N_TRAIN)), known.penalty)
        corrections.append(known.ridge.logits.weigh(weights, torch.arange(POINTS)))
        claimed.append(weights.square().sum() * known.noise.variance)
    spread = torch.stack(corrections).var(0).mean()
    assert float(torch.stack(claimed).mean()) == pytest.approx(float(spread), rel=0.15)


def test_an_example_that_is_everywhere_is_refused():
    masks = torch.ones(6, 3, dtype=torch.bool)
    with pytest.raises(UserError, match=r"pool\.size"):
        difference_weights(masks)


def test_oracle_effect_is_the_difference_of_means():
    originals, oracles = torch.randn(5, 3, 2), torch.randn(7, 3, 2)
    known = OracleEffect().learn(Evidence(GROUPS[:3], 3, originals=originals, oracles=oracles))
    torch.testing.assert_close(known.effect(FORGET[:3]).mean, originals.mean(0) - oracles.mean(0))


def test_oracles_know_the_effect_of_one_set_of_examples_only():
    originals, oracles = torch.randn(5, 3, 2), torch.randn(7, 3, 2)
    known = OracleEffect().learn(Evidence(torch.tensor([0, 1, 0]), 3, originals=originals, oracles=oracles))
    assert known.effect(torch.tensor([0, 2])).mean.shape == (3, 2)
    with pytest.raises(ValueError, match="only the effect of the examples"):
        known.effect(torch.tensor([1]))
    with pytest.raises(TypeError, match="one set of examples only"):
        known.predict(torch.ones(1, 3))


@pytest.mark.parametrize(
    "estimator",
    [FeldmanZhang(), Datamodel(penalties=[1.0]), Debiased(shrinkage="none")],
    ids=["difference", "ridge", "debiased"],
)
def test_standard_errors_are_the_spread_over_pools(estimator):
    found, errors = [], []
    for seed in range(40):
        pool, _ = world(60, noise=1.0, seed=seed, own=2.0)
        effect = learned(estimator, pool).effect(FORGET)
        found.append(effect.mean)
        errors.append(effect.standard_error)
    spread = torch.stack(found).var(0)
    assert float(torch.stack(errors).square().mean() / spread.mean()) == pytest.approx(1, abs=0.35)
