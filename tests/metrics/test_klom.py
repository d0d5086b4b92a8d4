"""KLoM: exact against a plain loop, and the numbers that are known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from dmm_exp.errors import UserError
from dmm_exp.metrics import klom, klom_both, klom_interval, klom_intervals, split_half_floor
from dmm_exp.metrics._klom_counts import MarginPair, Options, histograms
from dmm_exp.metrics.klom_intervals import _fall_from_half, statistics

OPTIONS = [
    {"direction": direction, "drop_maximum": drop, "renormalise": renormalise, "bins": bins, "clip": clip}
    for direction, drop, renormalise, bins, clip in itertools.product(
        ("unlearned_oracle", "oracle_unlearned"), (False, True), (False, True), (1, 7, 20), (100.0, 1.5)
    )
]
OPTIONS += [{**options, "floor_everywhere": True} for options in OPTIONS if options["renormalise"]]


def reference_counts(p, q, bins, clip, drop):
    """Both histograms of one point, the slow and obvious way."""
    p, q = (np.clip(np.asarray(side, dtype=np.float64), -clip, clip) for side in (p, q))
    low, high = min(p.min(), q.min()), max(p.max(), q.max())
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    drop = drop and (p < high).any() and (q < high).any()
    counts = []
    for side in (p, q):
        side_counts = [0] * bins
        for value in side:
            if not (drop and value == high):
                side_counts[sum(1 for edge in edges[1:-1] if edge <= value)] += 1
        counts.append(side_counts)
    return counts


def reference_point(p, q, bins, clip, eps, drop, renormalise, everywhere):
    """One point, the slow and obvious way."""
    shares = [[count / sum(counts) for count in counts] for counts in reference_counts(p, q, bins, clip, drop)]
    floored = [max(b, eps) if a > 0 or everywhere else b for a, b in zip(*shares, strict=True)]
    total = sum(floored) + eps * everywhere if renormalise else 1.0
    return sum(a * math.log(a / (b / total)) for a, b in zip(shares[0], floored, strict=True) if a > 0)


def reference(
    unlearned, oracle, *, bins=20, clip=100.0, eps=1e-5, direction, drop_maximum, renormalise, floor_everywhere=False
):
    """All points, one after another."""
    first, second = (unlearned, oracle) if direction == "unlearned_oracle" else (oracle, unlearned)
    return [
        reference_point(first[:, i], second[:, i], bins, clip, eps, drop_maximum, renormalise, floor_everywhere)
        for i in range(first.shape[1])
    ]


def awkward_margins():
    """Two sides [23, points]: plain, shifted, far, tied, on edges, constant, equal to the maximum, nearly constant."""
    generator = np.random.default_rng(3)
    plain = generator.normal(size=(2, 23, 6))
    shifted = generator.normal(size=(2, 23, 6)) * 3 + np.array([0.0, 5.0])[:, None, None]
    far = generator.normal(size=(2, 23, 4)) * 200
    tied = generator.integers(-3, 4, size=(2, 23, 6)).astype(float)
    on_edges = generator.integers(0, 21, size=(2, 23, 6)) * 0.1
    on_edges[0, 0], on_edges[1, 0] = 0.0, 2.0
    constant = np.full((2, 23, 1), 0.7)
    at_maximum = generator.normal(size=(2, 23, 2))
    at_maximum[0, :, 0] = at_maximum[1, :, 1] = 9.0
    nearly = 1.0 + generator.integers(0, 5, size=(2, 23, 3)) * np.finfo(np.float64).eps
    small = generator.integers(0, 9, size=(2, 23, 2)) * 5e-324
    return np.concatenate([plain, shifted, far, tied, on_edges, constant, at_maximum, nearly, small], axis=2)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_klom_is_the_obvious_computation(options, dtype):
    unlearned, oracle = awkward_margins().astype(dtype)
    expected = reference(unlearned, oracle, **options)
    np.testing.assert_allclose(klom(unlearned, oracle, **options), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("drop_maximum", [False, True])
def test_every_point_is_counted_as_a_loop_counts_it(drop_maximum):
    sides = np.concatenate([awkward_margins() * scale for scale in np.geomspace(1e-3, 1e3, 20)], axis=2)
    pair, members = MarginPair(*sides, Options(drop_maximum=drop_maximum)), np.arange(sides.shape[1])
    counts = [reference_counts(p, q, 20, 100.0, drop_maximum) for p, q in zip(*(side.T for side in sides), strict=True)]
    expected = np.transpose(counts, (1, 2, 0))
    np.testing.assert_array_equal(histograms(pair, members, members, slice(0, pair.points)), expected)


def test_a_choice_of_members_needs_no_copy_of_their_margins():
    generator = np.random.default_rng(11)
    pair = MarginPair(*generator.normal(size=(2, 30, 40)), Options())
    rows, columns = generator.permutation(30)[:12], generator.integers(30, size=12)
    np.testing.assert_array_equal(
        pair.values(rows, columns), MarginPair(pair.first[rows], pair.second[columns], Options()).values()
    )


def test_more_members_than_a_byte_counts():
    unlearned, oracle = np.random.default_rng(13).normal(size=(2, 700, 3))
    options = {"direction": "unlearned_oracle", "drop_maximum": False, "renormalise": False}
    np.testing.assert_allclose(klom(unlearned, oracle), reference(unlearned, oracle, **options), atol=1e-12)


def test_every_edge_of_every_point_is_numpys():
    generator = np.random.default_rng(5)
    ends = np.sort(generator.normal(size=(400, 2)) * 10, axis=1)
    samples = np.stack([np.linspace(low, high, 21) for low, high in ends], axis=1)  # each value is an edge
    unlearned, oracle = samples, np.concatenate([samples[:1], samples[:-2], samples[-1:]])
    options = {"direction": "unlearned_oracle", "drop_maximum": False, "renormalise": False}
    np.testing.assert_allclose(klom(unlearned, oracle), reference(unlearned, oracle, **options), rtol=1e-12)


def test_the_result_does_not_depend_on_how_points_fall_into_blocks(monkeypatch):
    unlearned, oracle = np.random.default_rng(0).normal(size=(2, 30, 50))
    whole = klom(unlearned, oracle)
    monkeypatch.setattr("dmm_exp.metrics._klom_counts._SAMPLES_PER_BLOCK", 200)
    np.testing.assert_array_equal(klom(unlearned, oracle), whole)


def test_klom_of_an_ensemble_with_itself_is_zero():
    margins = np.random.default_rng(0).normal(size=(40, 60))
    np.testing.assert_array_equal(klom(margins, margins), 0.0)


def test_constant_margins_give_zero_and_never_nan():
    constant = np.full((10, 3), 4.2)
    for drop in (False, True):
        np.testing.assert_array_equal(klom(constant, constant, drop_maximum=drop), 0.0)


def test_margins_beyond_the_clip_are_alike():
    np.testing.assert_array_equal(klom(np.full((10, 2), 150.0), np.full((10, 2), 900.0)), 0.0)


def test_integer_margins_are_accepted():
    assert klom([[0], [1]], [[0], [1]])[0] == 0.0


# Gaussian margins, 20 bins, closed last bin
@pytest.mark.parametrize(
    ("members", "floor"),
    [(10, 8.1), (20, 4.97), (50, 1.72), (80, 0.90), (100, 0.68), (200, 0.285), (500, 0.095)],
)
def test_the_floor_at_the_95th_percentile_is_the_known_one(members, floor):
    unlearned, oracle = np.random.default_rng(1).normal(size=(2, members, 6000))
    assert np.quantile(klom(unlearned, oracle), 0.95) == pytest.approx(floor, rel=0.06)


# the figures that circulate come from public code whose twenty edges make nineteen bins, the maximum dropped
@pytest.mark.parametrize(
    ("members", "floor"),
    [(10, 7.8), (20, 4.8), (50, 1.6), (80, 0.87), (100, 0.62), (200, 0.27), (500, 0.09)],
)
def test_nineteen_bins_without_the_maximum_give_the_published_floor(members, floor):
    unlearned, oracle = np.random.default_rng(2).normal(size=(2, members, 6000))
    values = klom(unlearned, oracle, bins=19, drop_maximum=True)
    assert np.quantile(values, 0.95) == pytest.approx(floor, rel=0.06)


@pytest.mark.parametrize(("shift", "value"), [(0.5, 1.05), (1.0, 2.0), (2.0, 5.1), (4.0, 9.3)])
def test_a_mean_shift_of_the_margins_gives_the_known_95th_percentile(shift, value):
    unlearned, oracle = np.random.default_rng(4).normal(size=(2, 100, 5000))
    assert np.quantile(klom(unlearned + shift, oracle), 0.95) == pytest.approx(value, rel=0.06)


def test_sides_that_never_meet_reach_the_ceiling():
    assert klom(np.full((50, 1), 3.0), np.full((50, 1), -3.0))[0] == pytest.approx(-math.log(1e-5))


def test_renormalising_changes_little():
    unlearned, oracle = np.random.default_rng(6).normal(size=(2, 50, 300))
    assert np.abs(klom(unlearned, oracle, renormalise=True) - klom(unlearned, oracle)).max() <= 2e-4


@pytest.mark.parametrize(
    ("unlearned", "oracle", "options", "words"),
    [
        (np.zeros((3, 2)), np.zeros((4, 2)), {}, "same number of members"),
        (np.zeros((3, 2)), np.zeros((3, 5)), {}, "same shape"),
        (np.zeros(3), np.zeros(3), {}, r"\[members, points\]"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), {}, "unlearned holds 6"),
        (np.zeros((3, 2)), np.full((3, 2), np.inf), {}, "oracle holds 6"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"direction": "oracle_unlerned"}, "did you mean 'oracle_unlearned'"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"bins": 0}, "bins is 0"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"clip": -1.0}, "clip is -1.0"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"eps": 0.0}, "eps is 0.0"),
    ],
)
def test_bad_input_is_named_in_one_sentence(unlearned, oracle, options, words):
    with pytest.raises(UserError, match=words):
        klom(unlearned, oracle, **options)


def draw(generator, members, mean, deviation, loading):
    """Gaussian margins [members, points] that share a member effect."""
    shared = generator.normal(size=(members, len(loading))) @ loading
    return mean + deviation * (np.sqrt(0.2) * shared + np.sqrt(0.8) * generator.normal(size=shared.shape))


@pytest.mark.parametrize("shifted_share", [0.0, 0.3])
def test_the_interval_covers_the_expectation_over_fresh_ensembles(shifted_share):
    generator = np.random.default_rng(8)
    points, members = 50, 100
    mean, deviation = generator.normal(3, 3, points), generator.uniform(0.5, 2, points)
    loading = generator.normal(size=(3, points))
    loading /= np.sqrt((loading**2).sum(axis=0))
    shift = deviation * np.where(np.arange(points) < shifted_share * points, 1.0, 0.0)

    def sides():
        return [draw(generator, members, mean + extra, deviation, loading) for extra in (shift, 0.0)]

    values = np.array([klom(*sides()) for _ in range(300)])
    target = {"mean": values.mean(), 0.95: np.quantile(values, 0.95, axis=1).mean()}
    intervals = [klom_intervals(*sides(), quantiles=("mean", 0.95)) for _ in range(16)]
    for name, expected in target.items():
        covered = np.mean([interval[name][0] <= expected <= interval[name][1] for interval in intervals])
        assert covered >= 0.8, name


def test_the_interval_is_deterministic_and_leaves_global_random_state_alone():
    unlearned, oracle = np.random.default_rng(9).normal(size=(2, 20, 15))
    np.random.seed(0)
    before = np.random.get_state()[1]
    first = klom_interval(unlearned, oracle, quantile="mean")
    assert np.array_equal(before, np.random.get_state()[1])
    assert first == klom_interval(unlearned, oracle, quantile="mean")
    assert first[0] < klom(unlearned, oracle).mean() < first[1]


def test_the_interval_uses_the_options_of_klom():
    unlearned, oracle = np.random.default_rng(9).normal(size=(2, 20, 15)) * np.array([1.0, 3.0])[:, None, None]
    low, high = klom_interval(unlearned, oracle, quantile=0.5, direction="oracle_unlearned", bins=10)
    value = np.median(klom(unlearned, oracle, direction="oracle_unlearned", bins=10))
    assert low < value < high


def test_the_interval_near_the_ceiling_is_not_a_point():
    unlearned, oracle = np.random.default_rng(10).normal(size=(2, 40, 60))
    low, high = klom_interval(unlearned + 4, oracle)
    assert 0.02 < high - low < 1.0


def test_gaussian_margins_that_are_all_at_the_ceiling_say_nothing_of_the_standard_error():
    unlearned, oracle = np.random.default_rng(0).normal(size=(2, 40, 60))
    unlearned[:, :6] = 0.01 * unlearned[:, :6] - 3  # in one bin, where no oracle is
    pair = MarginPair(unlearned, oracle, Options())
    assert statistics(pair.values(), [0.95]) == pytest.approx(-math.log(1e-5))
    assert _fall_from_half(pair, [0.95]) == pytest.approx(math.sqrt(0.5))


def test_the_interval_of_constant_margins_is_a_point():
    assert klom_interval(np.ones((8, 3)), np.ones((8, 3))) == (0.0, 0.0)


def test_an_interval_needs_eight_members_and_a_quantile_in_range():
    with pytest.raises(UserError, match="at least 8 member"):
        klom_interval(np.zeros((7, 3)), np.zeros((7, 3)))
    with pytest.raises(UserError, match="quantile is 95"):
        klom_interval(np.zeros((8, 3)), np.zeros((8, 3)), quantile=95)


SHAPES = {
    "normal": lambda generator, shape: generator.normal(size=shape),
    "skewed": lambda generator, shape: generator.exponential(size=shape),
    "bimodal": lambda generator, shape: generator.normal(size=shape) + 4 * (generator.random(shape) < 0.3),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_split_halves_of_the_oracles_tell_the_floor_of_a_second_ensemble(shape):
    generator = np.random.default_rng(15)
    sides = [SHAPES[shape](generator, (100, 1500)) for _ in range(2)]
    values, halves = klom(*sides), klom(*(side[:50] for side in sides))
    for name, floor in split_half_floor(sides[1], quantiles=(0.95, "mean")).items():
        full, half = (side.mean() if name == "mean" else np.quantile(side, name) for side in (values, halves))
        assert floor.at_half == pytest.approx(half, rel=0.06)
        assert floor.at_full == pytest.approx(full, rel=0.1)


def test_split_halves_use_the_options_and_the_same_draws_every_time():
    oracle = np.random.default_rng(16).normal(size=(40, 200))
    default = split_half_floor(oracle)[0.95]
    assert default == split_half_floor(oracle)[0.95]
    assert split_half_floor(oracle, bins=5)[0.95].at_full < 0.5 * default.at_full < 0.5 * default.at_half
    assert split_half_floor(np.ones((8, 3)))[0.95] == (0.0, 0.0)


def test_a_split_needs_eight_oracles():
    with pytest.raises(UserError, match="at least 8 member"):
        split_half_floor(np.zeros((7, 3)))


@pytest.mark.parametrize(
    "options", [{}, {"direction": "oracle_unlearned"}, {"drop_maximum": True}, {"renormalise": True}]
)
def test_both_directions_at_once_are_those_one_by_one(options):
    unlearned, oracle = (np.random.default_rng(seed).normal(size=(60, 40)) for seed in (0, 1))
    directions = ["unlearned_oracle", "oracle_unlearned"]
    if options.get("direction") == directions[1]:
        directions.reverse()
    expected = [klom(unlearned, oracle, **{**options, "direction": direction}) for direction in directions]
    np.testing.assert_array_equal(klom_both(unlearned, oracle, **options), expected)


def test_models_that_vary_too_little_are_forgiven_in_one_direction_only():
    draw = np.random.default_rng(0)
    oracle, narrow = draw.normal(size=(100, 300)), 0.3 * draw.normal(size=(100, 300))
    forward, reverse = klom_both(narrow, oracle)
    assert np.median(reverse) > 2 * np.median(forward)
