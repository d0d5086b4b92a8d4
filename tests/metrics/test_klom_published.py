"""KLoM as publications computed it: the presets in conf/evaluation/klom against plain loops with numpy.digitize."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import entropy

from dmm_exp.config.folders import config_directory
from dmm_exp.errors import UserError
from dmm_exp.metrics import klom, klom_both, klom_interval, split_half_floor

FOLDER = Path(config_directory()) / "evaluation" / "klom"
PRESETS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.yaml")}
MEMBERS = 40


def shares(samples, edges, numbers):
    """Return the share of samples in every bin of some numbers, as numpy.digitize numbers them."""
    place = np.digitize(samples, edges)
    counts = np.array([(place == number).sum() for number in numbers])
    return counts / counts.sum()


def of_paper(unlearned, oracle):
    """One point as in the code of the DMM paper: twenty edges, floored in every bin, scipy scales to one."""
    unlearned = np.clip(unlearned, -100, 100)
    edges = np.linspace(min(unlearned.min(), oracle.min()), max(unlearned.max(), oracle.max()), 20)
    p, q = (shares(side, edges, range(20)) for side in (unlearned, oracle))
    return entropy(p, np.maximum(q, 1e-5))


def shares_in_twenty(first, second):
    """Return both histograms of EasyDUB: twenty intervals over the joint range, without the joint maximum."""
    first, second = np.clip(first, -100, 100), np.clip(second, -100, 100)
    low, high = min(first.min(), second.min()), max(first.max(), second.max())
    edges = np.linspace(low, high if high > low else low + 1, 21)
    p, q = (shares(side, edges, range(1, 21)) for side in (first, second))
    return p, np.where(p > 0, np.maximum(q, 1e-5), q)


def of_easydub_v1(unlearned, oracle):
    """One point as in EasyDUB's first repository: the oracles first, and scipy scales to one."""
    return entropy(*shares_in_twenty(oracle, unlearned))


def of_easydub_v2(unlearned, oracle):
    """One point as in EasyDUB's second repository: the unlearned models first, and nothing is scaled."""
    p, q = shares_in_twenty(unlearned, oracle)
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


PUBLISHED = {"paper": of_paper, "easydub_v1": of_easydub_v1, "easydub_v2": of_easydub_v2}


def many_points():
    """Two sides [members, points]: plain, shifted, narrow, tied, many at the maximum, far, on edges."""
    draw = np.random.default_rng(7)
    plain = draw.normal(size=(2, MEMBERS, 300))
    shifted = draw.normal(size=(2, MEMBERS, 300)) + np.array([0.0, 2.0])[:, None, None]
    narrow = draw.normal(size=(2, MEMBERS, 200)) * np.array([0.1, 3.0])[:, None, None]
    tied = draw.integers(-3, 4, size=(2, MEMBERS, 200)).astype(float)
    at_maximum = np.minimum(draw.normal(size=(2, MEMBERS, 200)), 0.3)
    far = draw.normal(size=(2, MEMBERS, 50)) * np.array([200.0, 20.0])[:, None, None]
    on_edges = draw.integers(0, 21, size=(2, MEMBERS, 100)) * 0.1
    return np.concatenate([plain, shifted, narrow, tied, at_maximum, far, on_edges], axis=2)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_is_the_published_procedure_on_every_point(name):
    unlearned, oracle = many_points()
    expected = [PUBLISHED[name](*point) for point in zip(unlearned.T, oracle.T, strict=True)]
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(klom(unlearned, oracle, **PRESETS[name]), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PUBLISHED)
def test_points_that_a_preset_tells_from_the_default_are_most_points(name):
    unlearned, oracle = many_points()
    assert (klom(unlearned, oracle, **PRESETS[name]) != klom(unlearned, oracle)).mean() > 0.5


def test_there_is_a_test_for_every_published_preset():
    assert PRESETS.keys() == {"default", *PUBLISHED}
    assert len({tuple(options) for options in PRESETS.values()}) == 1


def test_the_default_preset_is_what_klom_does_without_options():
    unlearned, oracle = many_points()
    np.testing.assert_array_equal(klom(unlearned, oracle, **PRESETS["default"]), klom(unlearned, oracle))


@pytest.mark.parametrize("name", PUBLISHED)
def test_constant_points_and_points_at_the_maximum_are_numbers(name):
    draw = np.random.default_rng(1).normal(size=(MEMBERS, 3))
    constant, above = np.full((MEMBERS, 3), 1.5), np.full((MEMBERS, 3), 9.0)
    np.testing.assert_allclose(klom(constant, constant, **PRESETS[name]), 0.0, atol=2.1e-4 if name == "paper" else 0)
    for sides in ((above, draw), (draw, above)):
        assert (klom(*sides, **PRESETS[name]) > 9).all()  # told apart, where the published code divides by nothing


def test_easydub_calls_a_constant_point_alike_as_the_preset_does():
    constant = np.full(MEMBERS, 1.5)
    assert of_easydub_v1(constant, constant) == of_easydub_v2(constant, constant) == 0.0


def test_flooring_everywhere_lowers_nothing_and_adds_at_most_what_it_says():
    unlearned, oracle = many_points()
    options = {name: value for name, value in PRESETS["paper"].items() if name != "floor_everywhere"}
    more = klom(unlearned, oracle, **options, floor_everywhere=True) - klom(unlearned, oracle, **options)
    assert (more > 0).all()
    assert more.max() < 1e-5 * (PRESETS["paper"]["bins"] + 1)


def test_other_numbers_take_the_options_of_a_preset_too():
    unlearned, oracle = many_points()
    options, reverse = PRESETS["paper"], {**PRESETS["paper"], "direction": "oracle_unlearned"}
    both = klom_both(unlearned, oracle, **options)
    np.testing.assert_array_equal(both[0], klom(unlearned, oracle, **options))
    np.testing.assert_array_equal(both[1], klom(unlearned, oracle, **reverse))
    low, high = klom_interval(unlearned[:, :300], oracle[:, :300], **options)
    assert low < np.quantile(both[0][:300], 0.95) < high
    assert split_half_floor(oracle[:, :300], **options)[0.95].at_full > 0


def test_flooring_everywhere_without_scaling_is_refused():
    with pytest.raises(UserError, match="floor_everywhere is true and renormalise is false"):
        klom([[0.0], [1.0]], [[0.0], [1.0]], floor_everywhere=True)
