"""Predictions of theory for the dynamics; statements and proofs are in ``docs/convex.md``.

All losses in this module are means over examples, so Hessians are those of :mod:`dmm_exp.convex.problems` divided by
the number of examples.
"""

from __future__ import annotations

import numpy as np

from dmm_exp.convex.problems import Floats, Subset

ZERO = 1e-10  # eigenvalues below this share of the largest count as zero: no example has such a direction


def smoothness(part: Subset) -> Floats:
    """Return L ``[seeds]``: the mean loss has no larger curvature anywhere."""
    most = 1.0 if part.problem.loss == "ridge" else 0.25
    return (most * largest_eigenvalue(part.inputs) + part.problem.penalty) / len(part)


def largest_eigenvalue(inputs: Floats) -> Floats:
    """Return the largest eigenvalue of ``XᵀX``, ``[seeds]``."""
    return np.linalg.norm(inputs, ord=2, axis=(1, 2)) ** 2


def batch_smoothness(part: Subset, batch: int) -> Floats:
    """Return L_b ``[seeds]`` with ``E[A²] ≤ L_b E[A]`` for the curvature A of a batch drawn with replacement.

    ``L_b = (R² + μ)/b + (1 − 1/b) L`` with R² the largest curvature of a single example and μ the penalty's.
    """
    most = 1.0 if part.problem.loss == "ridge" else 0.25
    single = most * (part.inputs**2).sum(2).max(1) + part.problem.penalty / len(part)
    return single / batch + (1 - 1 / batch) * smoothness(part)


def excited_rate(hessian: Floats, error: Floats, steps: Floats) -> Floats:
    """Return ``max |1 − η λ_j|`` over positive eigenvalues λ_j with a component of the error, ``[seeds]``.

    Args:
        hessian: ``[seeds, d, d]``.
        error: ``[seeds, d]``.
        steps: η ``[seeds]``.
    """
    values, vectors = np.linalg.eigh(hessian)
    parts = np.abs(vectors.transpose(0, 2, 1) @ error[..., None])[..., 0]
    excited = (parts > 1e-9 * np.linalg.norm(error, axis=1, keepdims=True)) & (values > ZERO * values[:, -1:])
    return np.where(excited, np.abs(1 - steps[:, None] * values), 0.0).max(1)


def span_condition(inputs: Floats) -> Floats:
    """Return κ⁺ ``[seeds]``, the largest over the smallest *positive* eigenvalue of ``XᵀX``."""
    values = np.linalg.svd(inputs, compute_uv=False) ** 2
    positive = np.where(values > ZERO * values[:, :1], values, np.inf)
    return values[:, 0] / positive.min(1)


def outside_span(inputs: Floats, error: Floats) -> Floats:
    """Return the share ``[seeds]`` of an error's length that lies outside the span of some examples."""
    _, values, axes = np.linalg.svd(inputs, full_matrices=False)
    inside = np.where(values > ZERO**0.5 * values[:, :1], (axes @ error[..., None])[..., 0], 0.0)
    remaining = error - (axes.transpose(0, 2, 1) @ inside[..., None])[..., 0]
    return np.linalg.norm(remaining, axis=1) / np.linalg.norm(error, axis=1)


def mean_square_rate(inputs: Floats, batch: int, steps: Floats, iterations: int = 300) -> Floats:
    """Return the factor ``[seeds]`` by which a stochastic matching step shrinks ``E[e eᵀ]`` in the long run.

    It is the spectral radius of ``M ↦ M − η(ΣM + MΣ) + η²[(1/b) E[x xᵀ M x xᵀ] + (1 − 1/b) ΣMΣ]``, found by power
    iteration from Σ, in coordinates of the examples' span: outside, rounding would not shrink and take over.
    """
    _, _, axes = np.linalg.svd(inputs, full_matrices=False)
    inputs, count = inputs @ axes.transpose(0, 2, 1), inputs.shape[1]
    moment = inputs.transpose(0, 2, 1) @ inputs / count
    square, size = steps[:, None, None], np.ones(len(inputs))
    current = moment
    for _ in range(iterations):
        current = current / np.trace(current, axis1=1, axis2=2)[:, None, None]
        weights = ((inputs @ current) * inputs).sum(2, keepdims=True)
        single = inputs.transpose(0, 2, 1) @ (weights * inputs) / count
        both = moment @ current
        noise = single / batch + (1 - 1 / batch) * both @ moment
        current = current - square * (both + both.transpose(0, 2, 1)) + square**2 * noise
        current = (current + current.transpose(0, 2, 1)) / 2  # otherwise the asymmetric part from rounding would grow
        size = np.trace(current, axis1=1, axis2=2)
    return size


def gradient_variance(part: Subset, parameters: Floats) -> Floats:
    """Return ``tr C`` ``[seeds]``, the variance of a single example's gradient (with its penalty) at parameters."""
    errors = part.problem.mean(part.inputs @ parameters[..., None]) - part.targets[..., None]
    single = errors * part.inputs + part.problem.penalty / len(part) * parameters[:, None, :]
    return ((single - single.mean(1, keepdims=True)) ** 2).sum((1, 2)) / len(part)


def noise_floor(part: Subset, parameters: Floats, batch: int, steps: Floats) -> tuple[Floats, Floats]:
    """Return bounds ``[seeds]`` of the mean loss above its minimum at which SGD on ridge regression stays.

    ``η tr C/4b ≤ E[excess] ≤ η tr C/4b / (1 − η L_b/2)``.

    Args:
        part: what SGD descends on.
        parameters: its minimiser, ``[seeds, d]``.
        batch: b, drawn with replacement.
        steps: η ``[seeds]``, below ``2/L_b``.
    """
    low = steps * gradient_variance(part, parameters) / (4 * batch)
    return low, low / (1 - steps * batch_smoothness(part, batch) / 2)


def shares_by_eigenvalue(hessian: Floats, vectors: Floats) -> tuple[Floats, Floats]:
    """Return eigenvalues ``[seeds, d]`` and the share of each vector's square along each, ``[seeds, d]``."""
    values, axes = np.linalg.eigh(hessian)
    parts = (axes.transpose(0, 2, 1) @ vectors[..., None])[..., 0] ** 2
    return values, parts / parts.sum(1, keepdims=True)
