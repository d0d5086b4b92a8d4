"""Measured rates, and the rates that theory predicts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmm_exp.convex.dynamics import Descent, descend, stochastic_gradient
from dmm_exp.convex.methods import MethodResult, Task, excess_loss
from dmm_exp.convex.problems import Floats
from dmm_exp.convex.theory import (
    batch_smoothness,
    excited_rate,
    mean_square_rate,
    noise_floor,
    outside_span,
    shares_by_eigenvalue,
    span_condition,
)
from dmm_exp.files.reading import Json

REACHED = 1e-6
FEW = 5  # seeds
FIT_ABOVE = 1e-7  # relative distances below are rounding
FLOOR_MULTIPLES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9)  # of 2/L_b


def measured_rate(at: NDArray[np.int64], distance: Floats) -> float:
    """Return the factor of one step, fitted between the last time above rounding and half that time.

    Args:
        at: numbers of steps ``[records]``.
        distance: ``[records]``.
    """
    above = np.flatnonzero(distance > FIT_ABOVE)
    last = above[-1] if len(above) else 0
    window = slice(int(np.searchsorted(at, at[last] / 2)), last + 1)
    if last == 0 or at[window].size < 2:
        return float("nan")
    return float(np.exp(np.polyfit(at[window], np.log(distance[window]), 1)[0]))


def rates_of(task: Task, found: MethodResult) -> dict[str, float]:
    """Return ``rate_measured`` and ``rate_predicted``, factors of one step; NaN where theory predicts none.

    They are medians over seeds. For a stochastic method it is the factor of the root mean square over batches, below
    which a single run usually stays; it comes from few seeds, since it is expensive.
    """
    if found.schedule != "constant" or found.method not in ("gd", "om", "om_stochastic"):
        return {"rate_measured": float("nan"), "rate_predicted": float("nan")}
    steps, matching = found.multiple * found.descent.largest, task.matching("om")
    error, distance = task.trained - task.retrained, found.distance
    if found.method != "gd":  # what lies outside the span of the matched points does not move
        distance = np.sqrt(np.clip(distance**2 - outside_span(matching.inputs, error) ** 2, 0.0, None))
    if found.method == "om_stochastic":
        few, batch = slice(0, FEW), round(found.descent.samples)
        predicted = mean_square_rate(matching.inputs[few], batch, steps[few]) ** 0.5
    else:
        part = task.problem.retained if found.method == "gd" else matching.whole
        hessian = part.hessian(task.retrained) / len(part)
        predicted = excited_rate(hessian, error, steps)
    measured = [measured_rate(found.at, column) for column in distance.T[: len(predicted)]]
    return {"rate_measured": float(np.median(measured)), "rate_predicted": float(np.median(predicted))}


def summary_of(task: Task, found: MethodResult) -> Json:
    """Return a row of the table: the distance of a method, the cost to reach a small distance, and the rates."""
    gradients = found.at * found.descent.samples
    reached = found.distance <= REACHED
    first = np.where(reached.any(0), gradients[reached.argmax(0)], np.inf)
    middle = float(np.median(first))
    return {
        "method": found.method,
        "schedule": found.schedule,
        "multiple": found.multiple,
        "steps": found.descent.steps,
        **{f"distance_{k}": _at(found, k) for k in (10, 100, 1000)},
        "distance": float(np.median(found.distance[-1])),
        "excess": float(np.median(found.excess[-1])),
        "reached": float(reached.any(0).mean()),
        "gradients_to_1e-6": middle if np.isfinite(middle) else float("nan"),
        **rates_of(task, found),
    }


def _at(found: MethodResult, step: int) -> float:
    """Return the median distance at the last record up to a step."""
    return float(np.median(found.distance[np.searchsorted(found.at, step, side="right") - 1]))


def facts_of(task: Task) -> dict[str, float]:
    """Return the quantities that theory uses, as medians over seeds."""
    problem, error = task.problem, task.trained - task.retrained
    matched = task.matching("om").inputs
    retained = np.linalg.eigvalsh(problem.retained.hessian(task.retrained))
    length = np.linalg.norm(error, axis=1)
    pool = np.linalg.norm(task.pool - (problem.inputs @ task.retrained[..., None])[..., 0], axis=1)
    effect = np.linalg.norm((problem.inputs @ error[..., None])[..., 0], axis=1)
    found = {
        "condition_retain": retained[:, -1] / retained[:, 0],
        "condition_matching": span_condition(matched),
        "outside_span": outside_span(matched, error),
        "influence_error": np.linalg.norm(task.influence - task.retrained, axis=1) / length,
        "pool_error": pool / effect,
    }
    return {name: float(np.median(values)) for name, values in found.items()}


def floors_of(task: Task, batch: int, steps: int) -> list[dict[str, float]]:
    """Return the mean excess retain loss of SGD that starts at the minimum, for several steps, beside its bounds.

    The mean is over the second half of the steps and over seeds. The bounds hold for the squared error; for the
    logistic loss the lower is the prediction of first order.
    """
    retained = task.problem.retained
    largest = 2 / batch_smoothness(retained, batch)
    multiples = np.array(FLOOR_MULTIPLES)
    at = np.arange(0, steps + 1, max(1, steps // 100))
    gradient = stochastic_gradient(retained, batch, steps, task.seeds)
    descent = Descent(gradient, steps, batch, largest)
    walked = descend(descent, task.retrained, multiples, np.zeros(len(multiples), dtype=bool), at)
    error = walked.parameters[len(walked.parameters) // 2 :] - task.retrained[..., None]
    excess = np.stack([excess_loss(task, found) for found in error])
    rows = []
    for column, multiple in enumerate(FLOOR_MULTIPLES):
        low, high = noise_floor(retained, task.retrained, batch, multiple * largest)
        by_seed = excess[..., column].mean(0)
        rows.append(
            {
                "multiple": multiple,
                "step": float(np.mean(multiple * largest)),
                "measured": float(by_seed.mean()),
                "standard_error": float(by_seed.std() / max(1, len(by_seed) - 1) ** 0.5),
                "low": float(low.mean()),
                "high": float(high.mean()),
            }
        )
    return rows


def spectra_of(task: Task) -> list[Json]:
    """Return cumulative shares along eigenvalues of the retain set's Hessian, over all seeds.

    They are shares of the squared error ``θ(S) − θ(S∖F)``, and of the squared gradient of F's loss at θ(S).
    """
    hessian = task.problem.retained.hessian(task.retrained)
    gradient = task.problem.forgotten.loss_gradient(task.trained[..., None])[..., 0]
    rows = []
    for name, vectors in (("error", task.trained - task.retrained), ("gradient", gradient)):
        values, shares = shares_by_eigenvalue(hessian, vectors)
        relative, weights = (values / values[:, -1:]).ravel(), shares.ravel() / len(values)
        order = np.argsort(relative)
        cumulative = weights[order].cumsum()
        kept = np.unique(np.linspace(0, len(order) - 1, 200).astype(int))
        rows.append({"of": name, "eigenvalue": relative[order][kept].tolist(), "share": cumulative[kept].tolist()})
    return rows
