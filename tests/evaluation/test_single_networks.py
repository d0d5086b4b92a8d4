"""Columns and metrics of single networks, from the margins of ensembles."""

from __future__ import annotations

import numpy as np
import pytest

from dmm_exp.evaluation.single import columns, metrics
from dmm_exp.metrics import better

GROUPS = {"forget": np.arange(0, 200), "retain": np.arange(200, 800), "val": np.arange(800, 1000)}


def ensembles(members=100, shift=1.5):
    """Margins by ensemble: the originals are a shift away on forget points, the unlearned networks half of it."""
    draw = np.random.default_rng(2)
    found = {name: draw.normal(size=(members, 1000)) for name in ("unlearned", "floor", "original", "oracle")}
    found["original"][:, GROUPS["forget"]] += shift
    found["unlearned"][:, GROUPS["forget"]] += shift / 2
    return {name: values.astype(np.float32) for name, values in found.items()}


@pytest.fixture(scope="module")
def found():
    return metrics(columns(ensembles(), GROUPS), GROUPS)


def test_the_floor_is_outside_on_a_twentieth_of_points(found):
    for group in GROUPS:
        assert found[f"single/outside_floor/{group}"] == pytest.approx(0.05, abs=0.01)
        assert found[f"single/distance_floor/{group}"] == pytest.approx(0.8, abs=0.05)
        assert found[f"single/indistinguishable_floor/{group}"] == pytest.approx(0.95, abs=0.03)


def test_what_is_half_unlearned_lies_between_the_floor_and_doing_nothing(found):
    for measure in ("outside", "distance"):
        floor, own, nothing = (found[f"single/{measure}{end}/forget"] for end in ("_floor", "", "_original"))
        assert floor < own < nothing
    assert found["single/indistinguishable/forget"] == found["single/indistinguishable_original/forget"] == 0.0
    assert found["single/indistinguishable/retain"] > 0.85


def test_metrics_are_medians_and_percentiles_over_networks_of_the_columns():
    of_networks = columns(ensembles(), GROUPS)
    found = metrics(of_networks, GROUPS)
    for name, values in of_networks.items():
        assert values.shape == (100,)
        assert (found[name], found[f"{name}/p95"]) == (np.median(values), np.quantile(values, 0.95))


@pytest.mark.parametrize(("members", "measures"), [(19, set()), (38, {"distance"}), (39, {"distance", "outside"})])
def test_what_too_few_networks_cannot_say_is_absent(members, measures):
    of_networks = columns(ensembles(members), GROUPS)
    assert {name.split("/")[1].split("_")[0] for name in of_networks} == measures
    assert any("indistinguishable" in name for name in metrics(of_networks, GROUPS)) == bool(measures)


def test_points_on_which_all_oracles_agree_have_no_say_in_distances():
    margins = ensembles()
    margins["oracle"][:, :50] = 1.0
    margins["oracle"][:, GROUPS["val"]] = 1.0
    found = metrics(columns(margins, GROUPS), GROUPS)
    assert found["single/distance_floor/forget"] == pytest.approx(0.8, abs=0.05)
    assert "single/distance/val" not in found
    assert "single/indistinguishable/val" not in found
    assert found["single/outside/val"] == 1.0


def test_smaller_is_better_but_for_shares_that_pass():
    assert better("single/outside/forget") == "lower"
    assert better("single/distance/forget/p95") == "lower"
    assert better("single/indistinguishable/forget") == "higher"
