"""The strong form of U-LiRA: the literal loop, chance for perfect unlearning, and no help from dependent models."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from dmm_exp.errors import UserError
from dmm_exp.metrics import auc, check_seen, ulira_strong, ulira_strong_scores


def halves(generator, pairs, points):
    """Return who saw what when of every two models one saw a point, ``[2 · pairs, points]``."""
    first = generator.random((pairs, points)) < 0.5
    return np.stack([first, ~first], axis=1).reshape(2 * pairs, points)


def refitted(margins, seen, block):
    """Return the scores by fitting both Gaussians anew for every model and point."""
    scores = np.empty(margins.shape)
    for model, point in np.ndindex(*margins.shape):
        others = np.arange(len(margins)) // block != model // block
        sides = [margins[others & (seen[:, point] == side), point] for side in (True, False)]
        inside, outside = (stats.norm.logpdf(margins[model, point], *stats.norm.fit(side)) for side in sides)
        scores[model, point] = inside - outside
    return scores


@pytest.mark.parametrize("block", [1, 2, 4])
def test_the_closed_form_equals_refitting_without_each_block(block):
    generator = np.random.default_rng(block)
    seen = generator.random((24, 7)) < 0.5
    margins = generator.normal(size=(24, 7)) * generator.uniform(0.1, 5, 7) + 3 * seen
    np.testing.assert_allclose(ulira_strong_scores(margins, seen, block=block), refitted(margins, seen, block), 1e-9)


def test_sides_far_apart_and_narrow_lose_no_precision():
    generator = np.random.default_rng(0)
    seen = halves(generator, 8, 5)
    margins = 0.01 * generator.normal(size=seen.shape) + 80 * seen
    np.testing.assert_allclose(ulira_strong_scores(margins, seen, block=2), refitted(margins, seen, 2), 1e-9)


def test_models_that_forgot_perfectly_are_at_chance():
    generator = np.random.default_rng(1)
    seen = halves(generator, 32, 4000)
    scores = ulira_strong_scores(generator.normal(size=seen.shape), seen, block=2)
    assert ulira_strong(scores, seen).mean() == pytest.approx(0.5, abs=0.005)


def test_complementary_models_tell_nothing_of_each_other_when_pairs_are_left_out():
    """Partners whose margins mirror each other: left out alone, a model would be judged by its mirror image."""
    generator = np.random.default_rng(2)
    seen, one = halves(generator, 6, 20_000), generator.normal(size=(6, 20_000))
    margins = np.stack([one, -one], axis=1).reshape(seen.shape)
    right, wrong = (ulira_strong(ulira_strong_scores(margins, seen, block=block), seen).mean() for block in (2, 1))
    assert right == pytest.approx(0.5, abs=0.005)
    assert abs(wrong - 0.5) > 0.02


def test_accuracy_rises_with_what_is_left_of_the_point_to_that_of_the_best_attack():
    generator = np.random.default_rng(3)
    seen = halves(generator, 200, 300)
    noise = generator.normal(size=seen.shape)
    for shift in (0.5, 1.0, 3.0):
        scores = ulira_strong_scores(noise + shift * seen, seen, block=2)
        assert ulira_strong(scores, seen).mean() == pytest.approx(stats.norm.cdf(shift / 2), abs=0.01)


def test_constant_margins_are_at_chance():
    seen = halves(np.random.default_rng(4), 5, 3)
    scores = ulira_strong_scores(np.full(seen.shape, 2.5, np.float32), seen, block=2)
    np.testing.assert_allclose(ulira_strong(scores, seen), 0.5)


def test_sides_count_half_each_whatever_their_size():
    seen = np.array([[True], [True], [True], [False]])
    assert ulira_strong(np.array([[1.0], [1.0], [-1.0], [-1.0]]), seen) == pytest.approx(0.5 * (2 / 3 + 1))


def test_the_area_is_scikit_learns():
    generator = np.random.default_rng(5)
    positive, negative = generator.integers(0, 9, 60) + 1, generator.integers(0, 9, (8, 5))
    labels = np.r_[np.ones(60), np.zeros(40)]
    assert auc(positive, negative) == pytest.approx(roc_auc_score(labels, np.r_[positive, negative.ravel()]))


def test_too_few_models_and_wrong_shapes_are_one_sentence():
    seen = halves(np.random.default_rng(6), 2, 4)
    with pytest.raises(UserError, match="4 base models leave only 1 that saw some example"):
        check_seen(seen, 2)
    with pytest.raises(UserError, match="5 models cannot be divided into blocks of 2"):
        check_seen(np.ones((5, 1), bool), 2)
    with pytest.raises(UserError, match="expected the same shape"):
        ulira_strong_scores(np.zeros((4, 3)), seen)
    with pytest.raises(UserError, match="NaN or infinite"):
        ulira_strong_scores(np.full((6, 1), np.nan), halves(np.random.default_rng(0), 3, 1))
    with pytest.raises(UserError, match="variance_floor is 0"):
        ulira_strong_scores(np.zeros((4, 4)), seen, variance_floor=0.0)
