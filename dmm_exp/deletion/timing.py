"""What training one network takes here, as a plain loop of its own would do it; and when a pool pays off."""

from __future__ import annotations

import time
from math import ceil, floor, log10
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from dmm_exp.config.schema import Node, TrainingByFunction, plain
from dmm_exp.console.progress import duration
from dmm_exp.deletion.given import Given
from dmm_exp.ensembles.work import recipe

if TYPE_CHECKING:
    from dmm_exp.deletion.deletion import Deletion

CHEAPER = 2.0  # times as long as a request that a retraining must take, so that requests save anything worth naming
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


def requests_to_break_even(pool: float, retraining: float, request: float) -> int | None:
    """Return after how many requests a pool took less time than retraining, to two digits; None if it never pays.

    A request that takes more than half of a retraining saves too little for a number that means anything.

    Args:
        pool: seconds of preparing it.
        retraining: seconds of training one network.
        request: seconds of answering one request from the pool.

    >>> requests_to_break_even(pool=900.0, retraining=100.0, request=12.3)
    11
    >>> requests_to_break_even(pool=900.0, retraining=100.0, request=60.0) is None
    True
    """
    if retraining < CHEAPER * request:
        return None
    count = pool / (retraining - request)
    unit = 10 ** max(0, floor(log10(max(count, 1))) - 1)
    return ceil(count / unit) * unit


def break_even_in_words(pool: float, retraining: float, request: float) -> str:
    """Say in a sentence whether a pool pays off."""
    took = f"this request took {duration(request)}, retraining one network takes {duration(retraining)}"
    count = requests_to_break_even(pool, retraining, request)
    if count is None:
        return f'{took}: retraining is cheaper here, and exact (method="retrain")'
    return f"{took}: the pool ({duration(pool)}) pays off after about {count:,} requests"
