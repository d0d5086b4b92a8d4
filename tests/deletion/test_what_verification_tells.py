"""What a comparison with retrained networks can tell, and that it is about the networks that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import blobs, mlp, trained
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy import stats

from dmm_exp import Unlearned, prepare, unlearn
from dmm_exp.deletion import quality
from dmm_exp.metrics import margins
from dmm_exp.records.comparison import compared, distances, verdict_on_method, verdict_on_network

WIDTH, CLASSES, ROWS, NETWORKS = 4, 3, 60, 5
DATA, UNSEEN, GONE = blobs(ROWS, WIDTH, CLASSES), blobs(30, WIDTH, CLASSES, seed=9), [3, 10, 20, 41]
RECIPE = {"epochs": 6, "batch_size": 16}


def drawn(count: int, shift: float = 0.0, points: int = 12, spread: float = 1.0, seed: int = 0) -> NDArray[np.float64]:
    """Return margins of networks that share a common part, as networks do."""
    generator = np.random.default_rng(seed)
    common = 0.5 * generator.normal(size=(count, 1))
    return 3.0 + shift + spread * (common + generator.normal(size=(count, points)))


def sides(count: int, **others: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return retrained, left alone (far away), and unlearned networks like retrained ones."""
    alone = drawn(count, 4.0, seed=2)
    there = {"others": drawn(count, seed=21), "alone": alone, "method": drawn(count, seed=23), "given": alone[:1]}
    return {**there, "unlearned": drawn(1, seed=4), **others}


def test_a_distance_is_the_root_mean_square_in_standard_deviations():
    retrained, networks = drawn(20), drawn(3, 1.0, seed=5)
    expected = []
    for network in networks:
        away = [
            (m - np.mean(row)) / np.std(row, ddof=1) for m, row in zip(network, retrained.T, strict=True)
        ]  # the plain way
        expected.append(np.sqrt(np.mean(np.square(away))))
    np.testing.assert_allclose(distances(networks, retrained), expected)


def test_a_point_on_which_retrained_networks_all_agree_does_not_decide_alone():
    retrained = drawn(20)
    retrained[:, 0] = 3.0
    found = distances(retrained[0] + np.eye(12)[:1], retrained)
    assert np.isfinite(found).all()
    assert found[0] < 10
    assert np.isfinite(distances(np.ones((2, 3)), np.ones((4, 3)))).all()


def test_intervals_of_means_are_those_of_scipy():
    there, retrained = sides(20), drawn(20)
    found = compared(there, retrained)
    apart = {name: distances(values, retrained) for name, values in there.items()}
    welch = stats.ttest_ind(apart["method"], apart["others"], equal_var=False).confidence_interval()
    paired = stats.ttest_rel(apart["method"], apart["alone"]).confidence_interval()
    ends = [found[f"method_from_{name}_{end}"] for name in ("others", "alone") for end in ("low", "high")]
    np.testing.assert_allclose(ends, [welch.low, welch.high, paired.low, paired.high])


def test_one_more_network_lies_in_its_range_about_as_often_as_stated():
    inside = 0
    for seed in range(200):
        found = compared(sides(20, others=drawn(20, seed=1000 + seed), unlearned=drawn(1, seed=2000 + seed)), drawn(20))
        inside += found["others_low"] <= found["unlearned"] <= found["others_high"]
    assert 180 <= inside <= 198  # 95 %, four standard errors below and above


def test_a_group_like_retrained_networks_is_told_from_them_as_rarely_as_stated():
    told = 0
    for seed in range(200):
        there = sides(20, others=drawn(20, seed=3 * seed), method=drawn(20, seed=3 * seed + 1))
        told += verdict_on_method(compared(there, drawn(20, seed=3 * seed + 2))).from_retraining
    assert 2 <= told <= 22  # 5 %, four standard errors below and above


def test_networks_like_retrained_ones_are_told_from_doing_nothing_alone():
    found = compared(sides(20), drawn(20))
    for verdict in (verdict_on_network(found), verdict_on_method(found)):
        assert (verdict.from_doing_nothing, verdict.from_retraining, verdict.worse) == (True, False, False)
    assert verdict_on_network(found).apart


def test_networks_left_alone_are_told_from_retraining_alone():
    alone = drawn(20, 4.0, seed=2)
    found = compared(sides(20, method=alone, unlearned=alone[:1]), drawn(20))
    for verdict in (verdict_on_network(found), verdict_on_method(found)):
        assert (verdict.from_doing_nothing, verdict.from_retraining) == (False, True)


def test_networks_beyond_those_left_alone_are_called_worse():
    found = compared(sides(20, method=drawn(20, 9.0, seed=3), unlearned=drawn(1, 12.0, seed=4)), drawn(20))
    assert verdict_on_network(found).worse
    assert verdict_on_method(found).worse


def test_networks_that_vary_too_little_are_told_from_retraining_as_a_group():
    found = compared(sides(50, method=drawn(50, spread=0.3, seed=3)), drawn(50))
    assert verdict_on_method(found).from_retraining
    assert found["method_from_others"] < 0


def test_few_networks_tell_less():
    told = {}
    for count in (3, 20):
        found = [
            compared(
                sides(count, unlearned=drawn(1, 2.0, seed=seed), others=drawn(count, seed=100 + seed)), drawn(count)
            )
            for seed in range(100)
        ]
        told[count] = sum(verdict_on_network(numbers).from_retraining for numbers in found)
    assert told[3] < 40 < 70 < told[20]


# ---------------------------------------------------------------------- whose answers they are


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Unlearned, Path]:
    torch.manual_seed(0)
    network = trained(mlp(WIDTH, CLASSES), *DATA)
    folder = tmp_path_factory.mktemp("pool")
    pool = prepare(network, DATA, RECIPE, folder, size=40, validation=UNSEEN, progress=False)
    found = unlearn(network, DATA, GONE, pool=pool, verify=NETWORKS, method="dmm epochs=2", progress=False)
    return found, folder


def logits(folder: Path, kind: str, **config: Any) -> torch.Tensor:
    """Return the logits of the one artifact of a kind that has this configuration."""
    found = []
    for path in (folder / "artifacts" / kind).glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        if config.items() <= manifest["config"].items():
            shards = sorted(path.parent.glob("shard-*.safetensors"))
            found.append(torch.cat([load_file(shard)["logits"] for shard in shards]))
    (one,) = found
    return one


def by_hand(result: Unlearned, folder: Path) -> dict[str, float]:
    """Return distances on the deleted rows, from stored networks and the networks themselves."""
    labels = torch.cat([DATA[1], UNSEEN[1]]).numpy()
    ensembles = {"retrained": "oracle", "others": "floor_oracle", "alone": "original"}
    answers = {name: logits(folder, "ensemble", role=role, members=NETWORKS) for name, role in ensembles.items()}
    answers["method"] = logits(folder, "unlearned")
    with torch.no_grad():
        answers["unlearned"] = result.model(torch.cat([DATA[0], UNSEEN[0]]))[None]
    sure = {name: margins(values, labels)[:, GONE] for name, values in answers.items()}
    retrained = sure.pop("retrained")
    return {name: float(distances(values, retrained).mean()) for name, values in sure.items()}


def test_every_distance_is_of_the_networks_that_it_names(verified):
    result, folder = verified
    expected = by_hand(result, folder)
    assert len({round(value, 6) for value in expected.values()}) == len(expected)
    for name, value in expected.items():
        assert result.verification[f"distance/{name}/forget"] == pytest.approx(value, rel=1e-4), name


def test_the_given_network_in_place_of_the_unlearned_one_would_be_seen(verified):
    result, folder = verified
    assert result.verification["distance/unlearned/forget"] != pytest.approx(
        result.verification["distance/given/forget"], rel=1e-3
    )
    # scored oracles in place of others would lie nearer to their own mean than independent ones do
    answers = margins(logits(folder, "ensemble", role="oracle", members=NETWORKS), result.points["label"].to_numpy())
    own = float(distances(answers[:, GONE], answers[:, GONE]).mean())
    assert result.verification["distance/others/forget"] != pytest.approx(own, rel=1e-3)


def test_verification_asks_for_the_unlearned_network_and_other_oracles(verified, monkeypatch, tmp_path):
    """With the wrong networks in their places, the distances above are others."""
    result, folder = verified
    seen: dict[str, Any] = {}

    def watched(answers: dict[str, Any], retrained: Any) -> dict[str, float]:
        seen.setdefault("answers", answers)
        return compared(answers, retrained)

    monkeypatch.setattr(quality, "compared", watched)
    again = unlearn(
        trained_again(), DATA, GONE, pool=folder, verify=NETWORKS, method="dmm epochs=2", progress=False
    ).verification
    assert {key: value for key, value in again.items() if key.startswith("distance")} == {
        key: value for key, value in result.verification.items() if key.startswith("distance")
    }
    shapes = {name: len(values) for name, values in seen["answers"].items()}
    assert shapes == {"given": 1, "unlearned": 1, "method": NETWORKS, "others": NETWORKS, "alone": NETWORKS}


def trained_again() -> torch.nn.Module:
    torch.manual_seed(0)
    return trained(mlp(WIDTH, CLASSES), *DATA)
