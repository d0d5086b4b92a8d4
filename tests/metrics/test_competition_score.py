"""The competition's score: known numbers, and equality with a slow grid of thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dmm_exp.errors import UserError
from dmm_exp.metrics import competition_epsilon, competition_quality
from dmm_exp.metrics.competition import DELTA, SLACK


def draws(seed: int, models: int, points: int, shift: float = 0.0, scale: float = 1.0):
    """Margins of both sides on a lattice of .2, so that a grid of thresholds cannot miss what lies between them."""
    first, second = np.random.default_rng(seed).normal(size=(2, models, points))
    return (first * scale + shift).round(decimals=1) * 2, second.round(decimals=1) * 2


def plain_epsilon(own: np.ndarray, others: np.ndarray) -> float:
    """The competition's rule as its report states it: every threshold of a grid in turn."""
    rates = []
    positive, negative = (others, own) if np.median(others) > np.median(own) else (own, others)
    for threshold in np.arange(min(own.min(), others.min()) - 0.1, max(own.max(), others.max()) + 0.2, 0.1):
        rates.append(((negative >= threshold).mean(), (positive < threshold).mean()))
    narrow, wide = (others, own) if np.ptp(others) < np.ptp(own) else (own, others)
    for width in np.arange(np.ptp(narrow) - SLACK, np.ptp(narrow) + SLACK + 1e-9, 0.1):
        for left in np.arange(min(own.min(), others.min()) - 5.1, max(own.max(), others.max()) + 5, 0.1):
            inside = [(left <= side + 1e-6) & (side <= left + max(width, 0) + 1e-6) for side in (narrow, wide)]
            rates.append((inside[1].mean(), (~inside[0]).mean()))
    found = [0.0]
    for false, missed in rates:
        if false == missed == 0:
            return 50.0
        if false > 0 and missed > 0 and false < 1 and missed < 1:
            pair = math.log(1 - DELTA - false) - math.log(missed), math.log(1 - DELTA - missed) - math.log(false)
            found.append(max(pair))
    return max(found)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (1.0, 1.0), (0.0, 0.4), (0.5, 2.0)])
def test_epsilon_is_that_of_all_thresholds_of_a_grid(shift, scale):
    own, others = draws(3, 12, 6, shift, scale)
    wanted = [plain_epsilon(*pair) for pair in zip(own.T, others.T, strict=True)]
    assert competition_epsilon(own, others) == pytest.approx(wanted)


def test_known_numbers_of_one_threshold():
    own = np.array([[0.0], [1.0], [2.0], [103.0]])
    others = np.array([[1.5], [100.0], [101.0], [102.0]])  # above 1.5: all of the retrained, and two of four unlearned
    best = math.log(1 - DELTA - 0.25) - math.log(0.25)  # above 2: three of four, and one of four
    assert competition_epsilon(own, others) == pytest.approx([best])
    assert competition_epsilon(others[:3], own[:3]) == pytest.approx([math.log(1 - DELTA - 1 / 3) - math.log(1 / 3)])


def test_sides_that_do_not_overlap_have_the_largest_epsilon_and_so_has_a_point_mass():
    own, others = draws(0, 50, 4)
    assert (competition_epsilon(own + 50, others) == 50).all()
    assert (competition_epsilon(own * 1e-3, others) == 50).all()
    assert (competition_quality(competition_epsilon(own + 50, others), 50) == 0).all()


def test_quality_halves_with_every_half_of_epsilon_and_ends_where_models_cannot_tell():
    assert competition_quality([0.0, 0.49, 0.5, 1.2, 4.9, 5.0], 100).tolist() == [1, 1, 0.5, 0.25, 2.0**-9, 0]


def test_retrained_models_are_far_from_a_quality_of_one():
    own, others = np.random.default_rng(1).normal(size=(2, 100, 200)) * 3
    floor = competition_quality(competition_epsilon(own, others), 100).mean()
    worse = competition_quality(competition_epsilon(own + 3, others), 100).mean()
    assert 0.05 < floor < 0.4
    assert worse < floor / 2


def test_different_shapes_are_refused():
    with pytest.raises(UserError, match="expected the same shape"):
        competition_epsilon(np.zeros((3, 2)), np.zeros((4, 2)))
