"""MIA: a membership inference attack on every unlearned model, by a support vector classifier.

For one model the attack learns to distinguish retain points (members) from validation points (non-members) by the
model's outputs. Its score is the share of forget points that it calls non-members: not its size is of interest, but how
close it is to the score of a model retrained without these points (``tow_mia``).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmm_exp.errors import UserError, did_you_mean
from dmm_exp.metrics._inputs import checked_logits
from dmm_exp.metrics.tow import GROUPS

Float = NDArray[np.float64]
Labels = NDArray[np.integer]

_ALIKE = 1e-12  # relative range of features up to which they are equal; gamma would magnify such rounding
_TINY = 1e-140  # range whose square is too small for a division
_SMALLEST = 1e-300  # replaces a probability of 0 before its logarithm is taken


def mia(
    logits: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    feature: str = "confidence",
    largest: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return the share of forget points that the attack calls non-members ``[members]``, one attack a model.

    The attack is scikit-learn's ``SVC`` with C = 3, an RBF kernel and gamma ``scale``, trained on as many retain as
    validation points, drawn at random without replacement. The draw depends on the seed and the member's number alone,
    so an unlearned model and its oracle are attacked with the same points. Public code takes the *first* retain points
    by index, as many as there are test points (10,000 for CIFAR-10): its score depends on how the dataset is sorted,
    and no seed varies the draw. Its gamma is ``auto``, which depends on the unit of the feature.

    If all drawn points have the same feature (up to rounding), the attack cannot learn anything and the score is 0.5.

    Args:
        logits: ``[members, points, classes]``, eval mode, no augmentation.
        labels: ``[points]`` class indices.
        groups: ``[points]``: 0 forget, 1 retain, 2 validation.
        feature: input of the attack for a point: ``confidence`` (probability of the true class), ``correctness``,
            ``entropy``, ``modified_entropy`` (Song and Mittal) or ``probabilities`` (all classes).
        largest: at most as many points of a side are drawn; the attack's cost grows with the square.
        seed: of the draws.

    Raises:
        UserError: when the shapes do not fit, a logit is NaN or infinite, a group is empty or unknown, or an option is
            out of its range.

    Source: the attack of Zhao et al., arXiv 2406.01257, which is that of Jia et al., arXiv 2304.04934; the features are
    those of Song and Mittal, arXiv 2003.10595.
    """
    scores, classes_of = checked_logits(logits, labels)
    if not np.isfinite(scores).all():
        raise UserError(
            "logits holds values that are NaN or infinite (has a model diverged?); expected finite numbers."
        )
    forget, retain, held_out = _points_of(groups, scores.shape[1])
    observe = _observer(feature)
    if largest < 1 or seed < 0:
        raise UserError(f"largest is {largest} and seed is {seed}; expected at least 1 and at least 0.")
    size = min(len(retain), len(held_out), largest)

    def attack(member: int) -> float:
        generator = np.random.default_rng([seed, member])
        seen = observe(scores[member].astype(np.float64), classes_of)
        inside, outside = (seen[generator.choice(side, size, replace=False)] for side in (retain, held_out))
        return _share_called_outside(inside, outside, seen[forget])

    with ThreadPoolExecutor() as threads:
        return np.fromiter(threads.map(attack, range(len(scores))), dtype=np.float64)  # the solver releases the GIL


def check_attack(*, feature: str = "confidence", largest: int = 1000) -> None:
    """Raise ``UserError`` unless ``mia`` takes these options."""
    _observer(feature)
    if largest < 1:
        raise UserError(f"evaluation.mia.largest={largest}: expected at least 1")


def _share_called_outside(inside: Float, outside: Float, targets: Float) -> float:
    """Return the share of targets on the outside of a classifier of ``[points, features]``."""
    from sklearn.svm import SVC  # imported late, since that takes longer than most metrics

    known = np.concatenate([inside, outside])
    if np.ptp(known, axis=0).max() <= max(_ALIKE * np.abs(known).max(), _TINY):
        return 0.5
    is_inside = np.repeat([True, False], [len(inside), len(outside)])
    return float(np.mean(~SVC(C=3.0, kernel="rbf", gamma="scale").fit(known, is_inside).predict(targets)))


def _points_of(groups: ArrayLike, points: int) -> list[NDArray[np.intp]]:
    """Return the points of every group."""
    group_of = np.asarray(groups)
    if group_of.shape != (points,) or not np.isin(group_of, range(len(GROUPS))).all():
        raise UserError(
            f"groups has shape {list(group_of.shape)} and holds {np.unique(group_of)[:5].tolist()}; "
            f"expected {points} numbers, each 0 (forget), 1 (retain) or 2 (val)."
        )
    members = [np.flatnonzero(group_of == group) for group in range(len(GROUPS))]
    for name, found in zip(GROUPS, members, strict=True):
        if not found.size:
            raise UserError(f"groups holds no point of {name}; expected at least one of each group.")
    return members


def _observer(feature: str) -> Callable[[Float, Labels], Float]:
    """Return the function from one member's logits and the labels to features ``[points, features]``."""
    if feature not in FEATURES:
        raise UserError(
            f"feature is '{feature}'; expected one of {', '.join(FEATURES)}{did_you_mean(feature, FEATURES)}."
        )
    return FEATURES[feature]


def _confidence(logits: Float, labels: Labels) -> Float:
    return np.exp(_of_label(_log_probabilities(logits), labels))


def _correctness(logits: Float, labels: Labels) -> Float:
    return (logits.argmax(axis=1) == labels)[:, None].astype(np.float64)


def _entropy(logits: Float, labels: Labels) -> Float:
    log_p = _log_probabilities(logits)
    return -(np.exp(log_p) * log_p).sum(axis=1, keepdims=True)


def _modified_entropy(logits: Float, labels: Labels) -> Float:
    """Return ``-(1 - p_y) log p_y - Σ_{c≠y} p_c log(1 - p_c)``: 0 when sure and right, large when sure and wrong."""
    log_p = _log_probabilities(logits)
    others = -np.expm1(log_p)  # 1 - p, exact also where p is nearly 1
    terms = np.exp(log_p) * np.log(np.maximum(others, _SMALLEST))
    np.put_along_axis(terms, labels[:, None], _of_label(others * log_p, labels), axis=1)
    return -terms.sum(axis=1, keepdims=True)


def _probabilities(logits: Float, labels: Labels) -> Float:
    return np.exp(_log_probabilities(logits))


def _log_probabilities(logits: Float) -> Float:
    """Return log-softmax ``[points, classes]``, exact also where the largest probability is nearly 1."""
    below = logits - logits.max(axis=1, keepdims=True)
    rest = np.sort(np.exp(below), axis=1)[:, :-1]  # all but the largest, which is exp(0)
    return below - np.log1p(rest.sum(axis=1, keepdims=True))


def _of_label(values: Float, labels: Labels) -> Float:
    """Return the true class's value ``[points, 1]``."""
    return np.take_along_axis(values, labels[:, None], axis=1)


FEATURES: dict[str, Callable[[Float, Labels], Float]] = {
    "confidence": _confidence,
    "correctness": _correctness,
    "entropy": _entropy,
    "modified_entropy": _modified_entropy,
    "probabilities": _probabilities,
}
