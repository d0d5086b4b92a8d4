"""U-LiRA: a likelihood-ratio attack that tries to distinguish unlearned models from models retrained without the point.

For one point, a Gaussian is fitted to the unlearned margins and one to the oracle margins; a model is called
"unlearned" if the first is more likely. A model is never scored by a fit that includes it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmm_exp.errors import UserError
from dmm_exp.metrics._inputs import member_matrix, open_unit, same_points

_FEWEST_MEMBERS = 3  # one left out, and two that have a spread


def ulira(unlearned: ArrayLike, oracle: ArrayLike, *, variance_floor: float = 1e-6) -> NDArray[np.float64]:
    """Return the attack's balanced accuracy ``[points]``: 0.5 means indistinguishable, 1 always distinguished.

    Both sides count half each, whatever their number of members; a ratio of exactly one counts as half a success. Two
    independent ensembles from one distribution give 0.5 in expectation; one ensemble against itself gives less,
    because then every member is left out of only one of the two fits.

    Args:
        unlearned: margins ``[members, points]`` of unlearned models.
        oracle: margins ``[members, points]`` of models that never saw the point; as many points, any number of members.
        variance_floor: smallest variance of a fit, in squared margins.

    Raises:
        UserError: when a side has fewer than three members, the points differ, or a value is NaN or infinite.

    Source: the per-example attack on unlearning of Hayes et al., arXiv 2403.01218.
    """
    return accuracy_of(*ulira_scores(unlearned, oracle, variance_floor=variance_floor))


def accuracy_of(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the balanced accuracy ``[points]`` of the scores ``[members, points]`` of both sides, at threshold 0."""
    called_unlearned = (positive > 0).mean(axis=0) + 0.5 * (positive == 0).mean(axis=0)
    called_oracle = (negative < 0).mean(axis=0) + 0.5 * (negative == 0).mean(axis=0)
    return 0.5 * (called_unlearned + called_oracle)


def ulira_scores(
    unlearned: ArrayLike, oracle: ArrayLike, *, variance_floor: float = 1e-6
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``log p(margin | unlearned) - log p(margin | oracle)`` for the members of both sides.

    The first array ``[members, points]`` scores the unlearned models (the positives of the attack), the second the
    oracles (the negatives). A member is left out of the fit of its own side. Arguments and errors as for ``ulira``.
    """
    positive, negative = _checked(unlearned, oracle, variance_floor)
    return (
        _leave_one_out_density(positive, variance_floor) - _density(positive, negative, variance_floor),
        _density(negative, positive, variance_floor) - _leave_one_out_density(negative, variance_floor),
    )


def false_positives(
    unlearned: ArrayLike, oracle: ArrayLike, held_out: ArrayLike, *, variance_floor: float = 1e-6
) -> NDArray[np.float64]:
    """Return the share of held-out retrained models that the attack calls unlearned, ``[points]``: its own error.

    They took no part in a fit. A ratio of exactly one counts half. Where unlearned models are like retrained ones it is
    0.5; where they differ it says how often the attack accuses a model that was retrained.

    Args:
        unlearned: margins ``[members, points]`` of unlearned models.
        oracle: margins ``[members, points]`` of the retrained models that the attack knows.
        held_out: margins ``[members, points]`` of other retrained models.
        variance_floor: smallest variance of a fit, in squared margins.

    Raises:
        UserError: as for ``ulira``; one held-out model is enough.
    """
    positive, negative = _checked(unlearned, oracle, variance_floor)
    judged = member_matrix("held_out", held_out).astype(np.float64)
    same_points("oracle", negative, "held_out", judged)
    ratio = _density(judged, positive, variance_floor) - _density(judged, negative, variance_floor)
    return (ratio > 0).mean(axis=0) + 0.5 * (ratio == 0).mean(axis=0)


def tpr_at_fpr(positive_scores: ArrayLike, negative_scores: ArrayLike, fpr: float = 0.01) -> float:
    """Return the largest true-positive rate whose false-positive rate is at most ``fpr``, over all given scores.

    Rates are not interpolated: the value is reached by a threshold. Under 1 / ``fpr`` negatives it is the rate at no
    false positive at all. Shapes and errors as for ``roc``; ``fpr`` lies strictly between 0 and 1.
    """
    limit = open_unit("fpr", fpr)
    false_positive, true_positive, _ = roc(positive_scores, negative_scores)
    return float(true_positive[false_positive <= limit].max())


def roc(
    positive_scores: ArrayLike, negative_scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return false-positive rates, true-positive rates and thresholds of "call it positive at or above the threshold".

    Every distinct score is a threshold, from the largest down, after infinity (nothing is called positive), so both
    rates rise from 0 to 1. Scores of any shape are pooled.

    Raises:
        UserError: when a side is empty or holds a NaN.
    """
    positive = _sorted_scores("positive_scores", positive_scores)
    negative = _sorted_scores("negative_scores", negative_scores)
    thresholds = np.unique(np.concatenate([positive, negative]))[::-1]
    true_positive = (len(positive) - np.searchsorted(positive, thresholds)) / len(positive)
    false_positive = (len(negative) - np.searchsorted(negative, thresholds)) / len(negative)
    return np.append(0.0, false_positive), np.append(0.0, true_positive), np.append(np.inf, thresholds)


def _checked(
    unlearned: ArrayLike, oracle: ArrayLike, variance_floor: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the margins of both sides, ``[members, points]`` each."""
    if not variance_floor > 0:
        raise UserError(f"variance_floor is {variance_floor}; expected a number above 0.")
    positive = member_matrix("unlearned", unlearned, fewest_members=_FEWEST_MEMBERS).astype(np.float64)
    negative = member_matrix("oracle", oracle, fewest_members=_FEWEST_MEMBERS).astype(np.float64)
    same_points("unlearned", positive, "oracle", negative)
    return positive, negative


def _sorted_scores(name: str, scores: ArrayLike) -> NDArray[np.float64]:
    """Return all scores in rising order."""
    flat = np.sort(np.asarray(scores, dtype=np.float64), axis=None)
    if not flat.size or np.isnan(flat).any():
        raise UserError(f"{name} holds {flat.size} scores, {int(np.isnan(flat).sum())} of them NaN; expected numbers.")
    return flat


def _density(values: NDArray[np.float64], sample: NDArray[np.float64], variance_floor: float) -> NDArray[np.float64]:
    """Return the log-density of ``values`` under the Gaussian fitted to ``sample``, by maximum likelihood."""
    return log_normal(values, sample.mean(axis=0), sample.var(axis=0), variance_floor)


def _leave_one_out_density(values: NDArray[np.float64], variance_floor: float) -> NDArray[np.float64]:
    """Return the log-density of each value under the Gaussian fitted to the other members.

    With ``d_i`` the distance from the mean of all ``n``, leaving out ``i`` moves the mean by ``-d_i / (n - 1)`` and
    takes ``d_i² n / (n - 1)`` from the sum of squares.
    """
    members = len(values)
    mean = values.mean(axis=0)
    distance = values - mean
    squares = (distance**2).sum(axis=0) - distance**2 * members / (members - 1)
    return log_normal(values, mean - distance / (members - 1), squares / (members - 1), variance_floor)


def log_normal(
    values: NDArray[np.float64], mean: NDArray[np.float64], variance: NDArray[np.float64], variance_floor: float
) -> NDArray[np.float64]:
    """Return the log-density up to the constant that cancels in a ratio."""
    floored = np.maximum(variance, variance_floor)
    return -0.5 * ((values - mean) ** 2 / floored + np.log(floored))
