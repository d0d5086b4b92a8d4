"""One network among retrained ones: known numbers, and what must not matter."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm

from dmm_exp.errors import UserError
from dmm_exp.metrics.single import (
    FEWEST_FOR_OUTSIDE,
    distances,
    outside,
    ranks,
    share_within,
    share_within_others,
)


def drawn(n_oracles=100, networks=50, points=2000, shift=0.0, seed=0):
    """Margins of networks, shifted by some standard deviations, and of oracles; every point has its own scale."""
    draw = np.random.default_rng(seed)
    scale, centre = draw.uniform(0.1, 5, points), draw.normal(size=points) * 10
    own = (draw.normal(size=(networks, points)) + shift) * scale + centre
    return own, draw.normal(size=(n_oracles, points)) * scale + centre


def expected_outside(n_oracles, shift):
    """The closed form: given the network's margin, the number of oracles below it is binomial."""
    at = np.linspace(-9, 9, 4001)
    below = np.arange(n_oracles + 1)
    each_side = 0.025 * (n_oracles + 1)
    weight = np.clip(each_side - below, 0, 1) + np.clip(each_side - (n_oracles - below), 0, 1)
    given = (binom.pmf(below[:, None], n_oracles, norm.cdf(at)) * weight[:, None]).sum(0)
    return np.trapezoid(given * norm.pdf(at - shift), at)


@pytest.mark.parametrize("n_oracles", [39, 57, 100, 200])
def test_a_retrained_network_is_outside_on_a_twentieth_of_points_at_every_number_of_oracles(n_oracles):
    assert outside(*drawn(n_oracles)).mean() == pytest.approx(0.05, abs=0.003)
    assert expected_outside(n_oracles, 0.0) == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize("shape", [np.exp, np.tanh, lambda margins: margins**3])
def test_what_is_outside_does_not_depend_on_the_shape_of_margins(shape):
    own, oracles = (side / 20 for side in drawn(points=200))
    np.testing.assert_array_equal(outside(shape(own), shape(oracles)), outside(own, oracles))


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0, 4.0])
def test_a_shifted_network_is_outside_as_often_as_the_closed_form_says(shift):
    assert outside(*drawn(shift=shift)).mean() == pytest.approx(expected_outside(100, shift), abs=0.01)


def test_with_many_oracles_a_shift_of_two_deviations_is_outside_as_of_a_normal_interval():
    edge = norm.ppf(0.975)
    assert expected_outside(1999, 2.0) == pytest.approx(norm.sf(edge - 2) + norm.cdf(-edge - 2), abs=0.002)


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_distances_are_those_of_a_folded_normal_distribution(shift):
    expected = 2 * norm.pdf(shift) + shift * (1 - 2 * norm.cdf(-shift))  # with means and deviations that are known
    assert distances(*drawn(n_oracles=1000, shift=shift)).mean() == pytest.approx(expected, rel=0.01)


def test_ranks_of_retrained_networks_are_uniform():
    found = ranks(*drawn(n_oracles=40)) * 40
    shares = np.bincount(found.astype(int).ravel(), minlength=41) / found.size
    np.testing.assert_allclose(shares, 1 / 41, atol=0.004)


def test_ranks_are_shares_of_oracles_below_and_ties_count_half():
    oracles = np.array([[0.0], [1.0], [1.0], [2.0]])
    np.testing.assert_array_equal(
        ranks([[-1.0], [0.0], [0.5], [1.0], [2.0], [3.0]], oracles)[:, 0], [0, 0.125, 0.25, 0.5, 0.875, 1]
    )


def test_the_order_of_oracles_networks_and_points_does_not_matter():
    own, oracles = drawn(points=60)
    draw = np.random.default_rng(1)
    networks, others, points = (draw.permutation(count) for count in (50, 100, 60))
    for measure in (ranks, outside, distances):
        np.testing.assert_allclose(
            measure(own[networks][:, points], oracles[others][:, points]),
            measure(own, oracles)[networks][:, points],
            rtol=1e-9,
        )


def test_a_point_on_which_all_agree_is_inside_and_has_no_distance():
    same = np.full((50, 1), 2.7)
    assert (outside(same, same) == 0).all()
    assert np.isnan(distances(same, same)).all()
    assert (outside(same + 1, same) == 1).all()


def test_one_network_is_placed_as_it_is_among_others():
    own, oracles = drawn(points=30)
    np.testing.assert_array_equal(outside(own[3:4], oracles), outside(own, oracles)[3:4])
    np.testing.assert_array_equal(outside(own.astype(np.float32), oracles.astype(np.float32)).shape, own.shape)


def test_the_share_of_retrained_networks_within_the_others_is_nineteen_in_twenty():
    draw = np.random.default_rng(5)
    shares = [share_within_others(draw.normal(size=100)) for _ in range(200)]
    assert np.mean(shares) == pytest.approx(0.94, abs=0.01)
    assert share_within(np.zeros(7), draw.uniform(1, 2, 100)) == 1.0
    assert share_within(np.full(7, 3.0), draw.uniform(1, 2, 100)) == 0.0


def test_too_few_networks_are_refused_with_their_number():
    own, oracles = drawn(n_oracles=FEWEST_FOR_OUTSIDE - 1, points=5)
    with pytest.raises(UserError, match=r"oracles has shape \[38, 5\]; expected .* at least 39 member"):
        outside(own, oracles)
    with pytest.raises(UserError, match="retrained has 19 networks; expected at least 20"):
        share_within(np.zeros(5), np.zeros(19))
    with pytest.raises(UserError, match="expected the same points"):
        ranks(own[:, :4], oracles)
