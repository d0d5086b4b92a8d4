"""Intervals over members cover what fresh ensembles give on average."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dmm_exp.errors import UserError
from dmm_exp.metrics import false_positives, mean_interval, tow, tpr_at_fpr, ulira, ulira_intervals, ulira_scores

RATES = ("accuracy", "tpr_at_1fpr", "false_positive_rate")


def ensembles(generator, members=20, points=30, shift=0.0):
    """Draw unlearned, retrained and held-out margins; those of a member share a tenth of their variance."""
    common, own = generator.normal(size=(3, members, 1)), generator.normal(size=(3, members, points))
    margins = 0.1**0.5 * common + 0.9**0.5 * own
    margins[0] += shift
    return margins


def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(0).uniform(0.4, 0.6, 20)
    expected = stats.t.interval(0.95, 19, loc=values.mean(), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)


def test_the_interval_of_a_mean_stays_within_zero_and_one():
    assert mean_interval([0.0, 0.0, 1.0]) == (0.0, 1.0)
    assert mean_interval([1.0, 1.0, 1.0]) == (1.0, 1.0)


def accuracies(generator, members, right):
    """Draw accuracies of every member on 50 forget, 400 retain and 200 validation points."""
    sizes = {"forget": 50, "retain": 400, "val": 200}
    return {group: generator.binomial(size, right[group], members) / size for group, size in sizes.items()}


@pytest.mark.parametrize("forget", [0.6, 0.75])
def test_intervals_of_tug_of_war_cover_its_expectation(forget):
    generator, oracle = np.random.default_rng(1), {"forget": 0.6, "retain": 0.99, "val": 0.95}

    def draw(members):
        sides = (accuracies(generator, members, right) for right in ({**oracle, "forget": forget}, oracle))
        return np.asarray(tow(*sides))

    expected = draw(200_000).mean()
    ends = [mean_interval(draw(20)) for _ in range(1000)]
    assert np.mean([low <= expected <= high for low, high in ends]) == pytest.approx(0.95, abs=0.02)


def test_independent_retrained_models_are_at_chance_within_the_interval():
    generator = np.random.default_rng(2)
    ends = [ulira_intervals(*ensembles(generator)[:2])["accuracy"] for _ in range(40)]
    assert np.mean([low <= 0.5 <= high for low, high in ends]) == pytest.approx(0.95, abs=0.08)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_intervals_of_the_attack_cover_what_fresh_ensembles_give(shift):
    generator = np.random.default_rng(3)
    fresh = [found(*ensembles(generator, shift=shift)) for _ in range(300)]
    ends = [ulira_intervals(*ensembles(generator, shift=shift)) for _ in range(24)]
    for rate, expected in zip(RATES, np.mean(fresh, axis=0), strict=True):
        covered = np.mean([own[rate][0] <= expected <= own[rate][1] for own in ends])
        assert covered >= 0.8, rate


def found(unlearned, oracle, held_out):
    """Return the three rates."""
    wrong = false_positives(unlearned, oracle, held_out).mean()
    return ulira(unlearned, oracle).mean(), tpr_at_fpr(*ulira_scores(unlearned, oracle)), wrong


def test_intervals_of_the_attack_hold_its_rates_and_are_the_same_every_time():
    margins = ensembles(np.random.default_rng(4), members=21, shift=0.5)
    ends = ulira_intervals(*margins)
    assert list(ends) == list(RATES)
    for value, (low, high) in zip(found(*margins), ends.values(), strict=True):
        assert 0 <= low <= value <= high <= 1
    assert ends == ulira_intervals(*margins)
    assert list(ulira_intervals(*margins[:2])) == list(RATES[:2])


def test_identical_ensembles_have_finite_intervals():
    constant = np.full((8, 3), 2.0)
    assert ulira_intervals(constant, constant, constant)["false_positive_rate"] == (0.5, 0.5)


def test_bad_input_is_named_in_one_sentence():
    good = np.random.default_rng(5).normal(size=(8, 3))
    with pytest.raises(UserError, match="at least two members"):
        mean_interval([0.5])
    with pytest.raises(UserError, match=r"each in \[0, 1\]"):
        mean_interval([0.5, 90.0])
    with pytest.raises(UserError, match=r"oracle has shape .* at least 8"):
        ulira_intervals(good, good[:7])
    with pytest.raises(UserError, match="same points"):
        ulira_intervals(good, good, good[:, :2])
    with pytest.raises(UserError, match="level is 95"):
        mean_interval([0.5, 0.6], level=95)
