"""How long training one network takes on this machine, in a plain loop."""

from __future__ import annotations

import time
from math import ceil

import torch
from torch.nn import functional

from dmm_exp.config.schema import Node, TrainingByFunction, plain
from dmm_exp.deletion.deletion import Deletion
from dmm_exp.deletion.given import Given
from dmm_exp.ensembles.work import recipe

LEAST_SECONDS, LEAST_STEPS = 0.1, 5  # of timing


def seconds_of_training(deletion: Deletion) -> float:
    """Return the wall seconds of training one network on everything by the recipe.

    For a recipe of ours, steps of a plain loop are timed (forward, backward, optimizer; the fastest counts) and
    multiplied by their number: nothing that this package adds is in it. A recipe that is a function is carried out.
    """
    training = deletion.config.training
    if isinstance(training, TrainingByFunction):
        return deletion.one_original().shard_facts()[0]["seconds"]
    batch = min(training.batch_size, deletion.examples.n_train)
    steps = training.epochs * ceil(deletion.examples.n_train / batch)
    return steps * seconds_of_step(deletion.given, plain(training), batch)


def seconds_of_step(known: Given, training: Node, batch: int) -> float:
    """Return the wall seconds of one plain training step on a batch of so many examples."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = known.build().train().to(device)
    inputs, labels = (values[:batch].to(device) for values in (known.examples.inputs, known.examples.labels))
    optimizer = recipe(training)["optimizer"](value for value in network.parameters() if value.requires_grad)

    def step() -> float:
        begun = time.perf_counter()
        optimizer.zero_grad()
        functional.cross_entropy(network(inputs).float(), labels).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    step()
    times = [step()]
    while len(times) < LEAST_STEPS or sum(times) < LEAST_SECONDS:
        times.append(step())
    return min(times)
