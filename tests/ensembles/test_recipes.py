"""The recipes of conf/training: learning rates at the steps that papers state, and label smoothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.ranges import check_ranges
from dmm_exp.config.schema import Config, plain, register
from dmm_exp.data import Examples, Normalisation
from dmm_exp.ensembles import AllBut, Ensemble, EnsembleTraining
from dmm_exp.ensembles.work import recipe
from dmm_exp.errors import UserError
from dmm_exp.models import MLP
from dmm_exp.pipeline.models import without_defaults

SGD = {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}
RECIPES = {  # epochs, batch, smoothing, options of SGD, and the learning rate when so many epochs have passed
    "datamodels_cifar": (24, 512, 0.0, SGD, {0: 0.0, 2.5: 0.2, 5: 0.4, 14.5: 0.2, 24: 0.0}),
    "easydub_cifar": (24, 256, 0.0, SGD, {0: 0.0, 1: 0.08, 5: 0.4, 14.5: 0.2, 24: 0.0}),
    "living17": (25, 1024, 0.1, SGD, {0: 0.0, 6: 0.3, 12: 0.6, 18.5: 0.3, 25: 0.0}),
    "rum_cifar10": (30, 256, 0.0, SGD, {0: 0.1, 10: 0.075, 15: 0.05, 20: 0.025, 30: 0.0}),
    "rum_cifar100": (150, 256, 0.0, SGD, {0: 0.1, 59.9: 0.1, 60: 0.02, 119.9: 0.02, 120: 0.004, 149.9: 0.004}),
    "rum_tiny_imagenet": (100, 256, 0.0, SGD, {0: 0.1, 50: 0.05, 100: 0.0}),
    "fast_cifar": (
        10,
        1024,
        0.2,
        {"momentum": 0.85, "weight_decay": 1.33e-3, "nesterov": True},
        {0: 0.3, 2.3: 1.5, 6.15: 0.8025, 10: 0.105},
    ),
}


def composed(*overrides: str) -> Config:
    register()
    (config,) = check_overrides(config_directory(), overrides)
    check_ranges(config)
    return config


def test_every_recipe_is_listed_here():
    files = {path.stem for path in Path(config_directory(), "training").glob("*.yaml")}
    assert files - {"sgd_one_cycle"} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_the_stated_values(name):
    epochs, batch_size, label_smoothing, options, rates = RECIPES[name]
    made = recipe(plain(composed(f"training={name}").training))
    assert (made["epochs"], made["batch_size"], made["label_smoothing"]) == (epochs, batch_size, label_smoothing)
    optimizer = made["optimizer"]([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.SGD)
    assert {key: optimizer.defaults[key] for key in options} == options
    found = {epoch: optimizer.defaults["lr"] * made["schedule"](epoch, epochs) for epoch in rates}
    assert found == pytest.approx(rates, abs=1e-9)


@pytest.mark.parametrize("name", ["datamodels_cifar", "living17", "fast_cifar"])
def test_the_peak_is_where_it_is_stated_and_nowhere_else(name):
    epochs, *_, rates = RECIPES[name]
    schedule = recipe(plain(composed(f"training={name}").training))["schedule"]
    moments = torch.linspace(0, epochs, 1001).tolist()
    highest = max(moments, key=lambda moment: schedule(moment, epochs))
    assert highest == pytest.approx(max(rates, key=rates.__getitem__), abs=epochs / 1000)


def test_a_recipe_without_smoothing_keeps_its_identity():
    sharp, smooth = (plain(composed(f"training.label_smoothing={value}").training) for value in (0, 0.1))
    assert set(without_defaults(sharp)) == {"epochs", "batch_size", "optimizer", "schedule"}
    assert without_defaults(smooth) == {**without_defaults(sharp), "label_smoothing": 0.1}


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5])
@pytest.mark.parametrize("key", ["training", "scores.held_out"])
def test_smoothing_beyond_a_fraction_is_refused(key, value):
    with pytest.raises(UserError, match=rf"{key}.label_smoothing={value}: expected a fraction in \[0, 1\)"):
        composed(f"{key}.label_smoothing={value}")


def module(label_smoothing: float) -> EnsembleTraining:
    generator = torch.Generator().manual_seed(0)
    examples = Examples(
        inputs=torch.randn(20, 6, generator=generator),
        labels=torch.randint(0, 4, (20,), generator=generator),
        n_train=20,
        class_names=list("abcd"),
        normalisation=Normalisation(1, [0.0], [1.0]),
        corrupted=torch.zeros(20, dtype=torch.bool),
    )
    ensemble = Ensemble.initialise(lambda: MLP((6,), 4, [5]), range(2))
    sgd = partial(torch.optim.SGD, lr=0.1)
    training = EnsembleTraining(
        subsets=AllBut(20, ()).indices(range(2)),
        label_smoothing=label_smoothing,
        epochs=1,
        batch_size=10,
        optimizer=sgd,
        schedule=None,
    )
    training.attach(ensemble, examples, seed=0, role="original", members=range(2))
    return training


def test_smoothing_spreads_a_share_of_every_target_over_all_classes():
    training, indices = module(0.1), torch.arange(20).expand(2, -1)
    logits = training.predict_batch(indices).log_softmax(-1)
    targets = 0.9 * functional.one_hot(training.labels, 4) + 0.1 / 4
    torch.testing.assert_close(training.losses(indices), -(targets * logits).sum(-1).mean(1))
    assert not torch.allclose(training.losses(indices), module(0.0).losses(indices), atol=1e-3)
    torch.testing.assert_close(module(0.0).losses(indices), training.cross_entropy(indices))
