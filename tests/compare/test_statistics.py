"""Statistics against plain calculations, and against what they promise on made-up members."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dmm_exp.compare.statistics import differences_over_blocks, holm, mean_rank_intervals, paired_bootstrap, ranks


@pytest.mark.parametrize("lower", [True, False])
def test_ranks_are_those_of_scipy_with_ties_at_their_average(lower):
    values = np.array([[3.0, 1.0, 2.0, 1.0], [0.0, 5.0, 5.0, 5.0]])
    expected = np.stack([stats.rankdata(row if lower else -row) for row in values])
    np.testing.assert_array_equal(ranks(values, lower=lower), expected)


def test_a_missing_method_has_no_rank_and_one_alone_is_not_ranked():
    found = ranks(np.array([[1.0, math.nan, 2.0], [math.nan, 1.0, math.nan]]), lower=True)
    np.testing.assert_array_equal(found, [[1.0, math.nan, 2.0], [math.nan] * 3])


def test_rank_intervals_hold_the_mean_are_reproducible_and_need_two_blocks():
    found = np.array([[1.0, 2.0, 3.0], [2.0, 1.0, math.nan], [1.0, 2.0, math.nan], [1.0, 2.0, math.nan]])
    low, high = mean_rank_intervals(found)
    assert low[0] <= 1.25 <= high[0]
    assert (low[0], high[0]) == (1.0, 1.75)
    assert math.isnan(low[2])
    np.testing.assert_array_equal(mean_rank_intervals(found)[0], low)


def test_holm_equals_the_textbook():
    found = holm(np.array([0.01, 0.04, math.nan, 0.03, 0.005]))
    np.testing.assert_allclose(found, [0.03, 0.06, math.nan, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).max() == 1.0


def test_differences_over_blocks_are_the_paired_t_test():
    draw = np.random.default_rng(0)
    first, second = draw.normal(0, 1, 7), draw.normal(0.5, 1, 7)
    found = differences_over_blocks(np.stack([second - first, np.full(7, math.nan), np.full(7, 2.0)], axis=1))
    expected = stats.ttest_rel(second, first)
    assert found.p[0] == pytest.approx(expected.pvalue)
    assert (found.low[0], found.high[0]) == pytest.approx(tuple(expected.confidence_interval()))
    assert np.isnan([found.mean[1], found.p[1]]).all()
    assert found.p[2] == 0.0
    assert math.isnan(differences_over_blocks(np.array([[1.0]])).low[0])


@pytest.mark.parametrize(("members", "blocks"), [(8, 1), (20, 3)])
def test_paired_intervals_cover_the_true_difference_about_as_often_as_they_say(members, blocks):
    draw = np.random.default_rng(1)
    pairs = 1000  # each column is an experiment of its own; true difference 0.3
    found = paired_bootstrap([0.3 + 0.5 * draw.normal(0, 1, (members, pairs)) for _ in range(blocks)])
    covered = np.mean((found.low <= 0.3) & (found.high >= 0.3))
    assert 0.92 <= covered <= 0.975
    none = paired_bootstrap([draw.normal(0, 1, (members, pairs)) for _ in range(blocks)])
    assert 0.025 <= np.mean(none.p < 0.05) <= 0.08


def test_pairing_narrows_the_interval_of_correlated_members():
    draw = np.random.default_rng(2)
    shared = draw.normal(0, 1, 100)
    first, second = shared + 0.1 * draw.normal(0, 1, 100), shared + 0.1 * draw.normal(0, 1, 100)
    matched = paired_bootstrap([(second - first)[:, None]])
    strangers = paired_bootstrap([(draw.permutation(second) - first)[:, None]])
    assert matched.high - matched.low < 0.3 * (strangers.high - strangers.low)


def test_the_bootstrap_agrees_with_students_t_and_repeats_itself():
    values = np.random.default_rng(3).normal(0.2, 1, (60, 1))
    found, again = paired_bootstrap([values]), paired_bootstrap([values])
    expected = stats.ttest_1samp(values[:, 0], 0).confidence_interval()
    assert (found.low[0], found.high[0]) == pytest.approx(tuple(expected), abs=0.03)
    assert found.low[0] == again.low[0]


def test_blocks_count_equally_and_a_pair_skips_those_it_is_not_in():
    first = np.stack([np.full(10, 1.0), np.full(10, 4.0)], axis=1)
    second = np.stack([np.full(5, 2.0), np.full(5, math.nan)], axis=1)
    found = paired_bootstrap([first, second])
    np.testing.assert_allclose(found.mean, [1.5, 4.0])
    np.testing.assert_allclose(found.low, [1.5, 4.0])


def test_equal_methods_have_p_1_and_one_member_has_no_interval():
    assert paired_bootstrap([np.zeros((10, 1))]).p[0] == 1.0
    assert math.isnan(paired_bootstrap([np.ones((1, 1))]).p[0])
