"""Retraining is called exact only where every number was made from the kept rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from networks import blobs, mlp, trained
from torch import Tensor, nn

from dmm_exp import unlearn
from dmm_exp.deletion.exactness import carried_over
from dmm_exp.deletion.given import given
from dmm_exp.errors import UserError
from dmm_exp.records.record import content

DATA, UNSEEN, GONE = blobs(60, 4, 3), blobs(30, 4, 3, seed=9), [3, 10, 20, 41]


class Centred(nn.Module):
    """Subtracts the mean of the training rows, which a buffer, an attribute or an array holds."""

    def __init__(self, kind: str = "buffer", mean: Tensor | None = None) -> None:
        super().__init__()
        mean = DATA[0].mean(0) if mean is None else mean
        if kind in ("buffer", "hidden buffer"):
            self.register_buffer("mean", mean, persistent=kind == "buffer")
        else:
            self.mean = mean if kind == "attribute" else mean.numpy().copy()
        self.layer = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs - torch.as_tensor(self.mean))


def frozen() -> nn.Module:
    network = mlp(4, 3)
    network[1].requires_grad_(False)  # pyright: ignore[reportIndexIssue]
    return network


def frozen_batch_norm() -> nn.Module:
    """Its statistics start from those of the given network and move on, so that no bit stays the same."""
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    network[1].requires_grad_(False)
    return network


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


class Spare(nn.Module):
    """Has layers that are never used: their numbers stay as they were initialised."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.spare, self.norm = nn.Linear(4, 3), nn.Linear(4, 2), nn.LayerNorm(4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)


CARRIED: list[tuple[Callable[[], nn.Module], list[str]]] = [
    (frozen, ["1.bias", "1.weight"]),
    (Centred, ["mean"]),
    (lambda: Centred("hidden buffer"), ["mean"]),
    (lambda: Centred("attribute"), ["mean"]),
    (lambda: Centred("array"), ["mean"]),
    (frozen_batch_norm, ["1.bias", "1.num_batches_tracked", "1.running_mean", "1.running_var", "1.weight"]),
    (lambda: mlp(4, 3), []),
    (batch_norm, []),
    (Spare, []),
]


def network(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return trained(make(), *DATA)


def retrained(model: nn.Module, **more):
    options = {"method": "retrain", "recipe": {"epochs": 1, "batch_size": 16}, "progress": False, "validation": UNSEEN}
    return unlearn(model, DATA, GONE, **{**options, **more})


@pytest.mark.parametrize(("make", "names"), CARRIED)
def test_what_an_untrained_network_takes_over_is_found(make, names):
    assert carried_over(given(network(make), DATA)) == names


@pytest.mark.parametrize(("make", "names"), [case for case in CARRIED if case[1]])
def test_retraining_that_would_take_over_numbers_is_refused_or_names_them(make, names):
    model = network(make)
    with pytest.raises(UserError, match=rf"method=retrain: .*'{names[0]}'.* expected factory=.*keep="):
        retrained(model)
    found = retrained(model, keep=names)
    assert found.kept == names
    assert not content(found, "0")["method"]["exact"]
    assert any("not verified" in warning for warning in found.warnings)


@pytest.mark.parametrize("make", [case[0] for case in CARRIED if not case[1]])
def test_retraining_is_exact_where_nothing_is_taken_over(make):
    found = retrained(network(make))
    record = content(found, "0")
    assert record["method"]["exact"]
    assert record["method"]["kept"] == []
    assert not any("verified" in warning for warning in found.warnings)


def test_a_layer_is_kept_by_its_name():
    assert retrained(network(frozen), keep=["1"]).kept == ["1.bias", "1.weight"]
    with pytest.raises(
        UserError, match=r"keep=2: is not taken over by a retrained network; expected some of '1\.bias'"
    ):
        retrained(network(frozen), keep=["1", "2"])
    with pytest.raises(UserError, match="a retrained network takes over nothing"):
        retrained(network(batch_norm), keep=["0"])


def test_a_part_of_what_is_taken_over_is_not_enough():
    with pytest.raises(UserError, match=r"take over '1\.bias' from"):
        retrained(network(frozen), keep=["1.weight"])


@pytest.mark.parametrize("keep", ["1", [3]])
def test_what_is_to_be_kept_is_a_list_of_names(keep):
    with pytest.raises(UserError, match="expected a list of names"):
        retrained(network(frozen), keep=keep)


def test_keeping_is_for_retraining():
    with pytest.raises(UserError, match="is for method=retrain"):
        retrained(network(frozen), method="finetune epochs=1", keep=["1"])


def test_a_factory_that_makes_the_same_numbers_takes_them_over():
    model = network(Centred)
    found = given(model, DATA, factory=lambda: Centred(mean=DATA[0].mean(0)))
    assert carried_over(found) == ["mean"]
    other = given(model, DATA, factory=lambda: Centred(mean=torch.zeros(4)))
    assert carried_over(other) == []


def test_a_factory_of_ordinary_layers_takes_over_nothing():
    assert carried_over(given(network(batch_norm), DATA, factory=batch_norm)) == []


def test_every_number_of_an_exact_network_differs_from_the_given_one():
    model = network(batch_norm)
    found = retrained(model).model.state_dict()
    for name, value in model.state_dict().items():
        assert not torch.equal(value, found[name]), name
    assert np.isfinite(found["0.weight"].numpy()).all()
