"""U-LiRA: chance for equals, certainty for strangers, and no member judged by its own fit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_curve

from dmm_exp.errors import UserError
from dmm_exp.metrics import false_positives, roc, tpr_at_fpr, ulira, ulira_scores


def test_independent_ensembles_of_one_distribution_are_at_chance():
    unlearned, oracle = np.random.default_rng(0).normal(size=(2, 50, 2000))
    assert ulira(unlearned, oracle).mean() == pytest.approx(0.5, abs=0.01)


def test_ensembles_far_apart_are_always_told_apart():
    unlearned, oracle = np.random.default_rng(0).normal(size=(2, 20, 30))
    np.testing.assert_array_equal(ulira(unlearned + 50, oracle), 1.0)


def test_an_ensemble_against_itself_stays_below_chance():
    margins = np.random.default_rng(1).normal(size=(20, 200))
    assert ulira(margins, margins).max() < 0.5


def test_the_closed_form_equals_refitting_without_each_member():
    generator = np.random.default_rng(2)
    unlearned, oracle = generator.normal(1, 2, size=(6, 4)), generator.normal(size=(9, 4))
    positive, negative = ulira_scores(unlearned, oracle)

    def density(value, sample):
        return stats.norm.logpdf(value, *stats.norm.fit(sample))

    for point in range(4):
        u, o = unlearned[:, point], oracle[:, point]
        expected = [density(u[i], np.delete(u, i)) - density(u[i], o) for i in range(6)]
        np.testing.assert_allclose(positive[:, point], expected, rtol=1e-9)
        expected = [density(o[i], u) - density(o[i], np.delete(o, i)) for i in range(9)]
        np.testing.assert_allclose(negative[:, point], expected, rtol=1e-9)


def test_retrained_models_that_the_attack_does_not_know_are_accused_as_often_as_not_where_there_is_no_difference():
    unlearned, oracle, held_out = np.random.default_rng(6).normal(size=(3, 50, 2000))
    assert false_positives(unlearned, oracle, held_out).mean() == pytest.approx(0.5, abs=0.01)
    assert false_positives(unlearned + 50, oracle, held_out).max() == 0
    assert false_positives(unlearned + 50, oracle, held_out + 50).min() > 0.99


def test_false_positives_are_those_of_plain_fits():
    generator = np.random.default_rng(7)
    unlearned, oracle, held_out = (
        generator.normal(1, 2, (6, 4)),
        generator.normal(size=(9, 4)),
        generator.normal(size=(3, 4)),
    )
    for point, share in enumerate(false_positives(unlearned, oracle, held_out)):
        fits = [stats.norm(*stats.norm.fit(side[:, point])) for side in (unlearned, oracle)]
        ratio = fits[0].logpdf(held_out[:, point]) - fits[1].logpdf(held_out[:, point])
        assert share == pytest.approx((ratio > 0).mean())


def test_constant_margins_are_at_chance_and_finite():
    constant = np.full((5, 2), 3.0, dtype=np.float32)
    assert np.isfinite(ulira_scores(constant, constant)).all()
    np.testing.assert_array_equal(ulira(constant, constant), 0.5)


def test_sides_may_differ_in_members():
    generator = np.random.default_rng(3)
    assert ulira(generator.normal(size=(8, 5)), generator.normal(size=(30, 5))).shape == (5,)


def test_the_roc_is_scikit_learns():
    generator = np.random.default_rng(4)
    positive, negative = generator.integers(0, 12, 80) + 2, generator.integers(0, 12, (30, 2))
    labels = np.r_[np.ones(80), np.zeros(60)]
    expected = roc_curve(labels, np.r_[positive, negative.ravel()], drop_intermediate=False)
    for found, wanted in zip(roc(positive, negative), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_the_true_positive_rate_is_taken_at_a_threshold_that_keeps_the_promise():
    negative = np.arange(100.0)
    positive = np.array([99.5, 98.5, 98.0, 97.5, 0.0])
    assert tpr_at_fpr(positive, negative, 0.01) == pytest.approx(0.4)  # one negative, 99, lies at or above 98.5
    assert tpr_at_fpr(positive, negative, 0.005) == pytest.approx(0.2)


def test_the_true_positive_rate_of_equals_is_the_false_positive_rate():
    positive, negative = np.random.default_rng(5).normal(size=(2, 200_000))
    assert tpr_at_fpr(positive, negative) == pytest.approx(0.01, abs=0.002)


def test_bad_input_is_named_in_one_sentence():
    good = np.zeros((4, 3))
    with pytest.raises(UserError, match=r"oracle has shape .* at least 3"):
        ulira(good, good[:2])
    with pytest.raises(UserError, match="same points"):
        ulira(good, good[:, :2])
    with pytest.raises(UserError, match="same points"):
        false_positives(good, good, good[:, :2])
    with pytest.raises(UserError, match="variance_floor is 0"):
        ulira(good, good, variance_floor=0.0)
    with pytest.raises(UserError, match="fpr is 1"):
        tpr_at_fpr([1.0], [0.0], 1.0)
    with pytest.raises(UserError, match="negative_scores holds 0"):
        roc([1.0], [])
