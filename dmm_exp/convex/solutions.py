"""Exact solutions: retraining, the influence of a whole group, and pools of subset models."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dmm_exp.convex.problems import Floats, Problem, Subset

Function = Callable[[Floats], Floats]

TOLERANCE = 1e-12  # of the gradient, relative to that at θ = 0
MOST_STEPS = 100


def solve(part: Subset, tolerance: float = TOLERANCE) -> Floats:
    """Return the minimiser ``[seeds, d]`` of the penalised loss on some examples.

    Newton's method, whose first step is the closed form of ridge regression. Steps that raise the loss are halved.

    Raises:
        ArithmeticError: the gradient did not fall below ``tolerance`` times that at zero.
    """
    seeds, _, width = part.inputs.shape
    start = np.zeros((seeds, width))

    def gradient(parameters: Floats) -> Floats:
        return part.gradient(parameters[..., None])[..., 0]

    def losses(parameters: Floats) -> Floats:
        return part.value(parameters[..., None])[:, 0]

    enough = tolerance * np.linalg.norm(gradient(start), axis=1)
    return _newton(start, enough, losses, gradient, part.hessian)


def _newton(start: Floats, enough: Floats, losses: Function, gradient: Function, hessian: Function) -> Floats:
    """Return the minimisers ``[models, d]`` of losses by Newton's method, from ``start``.

    Args:
        start: parameters ``[models, d]``.
        enough: length of the gradient at which a model has converged, ``[models]``.
        losses: from parameters to losses ``[models]``.
        gradient: from parameters to gradients ``[models, d]``.
        hessian: from parameters to Hessians ``[models, d, d]``.

    Raises:
        ArithmeticError: a model has not converged after :data:`MOST_STEPS` steps.
    """
    parameters = start
    for _ in range(MOST_STEPS):
        slope = gradient(parameters)
        if (np.linalg.norm(slope, axis=1) <= enough).all():
            return parameters
        step = np.asarray(np.linalg.solve(hessian(parameters), slope[..., None])[..., 0], dtype=np.float64)
        parameters = parameters - _lengths(losses, parameters, step) * step
    raise ArithmeticError(f"Newton's method has not converged after {MOST_STEPS} steps")


def _lengths(losses: Function, parameters: Floats, step: Floats) -> Floats:
    """Return the share ``[models, 1]`` of a step ``[models, d]`` that does not raise the loss (beyond rounding)."""
    before = losses(parameters)
    allowed = before + 1e-12 * np.abs(before)
    lengths = np.ones((len(step), 1))
    for _ in range(30):
        worse = losses(parameters - lengths * step) > allowed
        if not worse.any():
            break
        lengths[worse] /= 2
    return lengths


def leave_group_out(problem: Problem, trained: Floats) -> Floats:
    """Return ridge regression without the forget set, ``[seeds, d]``, from ridge regression with it.

    With ``H`` the Hessian on S, ``K = X_F H⁻¹ X_Fᵀ`` and residuals ``r_F = y_F − X_F θ(S)``,
    ``θ(S∖F) = θ(S) − H⁻¹ X_Fᵀ (I − K)⁻¹ r_F`` (Woodbury's identity).

    Args:
        problem: with the squared error.
        trained: θ(S), ``[seeds, d]``.
    """
    inputs = problem.forgotten.inputs
    residuals = problem.forgotten.targets[..., None] - inputs @ trained[..., None]
    towards = np.linalg.solve(problem.whole.hessian(trained), inputs.transpose(0, 2, 1))
    left_out = np.linalg.solve(np.eye(problem.size) - inputs @ towards, residuals)
    return trained - (towards @ left_out)[..., 0]


def one_newton_step(problem: Problem, trained: Floats) -> Floats:
    """Return ``θ(S) − H_R(θ(S))⁻¹ ∇L_R(θ(S))``, ``[seeds, d]``: exact for ridge, an approximation otherwise."""
    step = np.linalg.solve(problem.retained.hessian(trained), problem.retained.gradient(trained[..., None]))
    return trained - step[..., 0]


def exact_influence(problem: Problem, trained: Floats) -> Floats:
    """Return the predicted parameters ``[seeds, d]`` without F, from θ(S) alone."""
    return leave_group_out(problem, trained) if problem.loss == "ridge" else one_newton_step(problem, trained)


def pool_masks(problem: Problem, members: int, alpha: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return random subsets ``[members, n]`` of ``alpha · n`` examples each."""
    count = problem.inputs.shape[1]
    ranks = rng.random((members, count)).argsort(1).argsort(1)
    return ranks < round(alpha * count)


def pool_outputs(problem: Problem, seed: int, masks: NDArray[np.bool_], start: Floats) -> Floats:
    """Return the outputs ``[members, n]`` on all examples of models fitted to subsets of one problem.

    Newton's method from ``start`` (θ(S), ``[d]``) to a relative gradient of 1e-6, far below the differences of subsets.
    """
    inputs, targets, kept = problem.inputs[seed], problem.targets[seed], masks.astype(np.float64)
    if problem.loss == "ridge" and inputs.shape[0] < inputs.shape[1]:
        return _dual_outputs(inputs, targets, kept, problem.penalty)
    count, width = inputs.shape
    products = (inputs[:, :, None] * inputs[:, None, :]).reshape(count, -1)

    def losses(parameters: Floats) -> Floats:
        single = problem.single(parameters @ inputs.T, targets)
        return (kept * single).sum(1) + 0.5 * problem.penalty * (parameters**2).sum(1)

    def gradient(parameters: Floats) -> Floats:
        return (kept * (problem.mean(parameters @ inputs.T) - targets)) @ inputs + problem.penalty * parameters

    def hessian(parameters: Floats) -> Floats:
        curved = ((kept * problem.curvature(parameters @ inputs.T)) @ products).reshape(-1, width, width)
        return curved + problem.penalty * np.eye(width)

    enough = 1e-6 * np.linalg.norm((kept * (problem.mean(np.zeros(count)) - targets)) @ inputs, axis=1)
    return _newton(np.tile(start, (len(masks), 1)), enough, losses, gradient, hessian) @ inputs.T


def _dual_outputs(inputs: Floats, targets: Floats, kept: Floats, penalty: float) -> Floats:
    """Return the pool's outputs for ridge with fewer examples than directions: ``K D(DKD + λI)⁻¹ D y``."""
    kernel = inputs @ inputs.T
    systems = kept[:, :, None] * kernel * kept[:, None, :] + penalty * np.eye(len(inputs))
    return (kept * np.linalg.solve(systems, (kept * targets)[..., None])[..., 0]) @ kernel
