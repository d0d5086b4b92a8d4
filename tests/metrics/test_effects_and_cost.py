"""Quality of a predicted effect, and cost."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import linregress
from sklearn.metrics import r2_score

from dmm_exp.errors import UserError
from dmm_exp.metrics import cost_ratio, doubt, effect_quality, error_ratio, expected_error, retraining_cost


def test_a_perfect_prediction_scores_one():
    true = np.random.default_rng(0).normal(size=(20, 3))
    assert effect_quality(true, true) == {"r2": 1.0, "correlation": pytest.approx(1.0), "slope": pytest.approx(1.0)}


def test_effect_quality_agrees_with_scikit_learn_and_numpy():
    predicted, true = np.random.default_rng(1).normal(size=(2, 40, 5)).astype(np.float32)
    quality = effect_quality(predicted, true)
    assert quality["r2"] == pytest.approx(r2_score(true.ravel(), predicted.ravel()), rel=1e-6)
    assert quality["correlation"] == pytest.approx(np.corrcoef(true.ravel(), predicted.ravel())[0, 1], rel=1e-6)
    assert quality["slope"] == pytest.approx(linregress(predicted.ravel(), true.ravel()).slope, rel=1e-5)


def test_scale_hurts_r2_and_not_the_correlation():
    true = np.random.default_rng(2).normal(size=(20, 3))
    quality = effect_quality(3 * true, true)
    assert quality["r2"] < 0
    assert quality["slope"] == pytest.approx(1 / 3)
    assert quality["correlation"] == pytest.approx(1.0)


def test_what_does_not_apply_is_absent():
    varied = np.random.default_rng(3).normal(size=(7, 3))
    assert effect_quality(varied, np.full((7, 3), 0.1)) == {}
    assert set(effect_quality(np.full((7, 3), 0.1), varied)) == {"r2"}


@pytest.mark.parametrize("noise", [0.3, 1.0, 2.0])
def test_the_expected_error_is_the_error_in_multiples_of_that_of_doing_nothing(noise):
    generator = np.random.default_rng(4)
    true = generator.normal(size=(2000, 10))
    seen, errors = true + noise * generator.normal(size=true.shape), np.full(true.shape, noise)
    found = expected_error(seen, errors, posterior=False)
    assert found == pytest.approx(np.square(seen - true).sum() / np.square(true).sum(), rel=0.1)
    kept = 1 / (1 + noise**2)  # the posterior under a standard normal prior
    found = expected_error(kept * seen, errors * kept**0.5, posterior=True)
    assert found == pytest.approx(np.square(kept * seen - true).sum() / np.square(true).sum(), rel=0.1)
    assert found < 1


def test_a_prediction_that_is_all_noise_expects_the_worst():
    noise = np.random.default_rng(5).normal(size=(200, 10))
    assert expected_error(noise, np.full(noise.shape, 1.05), posterior=False) == 100
    assert expected_error(noise, np.zeros(noise.shape), posterior=False) == 0


def test_bad_effects_are_named_in_one_sentence():
    with pytest.raises(UserError, match="same shape"):
        effect_quality(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(UserError, match=r"predicted .* NaN"):
        effect_quality([[np.nan]], [[1.0]])


def test_retraining_costs_one_and_doing_nothing_costs_nothing():
    retraining = retraining_cost(24, 45_000)
    assert retraining == 1_080_000
    assert cost_ratio(retraining, retraining) == 1.0
    assert cost_ratio(0, retraining) == 0.0


@pytest.mark.parametrize(("unlearning", "retraining"), [(-1, 1), (1, 0), (float("nan"), 1), (1, float("inf"))])
def test_impossible_costs_are_refused(unlearning, retraining):
    with pytest.raises(UserError, match="expected"):
        cost_ratio(unlearning, retraining)


def test_importing_the_metrics_loads_neither_torch_nor_scipy():
    code = "import sys, dmm_exp.metrics; sys.exit(bool({'torch', 'scipy', 'sklearn', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_error_ratio_is_the_squared_error_in_variances_whatever_the_noise_of_retrained_models(factor):
    generator = np.random.default_rng(0)
    error = generator.uniform(0.5, 2.0, size=(400, 10))
    truth = generator.normal(size=error.shape)
    predicted = truth + factor**0.5 * error * generator.normal(size=error.shape)
    seen = [truth + 2 * generator.normal(size=error.shape) for _ in range(2)]
    exact = ((predicted - truth) ** 2).sum() / (error**2).sum()
    assert exact == pytest.approx(factor, rel=0.05)
    assert error_ratio(predicted, error, truth, truth) == pytest.approx(exact)
    assert error_ratio(predicted, error, *seen) == pytest.approx(exact, abs=0.15)


def test_without_a_stated_error_there_is_no_ratio():
    assert np.isnan(error_ratio(np.ones((2, 2)), np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 2))))


def test_doubt_is_the_standard_error_of_the_labels_logit_in_deviations_of_models():
    error, deviation = np.full((4, 3), 9.0), np.full((4, 3), 5.0)
    labels = np.array([0, 1, 2, 0])
    error[range(4), labels], deviation[range(4), labels] = 1.0, 2.0
    assert doubt(error, deviation, labels) == pytest.approx(0.5)
    error[range(4), labels] *= [1, 2, 3, 4]
    assert doubt(error, deviation, labels) == pytest.approx(0.5 * 7.5**0.5)


def test_a_logit_that_does_not_vary_does_not_make_doubt_infinite():
    assert np.isfinite(doubt(np.ones((2, 2)), np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([0, 0])))
