"""Recipes by name, by differences and by function; budgets."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from networks import blobs, mlp
from torch import nn

from dmm_exp.config.schema import plain
from dmm_exp.deletion.budget import seconds_of, share_of
from dmm_exp.deletion.given import given
from dmm_exp.deletion.recipes import composed, method_of, training_of
from dmm_exp.errors import UserError

KNOWN = given(mlp(4, 3), blobs(24, 4, 3))


def named(recipe: Any) -> str:
    return training_of(recipe, KNOWN)["function"]


def refused(call: Any, *arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def training_with(rate: float) -> Any:
    return lambda model, dataset, seed: model.fit(dataset, rate)


class Training:
    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, model: nn.Module, dataset: Any, seed: int) -> nn.Module:
        return model


def by_rate(rate: float, model: nn.Module, dataset: Any, seed: int) -> nn.Module:
    return model


def test_a_name_and_no_differences_are_the_same_recipe():
    assert training_of("sgd_one_cycle", KNOWN) == training_of({}, KNOWN) == plain(composed([]).training)


def test_differences_change_what_they_name():
    default = training_of({}, KNOWN)
    found = training_of({"epochs": 3, "optimizer": {"lr": 0.01}, "label_smoothing": 0.1}, KNOWN)
    assert (found["epochs"], found["label_smoothing"]) == (3, 0.1)
    assert found["optimizer"] == {**default["optimizer"], "lr": 0.01}
    adam = training_of({"optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01}}, KNOWN)["optimizer"]
    assert adam == {"_target_": "torch.optim.Adam", "lr": 0.01, "_partial_": True}


def test_what_is_composed_may_be_changed_without_changing_it():
    composed(["training=sgd_one_cycle"]).training.optimizer["lr"] = 7
    assert composed(["training=sgd_one_cycle"]).training.optimizer["lr"] == 0.2


def test_functions_are_told_apart_by_their_code_and_what_they_were_made_with():
    same = [lambda: training_with(0.1), lambda: Training(0.1), lambda: partial(by_rate, 0.1)]
    names = [named(make()) for make in same]
    assert names == [named(make()) for make in same]
    others = [training_with(0.2), Training(0.2), partial(by_rate, 0.2), lambda model, dataset, seed: model]
    assert len({*names, *(named(other) for other in others)}) == 7


def test_functions_that_were_typed_in_are_told_apart():
    found = []
    for rate in ("0.1", "0.1", "0.2"):
        space: dict[str, Any] = {}
        exec(f"def recipe(model, dataset, seed):\n    return model * {rate}", space)
        found.append(named(space["recipe"]))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("sgd_one_cicle", "did you mean 'sgd_one_cycle'"),
        ("", "recipe=: expected one of"),
        ("../training/sgd_one_cycle", "expected one of"),
        (3, "recipe is a int"),
        (["sgd_one_cycle"], "recipe is a list"),
        (nn.Linear(2, 2), "recipe is a Linear"),
        (nn.Linear, "recipe is a type"),
        ({"epoch": 3}, "there is no key 'epoch'; expected epochs"),
        ({3: 3}, "there is no key '3'"),
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 2.5}, "2.5"),
        ({"epochs": "many"}, "many"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"optimizer": "adam"}, "recipe: cannot be made"),
        ({"optimizer": {"lr": -1}}, "Invalid learning rate"),
        ({"optimizer": {"rate": 1}}, "takes no 'rate'"),
        ({"optimizer": {"_target_": "torch.optim.Nadam"}}, "cannot be imported"),
        ({"label_smoothing": "much"}, "much"),
        ({"augmentation": {"turn": 3}}, "turn"),
        ({"augmentation": {"cutout": -1}}, "cutout=-1"),
    ],
)
def test_a_recipe_that_is_none_is_refused(recipe, said):
    assert said in refused(training_of, recipe, KNOWN)


def test_a_method_comes_by_name_with_settings_or_whole():
    assert method_of("finetune epochs=2")["epochs"] == 2
    assert method_of(method_of("finetune epochs=2")) == method_of("finetune epochs=2")
    assert method_of("fair/rum_high_mem/salun")["_target_"].endswith("SalUn")


# ---------------------------------------------------------------------- budgets


@pytest.mark.parametrize(
    ("budget", "seconds"),
    [(30, 30), (0.5, 0.5), ("30", 30), ("30s", 30), (" 2 min ", 120), ("1.5h", 5400), ("90sec", 90), ("3m", 180)],
)
def test_seconds(budget, seconds):
    assert seconds_of(budget) == seconds
    assert share_of(budget) is None


def test_shares():
    assert share_of("10%") == 0.1
    assert share_of(" 2.5 % ") == 0.025
    assert "is a share of a retraining" in refused(seconds_of, "10%")
    assert (seconds_of(None), share_of(None)) == (None, None)


@pytest.mark.parametrize(
    "budget",
    [0, -1, float("nan"), float("inf"), 10**400, True, "", "s", "10 years", "1e3", "-5", "5%%", "%", "0%", "nan%", "٣s",
     "9" * 400, [5], {}, object(), b"5", torch.zeros(2), 1j],
)  # fmt: skip
def test_nonsense_is_refused(budget):
    for reader in (seconds_of, share_of):
        assert refused(reader, budget).startswith("budget=")
