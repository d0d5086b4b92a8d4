"""Gaussian margins like measured ones, which show how the spread of a statistic falls with the number of members."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def moments(side: NDArray[np.floating], most: int, clip: float = math.inf) -> NDArray[np.float64]:
    """Return mean and deviation ``[2, points]`` of clipped margins, at most ``most`` evenly spaced points."""
    chosen = np.unique(np.linspace(0, side.shape[1] - 1, most).astype(int))
    samples = np.clip(side[:, chosen].astype(np.float64), -clip, clip)
    return np.stack([samples.mean(axis=0), samples.std(axis=0, ddof=1)])


def without_noise(
    first: NDArray[np.float64], second: NDArray[np.float64], members: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means and deviations ``[2, points]``, their differences shrunk to the size that sampling does not explain.

    The sides of a pair without any difference would otherwise be drawn from two distributions that differ.
    """
    pooled = np.sqrt((first[1] ** 2 + second[1] ** 2) / 2)
    varied = (first[1] > 0) & (second[1] > 0)
    shift = np.divide(first[0] - second[0], pooled, out=np.zeros_like(pooled), where=varied)
    stretch = np.log(np.divide(first[1], second[1], out=np.ones_like(pooled), where=varied))
    shift *= _real_share(shift[varied], 2 / members)
    stretch *= _real_share(stretch[varied], 1 / (members - 1))
    means = np.where(varied, [second[0] + pooled * shift, second[0]], [first[0], second[0]])
    middle = np.sqrt(first[1] * second[1])
    deviations = np.where(varied, [middle * np.exp(stretch / 2), middle * np.exp(-stretch / 2)], [first[1], second[1]])
    return means, deviations


def _real_share(differences: NDArray[np.float64], noise: float) -> float:
    """Return the root of the share of the mean square of differences that exceeds the variance of their noise."""
    square = float(np.mean(differences**2)) if differences.size else 0.0
    return math.sqrt(max(0.0, 1.0 - noise / square)) if square > 0 else 0.0
