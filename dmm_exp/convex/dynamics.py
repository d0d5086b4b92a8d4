"""Gradient steps on many problems and step sizes at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dmm_exp.convex.problems import Floats, Problem, Subset

Gradient = Callable[[int, Floats], Floats]  # of a step's number and parameters [seeds, d, k]
StepSchedule = Literal["constant", "decaying"]
SCHEDULES: tuple[StepSchedule, ...] = ("constant", "decaying")
RECORDS = 45  # number of recorded steps
DECAY = 20  # a decaying step size is halved after 1/20 of all steps


@dataclass(frozen=True)
class Descent:
    """A kind of descent, with the step sizes that theory allows.

    Attributes:
        gradient: of each step.
        steps: their number.
        samples: gradients of single examples in a step, on average.
        largest: the largest step size that theory allows, ``[seeds]``.
    """

    gradient: Gradient
    steps: int
    samples: float
    largest: Floats


@dataclass(frozen=True)
class ParameterPath:
    """Parameters at some steps of a descent.

    Attributes:
        at: numbers of the steps ``[records]``, from 0.
        parameters: ``[records, seeds, d, k]``.
    """

    at: NDArray[np.int64]
    parameters: Floats


def record_times(steps: int) -> NDArray[np.int64]:
    """Return about :data:`RECORDS` numbers of steps from 0 to ``steps``, evenly spaced on a logarithmic scale."""
    return np.unique(np.concatenate([[0], np.geomspace(1, steps, RECORDS).round()])).astype(np.int64)


def step_sizes(largest: Floats, multiples: Floats, decaying: NDArray[np.bool_], step: int, steps: int) -> Floats:
    """Return the step sizes ``[seeds, 1, k]`` of one step.

    Args:
        largest: ``[seeds]``.
        multiples: of the largest, ``[k]``.
        decaying: which of them fall as ``1/(1 + 20 t/T)``, ``[k]``.
        step: t.
        steps: T.
    """
    share = np.where(decaying, 1 / (1 + DECAY * step / steps), 1.0)
    return largest[:, None, None] * (multiples * share)[None, None, :]


def descend(
    descent: Descent, start: Floats, multiples: Floats, decaying: NDArray[np.bool_], at: NDArray[np.int64]
) -> ParameterPath:
    """Take steps from ``start [seeds, d]`` with ``k`` step sizes; diverging parameters become infinite or NaN."""
    parameters = np.repeat(start[..., None], len(multiples), axis=2)
    kept = [parameters]
    wanted = set(at.tolist())
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(descent.steps):
            sizes = step_sizes(descent.largest, multiples, decaying, step, descent.steps)
            parameters = parameters - sizes * descent.gradient(step, parameters)
            if step + 1 in wanted:
                kept.append(parameters)
    return ParameterPath(at, np.stack(kept))


def full_gradient(part: Subset) -> Gradient:
    """Return the gradient of the mean loss on some examples, with the penalty divided by their number.

    For the squared error it is ``(H θ − b)/n`` with H and b computed once.
    """
    count = len(part)
    if part.problem.loss == "logistic":
        return lambda _, parameters: part.gradient(parameters) / count
    start = np.zeros(part.inputs.shape[::2])
    hessian, offset = part.hessian(start) / count, part.gradient(start[..., None]) / count
    return lambda _, parameters: hessian @ parameters + offset


def stochastic_gradient(part: Subset, batch: int, steps: int, seeds: range) -> Gradient:
    """Return the gradient on a random batch with replacement; all step sizes use the same batches."""
    count, penalty = len(part), part.problem.penalty / len(part)
    rows = np.stack([np.random.default_rng([seed, 1]).integers(0, count, (steps, batch)) for seed in seeds], axis=1)
    inputs, targets = np.ascontiguousarray(part.inputs), part.targets[..., None]
    problems = np.arange(len(inputs))[:, None]

    def gradient(step: int, parameters: Floats) -> Floats:
        drawn = inputs[problems, rows[step]]
        errors = part.problem.mean(drawn @ parameters) - targets[problems, rows[step]]
        return drawn.transpose(0, 2, 1) @ errors / batch + penalty * parameters

    return gradient


def ascent_descent_gradient(problem: Problem, ascents: int) -> Gradient:
    """Return steps of ascent on F that alternate with steps of descent on R; after ``ascents`` steps, descent only."""
    down, forgotten = full_gradient(problem.retained), problem.forgotten

    def gradient(step: int, parameters: Floats) -> Floats:
        if step < 2 * ascents and step % 2 == 0:
            return -forgotten.loss_gradient(parameters) / len(forgotten)
        return down(step, parameters)

    return gradient
