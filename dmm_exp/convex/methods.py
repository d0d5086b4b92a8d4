"""The methods: the loss of each, its best step size, and its distance to exact retraining."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dmm_exp.attribution import Estimator, Evidence, SubsetModels, towards
from dmm_exp.config.convex import ConvexConfig, ConvexPoolConfig
from dmm_exp.config.instantiate import instantiate
from dmm_exp.convex.dynamics import (
    SCHEDULES,
    Descent,
    StepSchedule,
    ascent_descent_gradient,
    descend,
    full_gradient,
    record_times,
    stochastic_gradient,
)
from dmm_exp.convex.problems import Floats, Problem
from dmm_exp.convex.solutions import exact_influence, pool_masks, pool_outputs, solve
from dmm_exp.convex.theory import batch_smoothness, smoothness

METHODS = ("gd", "sgd", "ascent_descent", "om", "om_stochastic", "dmm_exact", "dmm_pool")
STOCHASTIC = ("sgd", "om_stochastic")
EXACT, WORST = 1e-10, 1e30  # relative distances that count as exact, and as divergence


@dataclass(frozen=True)
class Task:
    """Some problems with their exact solutions and predicted solutions.

    Attributes:
        problem: the problems.
        seeds: of the problems.
        trained: θ(S) ``[seeds, d]``.
        retrained: θ(S∖F) ``[seeds, d]``.
        influence: parameters ``[seeds, d]`` predicted by exact influence.
        pool: outputs of θ(S∖F) on all of S as estimated from a pool, ``[seeds, n]``.
    """

    problem: Problem
    seeds: range
    trained: Floats
    retrained: Floats
    influence: Floats
    pool: Floats

    def matching(self, method: str) -> Problem:
        """Return the least-squares problem of a matching method, with its targets on the matched examples."""
        outputs = self.problem.inputs @ (self.influence if method == "dmm_exact" else self.retrained)[..., None]
        targets = self.pool if method == "dmm_pool" else outputs[..., 0]
        rows = slice(0, self.problem.matched)
        inputs, targets = self.problem.inputs[:, rows], targets[:, rows]
        return replace(self.problem, loss="ridge", inputs=inputs, targets=targets, penalty=0.0)


@dataclass(frozen=True)
class MethodResult:
    """A method at its best step size.

    Attributes:
        method: its name.
        schedule: of its step size.
        multiple: the step size, in multiples of the largest that theory allows.
        descent: of the method.
        at: numbers of steps ``[records]``.
        distance: ``‖θ − θ(S∖F)‖/‖θ(S) − θ(S∖F)‖``, ``[records, seeds]``.
        excess: mean retain loss (with its penalty) above its minimum, ``[records, seeds]``.
    """

    method: str
    schedule: StepSchedule
    multiple: float
    descent: Descent
    at: NDArray[np.int64]
    distance: Floats
    excess: Floats


def make_task(problem: Problem, seeds: range, pool: ConvexPoolConfig) -> Task:
    """Solve some problems exactly, and predict the solutions without F."""
    trained, retrained = solve(problem.whole), solve(problem.retained)
    influence = exact_influence(problem, trained)
    return Task(problem, seeds, trained, retrained, influence, _from_pool(problem, seeds, trained, pool))


def _from_pool(problem: Problem, seeds: range, trained: Floats, pool: ConvexPoolConfig) -> Floats:
    """Return outputs ``[seeds, n]`` of θ(S) less the effect of F by the pool's estimator."""
    estimator: Estimator = instantiate(pool.estimator)
    count, targets = problem.inputs.shape[1], []
    groups = (torch.arange(count) >= problem.size).long()
    for place, seed in enumerate(seeds):
        masks = pool_masks(problem, pool.size, pool.alpha, np.random.default_rng([seed, 2]))
        outputs = pool_outputs(problem, place, masks, trained[place])
        members = SubsetModels(torch.from_numpy(masks), torch.from_numpy(outputs).float()[..., None])
        learned = estimator.learn(Evidence(groups, count, pool=members))
        effect = learned.predict(towards(torch.arange(problem.size), count))[0, :, 0]
        targets.append(problem.inputs[place] @ trained[place] - effect.double().numpy())
    return np.stack(targets)


def descent_of(method: str, task: Task, convex: ConvexConfig) -> Descent:
    """Return the descent of a method. Step sizes are in units of 2/L, or 2/L_b for stochastic methods."""
    problem, batch = task.problem, convex.batch
    if method == "ascent_descent":
        ascents, retained = convex.ascent_steps, problem.retained
        every = (min(ascents, convex.steps / 2) * (problem.size - len(retained)) / convex.steps) + len(retained)
        gradient = ascent_descent_gradient(problem, ascents)
        return Descent(gradient, convex.steps, every, 2 / smoothness(retained))
    part = problem.retained if method in ("gd", "sgd") else task.matching(method).whole
    if method in STOCHASTIC:
        steps = max(1, convex.passes * len(part) // batch)
        gradient = stochastic_gradient(part, batch, steps, task.seeds)
        return Descent(gradient, steps, batch, 2 / batch_smoothness(part, batch))
    return Descent(full_gradient(part), convex.steps, len(part), 2 / smoothness(part))


def measure(task: Task, parameters: Floats) -> tuple[Floats, Floats]:
    """Return relative distances and excess retain losses ``[records, seeds, k]`` of ``[records, seeds, d, k]``."""
    error = parameters - task.retrained[..., None]
    with np.errstate(over="ignore", invalid="ignore"):
        distance = np.linalg.norm(error, axis=2) / np.linalg.norm(task.trained - task.retrained, axis=1)[:, None]
        excess = np.stack([excess_loss(task, found) for found in error])
    return distance, excess


def excess_loss(task: Task, error: Floats) -> Floats:
    """Return the mean retain loss above its minimum, ``[seeds, k]``, at ``θ(S∖F) + error [seeds, d, k]``.

    The first-order part is zero at the minimum and is left out, so that it adds no rounding errors.
    """
    retained = task.problem.retained
    at = retained.inputs @ task.retrained[..., None]
    moved = retained.inputs @ error
    if task.problem.loss == "ridge":
        above = 0.5 * moved**2
    else:
        single, targets = task.problem.single, retained.targets[..., None]
        slope = task.problem.mean(at) - targets
        exact = single(at + moved, targets) - single(at, targets) - slope * moved
        above = np.where(np.abs(moved) < 1e-3, 0.5 * task.problem.curvature(at) * moved**2, exact)
    return (above.sum(1) + 0.5 * task.problem.penalty * (error**2).sum(1)) / len(retained)


def best_multiples(method: str, tuning: Task, convex: ConvexConfig) -> dict[StepSchedule, float]:
    """Return by schedule the step size that ends nearest to θ(S∖F), in the geometric mean over tuning problems.

    Among step sizes that end within rounding of it, the one with the smallest distance on the way is chosen.
    """
    multiples = np.asarray(convex.multiples, dtype=np.float64)
    descent = descent_of(method, tuning, convex)
    decaying = np.repeat([schedule == "decaying" for schedule in SCHEDULES], len(multiples))
    at = record_times(descent.steps)
    found = descend(descent, tuning.trained, np.tile(multiples, len(SCHEDULES)), decaying, at)
    distance, _ = measure(tuning, found.parameters)
    scores = np.log(np.nan_to_num(distance, nan=WORST, posinf=WORST).clip(EXACT, WORST)).mean(1)
    scores = scores.reshape(len(at), len(SCHEDULES), -1)
    places = [np.lexsort((scores[:, row].mean(0), scores[-1, row].round(6)))[0] for row in range(len(SCHEDULES))]
    return {schedule: float(multiples[place]) for schedule, place in zip(SCHEDULES, places, strict=True)}


def run_method(method: str, task: Task, tuning: Task, convex: ConvexConfig) -> list[MethodResult]:
    """Run a method from θ(S) at its best step size of every schedule."""
    best, descent = best_multiples(method, tuning, convex), descent_of(method, task, convex)
    at = record_times(descent.steps)
    decaying = np.array([schedule == "decaying" for schedule in best])
    found = descend(descent, task.trained, np.array(list(best.values())), decaying, at)
    distance, excess = measure(task, found.parameters)
    return [
        MethodResult(method, schedule, multiple, descent, at, distance[..., column], excess[..., column])
        for column, (schedule, multiple) in enumerate(best.items())
    ]
