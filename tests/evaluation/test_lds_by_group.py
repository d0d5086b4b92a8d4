"""Linear datamodeling scores by group of points."""

from __future__ import annotations

import numpy as np
import pytest

from dmm_exp.evaluation.lds import lds_metrics

GROUPS = {"forget": np.arange(0, 10), "retain": np.arange(10, 60), "val": np.arange(60, 100)}


def scores():
    """Scores [points] that are .9, .6 and .3 on average, by group; every other one was not computed."""
    found = np.repeat([0.9, 0.6, 0.3], [10, 50, 40]) + np.random.default_rng(0).normal(size=100) * 0.1
    found[1::2] = np.nan
    return found.astype(np.float32)


def test_every_group_has_its_own_mean_within_its_interval():
    found = lds_metrics("lds", scores(), GROUPS)
    for group, expected in zip(GROUPS, (0.9, 0.6, 0.3), strict=True):
        assert found[f"lds/{group}"] == pytest.approx(expected, abs=0.08)
        assert found[f"lds/{group}_low"] < found[f"lds/{group}"] < found[f"lds/{group}_high"]
    assert found["lds"] == pytest.approx(
        (5 * found["lds/forget"] + 25 * found["lds/retain"] + 20 * found["lds/val"]) / 50
    )


def test_a_group_without_scores_is_absent():
    values = scores()
    values[GROUPS["val"]] = np.nan
    assert lds_metrics("lds/alpha_0.7", values, GROUPS).keys() == {
        "lds/alpha_0.7",
        *(f"lds/alpha_0.7/{group}{end}" for group in ("forget", "retain") for end in ("", "_low", "_high")),
    }
