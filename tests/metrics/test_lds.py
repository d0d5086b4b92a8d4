"""The linear datamodeling score."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dmm_exp.errors import UserError
from dmm_exp.metrics import lds, lds_interval


@pytest.mark.parametrize("ties", [False, True])
def test_lds_is_scipys_spearman_at_every_point(ties):
    generator = np.random.default_rng(0)
    predicted, actual = generator.normal(size=(2, 30, 25))
    actual += predicted
    if ties:
        predicted, actual = np.round(predicted), np.round(actual)
    expected = [stats.spearmanr(predicted[:, i], actual[:, i]).statistic for i in range(25)]
    np.testing.assert_allclose(lds(predicted, actual), expected, atol=1e-12)


def test_a_rising_transformation_of_the_truth_scores_one():
    actual = np.random.default_rng(1).normal(size=(12, 4))
    np.testing.assert_allclose(lds(np.exp(actual), actual), 1.0)
    np.testing.assert_allclose(lds(-actual, actual), -1.0)


def test_a_constant_truth_is_nan_and_a_constant_prediction_is_zero():
    varied, constant = np.arange(5.0)[:, None], np.ones((5, 1))
    found = lds(np.hstack([varied, constant, constant]), np.hstack([constant, varied, constant]))
    np.testing.assert_array_equal(found, [np.nan, 0.0, np.nan])


def test_the_bootstrap_interval_is_that_of_a_mean_over_points():
    values = np.random.default_rng(2).normal(0.4, 0.1, 400)
    low, high = lds_interval(np.append(values, np.nan))
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half_width, abs=0.2 * half_width)
    assert high == pytest.approx(values.mean() + half_width, abs=0.2 * half_width)
    assert (low, high) == lds_interval(values)
    assert (low, high) != lds_interval(values, seed=1)


def test_bad_input_is_named_in_one_sentence():
    with pytest.raises(UserError, match="same shape"):
        lds(np.zeros((4, 3)), np.zeros((5, 3)))
    with pytest.raises(UserError, match="at least 2 member"):
        lds(np.zeros((1, 3)), np.zeros((1, 3)))
    with pytest.raises(UserError, match="actual outputs differ"):
        lds_interval([np.nan])
    with pytest.raises(UserError, match="level is 95"):
        lds_interval([0.1, 0.2], level=95)
    with pytest.raises(UserError, match="resamples is 5"):
        lds_interval([0.1, 0.2], resamples=5)
