"""Sparse datamodels against scikit-learn, brute force, and worlds whose truth is known."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from dmm_exp.attribution import Evidence, SparseDatamodel, SubsetModels
from dmm_exp.attribution.fista import Design, Problems, Weights, solve
from dmm_exp.attribution.lasso import Designs
from dmm_exp.ensembles import RandomSubsets
from dmm_exp.errors import UserError

N_TRAIN, POINTS, CLASSES = 30, 6, 2
EXACT = 1e-6  # the smallest tolerance that single precision certifies


def world(members, *, noise, seed=0, n_train=N_TRAIN, influential=3):
    """Return subset models in complementary pairs, and weights ``[n_train, points, classes]``, few of them not zero."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.zeros(n_train, POINTS, CLASSES)
    for point in range(POINTS):
        chosen = torch.randperm(n_train, generator=generator)[:influential]
        weights[chosen, point] = 1 + torch.rand(influential, CLASSES, generator=generator)
    masks = RandomSubsets(n_train, 0.5, seed, True).masks(range(members))
    logits = 3 + torch.einsum("mn,npc->mpc", masks.float(), weights)
    return SubsetModels(masks, logits + noise * torch.randn(logits.shape, generator=generator), block=2), weights


def method(**options):
    return SparseDatamodel(**{"own_penalty": 1.0, **options})


def fitted(pool, **options):
    return method(**options).learn(Evidence(torch.zeros(POINTS, dtype=torch.long), pool.n_train, pool=pool))


def effects(learned, n_train=N_TRAIN):
    """Return the effect of every single example, ``[n_train, outputs]``."""
    return learned.predict(torch.eye(n_train)).flatten(1)


def problems_of(pool):
    return Problems.of(Design(pool.masks), pool.logits.flatten(1))


def scikit_learn(masks, outputs, penalty):
    """Return a fitted reference; its objective is divided by the number of members, as ours is."""
    return Lasso(alpha=float(penalty), tol=1e-8, max_iter=100_000).fit(masks.double().numpy(), outputs.double().numpy())


@pytest.mark.parametrize(
    ("members", "n_train"), [(120, 250), (60, 30), (200, 30)], ids=["wide: two products", "square", "tall"]
)
@pytest.mark.parametrize("fraction", [0.7, 0.3, 0.1])
def test_weights_equal_scikit_learn(members, n_train, fraction):
    pool, _ = world(members, noise=1.0, n_train=n_train)
    outputs = pool.logits.flatten(1) / pool.logits.flatten(1).std(0)
    problems = Problems.of(Design(pool.masks), outputs)
    assert (problems.design.gram is None) == (n_train == 250)
    penalties = fraction * problems.largest_penalties()
    found = solve(problems, penalties, problems.zeros(), tolerance=0.5 * EXACT, iterations=20_000).values
    for output, expected in enumerate(outputs.T):
        reference = scikit_learn(pool.masks, expected, penalties[output])
        np.testing.assert_allclose(found[output].numpy(), reference.coef_, atol=1e-3)


def test_weights_with_penalties_of_their_own_equal_scikit_learn_on_scaled_masks():
    pool, _ = world(120, noise=1.0)
    outputs = pool.logits.flatten(1) / pool.logits.flatten(1).std(0)
    relative = 0.1 + torch.rand(outputs.shape[1], N_TRAIN, generator=torch.Generator().manual_seed(2))
    problems = Problems.of(Design(pool.masks), outputs, relative)
    penalties = 0.3 * problems.largest_penalties()
    found = solve(problems, penalties, problems.zeros(), tolerance=0.5 * EXACT, iterations=20_000).values
    for output, expected in enumerate(outputs.T):
        reference = scikit_learn(pool.masks / relative[output], expected, penalties[output])
        np.testing.assert_allclose(found[output].numpy(), reference.coef_ / relative[output].numpy(), atol=1e-3)


def test_what_an_example_does_to_itself_is_shrunk_less():
    pool, weights = world(60, noise=1.0)
    own = torch.arange(POINTS)
    weights[own, own] += 3
    logits = pool.logits + torch.einsum(
        "mn,npc->mpc", pool.masks.float()[:, :POINTS], 3 * torch.eye(POINTS)[..., None].expand(-1, -1, CLASSES)
    )
    changed = SubsetModels(pool.masks, logits, block=2)
    alike, less = (
        effects(fitted(changed, own_penalty=value)).view(-1, POINTS, CLASSES)[own, own] for value in (1.0, 0.1)
    )
    truth = weights[own, own]
    assert (less - truth).abs().mean() < (alike - truth).abs().mean()


@pytest.mark.parametrize("members", [10, 60], ids=["by masks twice", "by their Gram matrix"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_few_and_many_weights_are_multiplied_alike(members, share):
    design = Design(world(members, noise=1.0)[0].masks)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(40, N_TRAIN, generator=generator) * (torch.rand(40, N_TRAIN, generator=generator) < share)
    expected = weights @ design.centred.T @ design.centred / members
    torch.testing.assert_close(design.multiply(weights), expected, atol=1e-5, rtol=1e-4)


def test_the_gap_that_certifies_is_the_true_one():
    pool, _ = world(60, noise=1.0)
    problems = problems_of(pool)
    penalties = 0.2 * problems.largest_penalties()
    centred, outputs = (values.double() - values.double().mean(0) for values in (pool.masks, pool.logits.flatten(1)))

    def objective(values):
        squares = (outputs - centred @ values.double().T).square().mean(0)
        return 0.5 * squares + penalties * values.double().abs().sum(1)

    best = objective(solve(problems, penalties, problems.zeros(), tolerance=EXACT, iterations=20_000).values)
    for tolerance in (1e-1, 1e-2, 1e-3):
        rough = objective(solve(problems, penalties, problems.zeros(), tolerance=tolerance, iterations=500).values)
        assert ((rough - best) <= 0.5 * tolerance * problems.power).all()


def test_a_warm_start_ends_where_a_cold_one_does():
    problems = problems_of(world(100, noise=1.0)[0])
    largest = problems.largest_penalties()
    warm = problems.zeros()
    for fraction in (0.8, 0.5, 0.3, 0.1):
        warm = solve(problems, fraction * largest, warm, tolerance=EXACT, iterations=5000)
        cold = solve(problems, fraction * largest, problems.zeros(), tolerance=EXACT, iterations=5000)
        torch.testing.assert_close(warm.values, cold.values, atol=1e-3, rtol=0)


def test_the_largest_penalty_is_where_weights_begin():
    problems = problems_of(world(100, noise=1.0)[0])
    largest = problems.largest_penalties()
    random = Weights(
        torch.ones_like(problems.correlation), problems.design.multiply(torch.ones_like(problems.correlation))
    )
    options = {"tolerance": EXACT, "iterations": 5000}
    assert solve(problems, 1.001 * largest, random, **options).values.abs().max() < 1e-3
    assert not solve(problems, largest, problems.zeros(), **options).values.any()
    assert solve(problems, 0.98 * largest, problems.zeros(), **options).values.any(1).all()


def brute_force(pool, estimator, seen):
    """Return every output's best λ by fits of scikit-learn to the first members, walking as far as patience allows."""
    masks, outputs = pool.masks, pool.logits.flatten(1)
    centred = masks[:seen].double() - masks[:seen].double().mean(0)
    chosen = []
    for column in outputs.T:
        largest = float((centred.T @ (column[:seen] - column[:seen].mean()).double()).abs().max() / seen)
        factors = np.geomspace(1, estimator.smallest_penalty, estimator.path_length)
        errors = []
        for factor in factors:
            model = scikit_learn(masks[:seen], column[:seen], factor * largest)
            errors.append(float(np.square(column[seen:].numpy() - model.predict(masks[seen:].numpy())).mean()))
            if len(errors) - 1 - int(np.argmin(errors)) == estimator.patience:
                break
        chosen.append(factors[int(np.argmin(errors))] * largest)
    return np.array(chosen)


@pytest.mark.parametrize("patience", [1, 100])
def test_the_penalty_is_chosen_as_brute_force_would(patience):
    pool, _ = world(60, noise=2.0, seed=3)
    options = {"path_length": 8, "patience": patience, "validation_fraction": 0.3}
    found = fitted(pool, **options, tolerance=EXACT, iterations=5000)
    expected = brute_force(pool, method(**options), seen=42)
    np.testing.assert_allclose(found.penalties.numpy(), expected, rtol=1e-4)
    assert len(np.unique((found.penalties / found.largest).numpy().round(3))) > 2


def test_the_last_fit_is_to_all_members():
    pool, _ = world(200, noise=1.0)
    learned = fitted(pool, tolerance=EXACT, iterations=5000)
    found = effects(learned)
    for output, column in enumerate(pool.logits.flatten(1).T):
        reference = scikit_learn(pool.masks, column, learned.penalties[output])
        np.testing.assert_allclose(found[:, output].numpy(), reference.coef_, atol=1e-3)


def test_few_true_influences_are_found():
    pool, weights = world(300, noise=0.5, n_train=100)
    found, truth = effects(fitted(pool), 100), weights.flatten(1)
    assert (found[truth > 0] > 0.6).all()
    assert found[truth == 0].abs().max() < 0.25
    assert (found[truth == 0] != 0).float().mean() < 0.3


def test_effects_are_those_of_including_an_example():
    """A solver that standardises masks would be wrong by a factor of two."""
    pool, weights = world(2000, noise=0.01)
    forget = torch.arange(10)
    groups = torch.zeros(POINTS, dtype=torch.long)
    effect = SparseDatamodel(smallest_penalty=1e-3).learn(Evidence(groups, N_TRAIN, pool=pool)).effect(forget).mean
    # subsets of one size cannot tell a part that is common to all examples, and the sparsest answer has none
    torch.testing.assert_close(effect, weights[forget].sum(0), atol=0.05, rtol=0.02)


def test_the_size_of_blocks_of_outputs_does_not_matter():
    pool, _ = world(200, noise=1.0)
    whole = fitted(pool, tolerance=EXACT, iterations=5000)
    parts = fitted(pool, tolerance=EXACT, iterations=5000, outputs_at_once=5)
    assert len(parts.weights) == 3
    torch.testing.assert_close(parts.penalties, whole.penalties)
    torch.testing.assert_close(effects(parts), effects(whole), atol=1e-3, rtol=0)


def test_pairs_stay_on_one_side_of_the_split():
    """With one member of each pair repeating a fitted one upside down, the noise of pairs would look like signal."""
    pool, _ = world(30, noise=1.0)
    for fraction in (0.01, 0.1, 0.5, 0.85):
        designs = Designs.of(pool.masks, method(validation_fraction=fraction).seen_members(pool))
        seen = len(pool) - len(designs.unseen)
        assert seen % pool.block == 0
        assert 4 <= seen < len(pool)
        unseen = designs.unseen + designs.seen.mean
        np.testing.assert_allclose((unseen[::2] + unseen[1::2]).numpy(), 1, atol=1e-6)


def test_an_output_that_never_varies_has_no_weights():
    pool, _ = world(40, noise=1.0)
    pool.logits[:, 2] = 7.0
    found = fitted(pool).predict(torch.eye(N_TRAIN))
    assert found.isfinite().all()
    assert not found[:, 2].any()


def test_facts_are_plain_numbers():
    pool, _ = world(60, noise=1.0)
    learned = fitted(pool)
    found = learned.facts()
    assert set(found) == {"penalty", "penalty_fraction", "weights"}
    assert found["weights"] == pytest.approx(float((effects(learned) != 0).float().sum(0).mean()))
    assert 0.05 <= found["penalty_fraction"] <= 1


def test_what_cannot_be_certified_is_an_error_and_nothing_warns():
    pool, _ = world(60, noise=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(pool)
        with pytest.raises(UserError, match=r"attribution\.iterations=2: \d+ of 12 outputs .*tolerance=1e-05"):
            fitted(pool, iterations=2, tolerance=1e-5)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("path_length", 1),
        ("smallest_penalty", 0.0),
        ("smallest_penalty", 1.0),
        ("patience", 0),
        ("validation_fraction", 1.5),
        ("tolerance", 1e-9),
        ("iterations", 0),
        ("outputs_at_once", -3),
    ],
)
def test_bad_options_are_named(option, value):
    with pytest.raises(UserError, match=f"attribution.{option}={value}: expected a .*number") as error:
        SparseDatamodel(**{option: value})
    assert "\n" not in str(error.value)


def test_a_pool_too_small_to_split_is_named():
    pool, _ = world(6, noise=1.0)
    with pytest.raises(UserError, match=r"attribution\.validation_fraction=0\.7: of 6 pool members it leaves 2"):
        fitted(pool, validation_fraction=0.7)
