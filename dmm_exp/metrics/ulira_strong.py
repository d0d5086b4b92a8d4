"""The strong form of U-LiRA: all models are unlearned, but only some of them were trained on a given point.

Models are trained on random subsets. For each point some models were trained on it and had to forget it ("in"), and
the others were not ("out"); a likelihood-ratio attack has to distinguish them. A model is never scored by a fit that
includes it or a model with a dependent subset.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmm_exp.errors import UserError
from dmm_exp.metrics._inputs import member_matrix, same_shape
from dmm_exp.metrics.ulira import log_normal

FEWEST_LEFT = 2  # models of a side that a fit must have after a block is left out


def ulira_strong_scores(
    margins: ArrayLike, seen: ArrayLike, *, block: int = 1, variance_floor: float = 1e-6
) -> NDArray[np.float64]:
    """Return ``log p(margin | in) - log p(margin | out)`` for every model and point, ``[models, points]``.

    For each point a Gaussian is fitted to the margins of either side, by maximum likelihood. When a model is scored,
    its whole block takes part in neither fit: in complementary pairs a model that saw the point has a partner that did
    not, and whose training set follows from its own.

    Args:
        margins: ``[models, points]`` after unlearning.
        seen: ``[models, points]`` bool, whether a model was trained on the point and had to forget it.
        block: models come in blocks of this many whose training sets depend on one another; 1: all are independent.
        variance_floor: smallest variance of a fit, in squared margins.

    Raises:
        UserError: when shapes do not fit, a value is NaN or infinite, or a fit would have fewer than two models.

    Source: Hayes et al., "Inexact unlearning needs more careful evaluations to avoid a false sense of privacy",
    arXiv 2403.01218.
    """
    if not variance_floor > 0:
        raise UserError(f"variance_floor is {variance_floor}; expected a number above 0.")
    values = member_matrix("margins", margins).astype(np.float64)
    inside = np.asarray(seen, dtype=bool)
    same_shape("margins", values, "seen", inside)
    check_seen(inside, block)
    return _density(values, inside, block, variance_floor) - _density(values, ~inside, block, variance_floor)


def ulira_strong(scores: NDArray[np.float64], seen: ArrayLike) -> NDArray[np.float64]:
    """Return the attack's balanced accuracy ``[points]`` at threshold 0: 0.5 is indistinguishable.

    Both sides count half each; a score of exactly zero counts as half a success.

    Args:
        scores: ``[models, points]`` of :func:`ulira_strong_scores`.
        seen: as there.
    """
    inside = np.asarray(seen, dtype=bool)
    right = 0.5 * (1 + np.sign(scores) * np.where(inside, 1, -1))
    shares = np.where(inside, 0.5 / inside.sum(axis=0), 0.5 / (~inside).sum(axis=0))
    return (right * shares).sum(axis=0)


def auc(positive_scores: ArrayLike, negative_scores: ArrayLike) -> float:
    """Return the area under the ROC: how often a positive scores above a negative, ties counting half."""
    positive = np.asarray(positive_scores, dtype=np.float64).ravel()
    negative = np.sort(np.asarray(negative_scores, dtype=np.float64), axis=None)
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.mean() / 2 / len(negative))


def check_seen(seen: NDArray[np.bool_], block: int) -> None:
    """Raise ``UserError`` unless either side of every point keeps two models when any block is left out."""
    if len(seen) % block:
        raise UserError(f"{len(seen)} models cannot be divided into blocks of {block}.")
    for side, name in ((seen, "saw"), (~seen, "did not see")):
        blocks = side.reshape(-1, block, seen.shape[1]).sum(axis=1)
        left = int((blocks.sum(axis=0) - blocks.max(axis=0)).min())
        if left < FEWEST_LEFT:
            raise UserError(
                f"{len(seen)} base models leave only {left} that {name} some example, once those of a block are left "
                f"out; expected at least {FEWEST_LEFT} (more base models)."
            )


def _density(
    values: NDArray[np.float64], side: NDArray[np.bool_], block: int, variance_floor: float
) -> NDArray[np.float64]:
    """Return the log-density of every value under the Gaussian of a side's models outside the value's own block.

    With distances ``d`` from the side's mean, leaving a block out takes its sums of ``d`` and ``d²`` from the totals.
    """
    mean = np.where(side, values, 0).sum(axis=0) / side.sum(axis=0)
    distance = np.where(side, values - mean, 0)
    count, first, second = (_without_own_block(part, block) for part in (side.astype(float), distance, distance**2))
    shift = first / count
    return log_normal(values, mean + shift, second / count - shift**2, variance_floor)


def _without_own_block(parts: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """Return, for every model, the sum over all models but those of its block."""
    blocks = parts.reshape(-1, block, parts.shape[1]).sum(axis=1)
    return np.repeat(blocks.sum(axis=0) - blocks, block, axis=0)
