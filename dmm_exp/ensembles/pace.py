"""How fast members train here: a short piece of real training, timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dmm_exp.config.schema import Plain
from dmm_exp.data import Examples
from dmm_exp.ensembles.ensemble import Ensemble
from dmm_exp.ensembles.when_made import EnsembleTraining
from dmm_exp.ensembles.work import recipe, trainer_factory, uses_gpu

FIRST = 32  # examples of each member that are trained on first: a large network may need a second for these
GROWTH = 16  # how many times as much is trained on next, at most


@dataclass(frozen=True)
class Pace:
    """How fast members train.

    Attributes:
        seconds: for the gradient of one example of one member: of one processor core, or of the GPU where there is one.
        measured: seconds of training in which it was measured.
    """

    seconds: float
    measured: float


def measured_pace(
    build: Callable[[], nn.Module], examples: Examples, training: Plain, trainer: Plain, members: int, budget: float
) -> Pace:
    """Train new members for a moment, by the recipe and on the data, and return how fast that was.

    On a processor the time of one thread on it counts, so that other programs change little. The first piece only warms
    up. A network that needs longer than the budget for the first examples is measured on these.

    Args:
        build: makes a network.
        examples: the dataset.
        training: configuration of the recipe.
        trainer: configuration of the Lightning trainer, with its engine.
        members: that are trained together.
        budget: seconds that all of it may take, about.
    """
    rows, epochs, spent = min(FIRST, examples.n_train), 1, 0.0
    with _one_thread(uses_gpu(trainer)):
        piece = _Pieces(build, examples, training, trainer, members)
        spent = warming = piece.seconds(rows, 1)
        seconds = warming if warming > budget else piece.seconds(rows, 1)
        while spent + seconds < budget and seconds < budget / 3:
            spent += seconds
            wanted = rows * epochs * max(2, min(GROWTH, int(budget / 2 / max(seconds, 1e-6))))
            rows, epochs = min(wanted, examples.n_train), max(1, wanted // examples.n_train)
            seconds = piece.seconds(rows, epochs)
    return Pace(seconds / (members * rows * epochs), spent + seconds)


@dataclass(frozen=True)
class _Pieces:
    """Pieces of training of any length."""

    build: Callable[[], nn.Module]
    examples: Examples
    training: Plain
    trainer: Plain
    members: int

    def seconds(self, rows: int, epochs: int) -> float:
        """Return how long some epochs on some rows take, whatever comes out."""
        members = range(self.members)
        options: dict[str, Any] = {**recipe(self.training), "epochs": epochs}
        subset = torch.randperm(self.examples.n_train, generator=torch.Generator().manual_seed(0))[:rows].sort().values
        module = EnsembleTraining(subsets=subset.expand(self.members, -1), **options)
        ensemble = Ensemble.initialise(self.build, members)
        clock = time.perf_counter if uses_gpu(self.trainer) else time.process_time
        began = clock()
        module.attach(ensemble, self.examples, seed=0, role="original", members=members)
        module.fit(trainer_factory(self.trainer))
        return clock() - began


@contextmanager
def _one_thread(on_gpu: bool) -> Iterator[None]:
    """Let torch use one thread while the body runs; on a GPU nothing changes."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if on_gpu else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
