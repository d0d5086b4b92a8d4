"""How far networks are from a pool's full models, trained by the pool's recipe and otherwise: what the limits rest on.

    python scripts/pool_distance.py

Prints a table for every task: networks trained by the recipe, against pools of 8, 20 and 100 full models, and networks
that were trained otherwise. The distance is that of :func:`dmm_exp.deletion.belonging.distance`, the larger one of
those on training rows and on unseen points.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_wine
from torch import Tensor, nn

from dmm_exp.deletion.belonging import FAR, distance
from dmm_exp.deletion.given import Given, given
from dmm_exp.deletion.recipes import composed, training_of
from dmm_exp.ensembles import AllBut, Ensemble, EnsembleTraining, Role, member_seed
from dmm_exp.ensembles.engine import Engine
from dmm_exp.ensembles.work import recipe as made_of
from dmm_exp.ensembles.work import trainer_factory
from dmm_exp.metrics import margins
from dmm_exp.records.pool import FARTHEST

POOLS, LARGEST = (8, 20, 100), 100
Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """A network, its data, and its recipe (differences from the default one)."""

    network: Callable[[], nn.Module]
    train: Data
    unseen: Data
    recipe: Mapping[str, Any]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", type=int, default=400, help="trained by the recipe, beside the pool's")
    parser.add_argument("--others", type=int, default=20, help="trained otherwise, of each kind")
    arguments = parser.parse_args()
    for name, task in tasks().items():
        print(f"\n{name}\n\n| | median | 99 % | largest | warned | refused |\n|---|---|---|---|---|---|")
        torch.manual_seed(0)
        known = given(task.network(), task.train, task.unseen)
        pool = answers(known, task.recipe, LARGEST, "original")
        fresh = answers(known, task.recipe, arguments.networks, "oracle")
        for size in POOLS:
            parts = [pool[start : start + size] for start in range(0, LARGEST - size + 1, size)]
            print_row(f"the recipe, {size} full models", [far(known, fresh, part) for part in parts])
        for label, change in changes(task.recipe).items():
            other = answers(known, {**task.recipe, **change}, arguments.others, "oracle")
            print_row(label, [far(known, other, pool)])
        rows = known.examples.n_train
        part = answers(known, task.recipe, arguments.others, "oracle", torch.randperm(rows)[: rows * 9 // 10])
        print_row("90 % of the rows", [far(known, part, pool)])


def print_row(label: str, distances: list[NDArray[np.float64]]) -> None:
    """Print what some distances amount to."""
    values = np.concatenate(distances)
    middle, most = np.quantile(values, (0.5, 0.99))
    warned, refused = ((values > FAR) & (values <= FARTHEST)).mean(), (values > FARTHEST).mean()
    print(f"| {label} | {middle:.2f} | {most:.2f} | {values.max():.2f} | {warned:.1%} | {refused:.2%} |", flush=True)


def far(known: Given, networks: NDArray[np.float32], full: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the distance of every network, ``[networks]``, from margins ``[networks, points]``."""
    cut = known.examples.n_train
    return np.array([max(distance(own[:cut], full[:, :cut]), distance(own[cut:], full[:, cut:])) for own in networks])


def answers(
    known: Given, recipe: Mapping[str, Any], count: int, role: Role, rows: Tensor | None = None
) -> NDArray[np.float32]:
    """Train networks by a recipe on all rows, or on some, and return their margins on all points."""
    members, examples = range(count), known.examples
    ensemble = Ensemble.initialise(known.build, [member_seed(0, role, one, "initialisation") for one in members])
    chosen = AllBut(examples.n_train, ()).indices(members) if rows is None else rows.expand(count, -1)
    module = EnsembleTraining(subsets=chosen, **made_of(training_of(recipe, known)))
    module.attach(ensemble, examples, seed=0, role=role, members=members)
    module.fit(trainer_factory({**composed([]).trainer, "engine": vars(Engine().settled())}))
    return margins(ensemble.logits(examples.inputs), examples.labels)


def changes(recipe: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return differences from a recipe."""
    epochs, size = recipe.get("epochs", 8), recipe.get("batch_size", 64)
    rate = recipe.get("optimizer", {}).get("lr", 0.2)
    adam = {"_target_": "torch.optim.Adam", "lr": 3e-3}
    return {
        "a quarter of the epochs": {"epochs": epochs // 4},
        "half the epochs": {"epochs": epochs // 2},
        "twice the epochs": {"epochs": 2 * epochs},
        "four times the epochs": {"epochs": 4 * epochs},
        "a third of the learning rate": {"optimizer": {"lr": rate / 3}},
        "a quarter of the batch size": {"batch_size": size // 4},
        "four times the batch size": {"batch_size": 4 * size},
        "weight decay 5e-4": {"optimizer": {"lr": rate, "weight_decay": 5e-4}},
        "weight decay 5e-3": {"optimizer": {"lr": rate, "weight_decay": 5e-3}},
        "no momentum": {"optimizer": {"lr": rate, "momentum": 0.0}},
        "Adam": {"optimizer": adam},
        "label smoothing": {"label_smoothing": 0.1},
    }


def tasks() -> dict[str, Task]:
    """Return small tasks of several kinds."""
    images = torch.tensor(load_digits().data / 16, dtype=torch.float32)  # pyright: ignore
    labels = torch.tensor(load_digits().target)  # pyright: ignore
    unseen, square = (images[1400:], labels[1400:]), images.view(-1, 1, 8, 8)
    many, few, some = ((images[:count], labels[:count]) for count in (1400, 300, 600))
    wine, kinds = (torch.tensor(values) for values in load_wine(return_X_y=True))
    wine, order = ((wine - wine.mean(0)) / wine.std(0)).float(), torch.randperm(178, generator=seeded(0))
    wines, others = ((wine[rows], kinds[rows]) for rows in (order[:120], order[120:]))
    gentle, short = {"epochs": 6, "optimizer": {"lr": 0.1}}, {"epochs": 5, "batch_size": 32, "optimizer": {"lr": 0.05}}
    return {
        "1,400 digits, one hidden layer": Task(lambda: perceptron(64, 128, 10), many, unseen, {}),
        "300 digits, one hidden layer": Task(lambda: perceptron(64, 64, 10), few, unseen, {}),
        "600 digits, two convolutions": Task(convolutions, (square[:600], some[1]), (square[1400:], unseen[1]), gentle),
        "600 clouds of points, a linear network": Task(lambda: nn.Linear(8, 5), clouds(600, 0), clouds(300, 1), short),
        "120 wines, one hidden layer": Task(lambda: perceptron(13, 16, 3), wines, others, {}),
    }


def seeded(seed: int) -> torch.Generator:
    """Return a generator."""
    return torch.Generator().manual_seed(seed)


def perceptron(width: int, hidden: int, classes: int) -> nn.Module:
    """Return a network of one hidden layer."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def convolutions() -> nn.Module:
    """Return a small convolutional network."""
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10))


def clouds(count: int, seed: int) -> Data:
    """Return points of five overlapping normal clouds."""
    labels = torch.arange(count) % 5
    centres = 1.2 * torch.randn(5, 8, generator=seeded(1))
    return centres[labels] + torch.randn(count, 8, generator=seeded(seed)), labels


if __name__ == "__main__":
    main()
