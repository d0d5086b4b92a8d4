"""How well a predicted effect of the forget set matches the true one."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmm_exp.errors import UserError
from dmm_exp.metrics._inputs import same_shape

UNKNOWN = 0.75  # doubt above which a forget set is unlike anything that the estimator has seen
WORST = 100.0  # largest expected error, where noise explains the whole prediction


def effect_quality(predicted: ArrayLike, true: ArrayLike) -> dict[str, float]:
    """Return ``r2``, ``correlation`` and ``slope`` of a predicted effect against the true one, over all logits.

    ``r2`` is ``1 - SSE / SST``, with SST taken about the mean of ``true``: 1 is exact, 0 is as good as one constant,
    negative is worse. ``correlation`` is Pearson's, blind to scale and offset. ``slope`` is that of the
    regression of ``true`` on ``predicted``: 1 is calibrated, less overshoots, more is too timid. A value that does not
    apply is absent: all where ``true`` is constant (SST = 0), the last two also where ``predicted`` is.

    Args:
        predicted: ``[points, classes]``, in logits.
        true: ``[points, classes]``, mean logits of the originals minus those of the oracles.

    Raises:
        UserError: when the shapes differ, nothing is given, or a value is NaN or infinite.
    """
    guess, truth = _checked("predicted", predicted), _checked("true", true)
    same_shape("predicted", guess, "true", truth)
    if np.ptp(truth) == 0:  # not SST: the rounding of the mean can leave a constant with a tiny one
        return {}
    centred = truth - truth.mean()
    total = float((centred**2).sum())
    quality = {"r2": 1.0 - float(((guess - truth) ** 2).sum()) / total}
    if np.ptp(guess) > 0:
        offset = guess - guess.mean()
        together = float((offset * centred).sum())
        quality["correlation"] = together / np.sqrt(float((offset**2).sum()) * total)
        quality["slope"] = together / float((offset**2).sum())
    return quality


def expected_error(predicted: ArrayLike, standard_error: ArrayLike, *, posterior: bool) -> float:
    """Return the squared error that a prediction expects of itself, in multiples of that of predicting no effect.

    Below 1 following the prediction is expected to help, above 1 to do more harm than doing nothing. The mean square
    of the effect, which is the error of predicting none, is that of the prediction *plus* a posterior variance, or
    *minus* a sampling variance; where noise explains all of the prediction it is 0, and the answer ``WORST``.

    Args:
        predicted: ``[points, classes]``, in logits.
        standard_error: ``[points, classes]``.
        posterior: whether it is a posterior standard deviation, or the error from sampling.

    Raises:
        UserError: when the shapes differ, nothing is given, or a value is NaN or infinite.
    """
    guess, error = _checked("predicted", predicted), _checked("standard_error", standard_error)
    same_shape("predicted", guess, "standard_error", error)
    noise = float((error**2).sum())
    nothing = float((guess**2).sum()) + (noise if posterior else -noise)
    if noise == 0:
        return 0.0
    return WORST if nothing <= noise / WORST else noise / nothing


def error_ratio(predicted: ArrayLike, standard_error: ArrayLike, first: ArrayLike, second: ArrayLike) -> float:
    """Return the squared error of a prediction, in multiples of the variance that it states.

    1 is right, more is too sure of itself, less too cautious. The true effect is known from retrained models, with
    sampling noise. Two independent ensembles of them have independent noise, so the product of a prediction's two
    errors has the squared error alone as its expectation; it may be negative where that is small.

    Args:
        predicted: ``[points, classes]``, in logits.
        standard_error: ``[points, classes]``.
        first: true effect by one ensemble of retrained models, ``[points, classes]``.
        second: by another.

    Returns:
        The ratio of the means over all logits; NaN where no error is stated.

    Raises:
        UserError: when the shapes differ, nothing is given, or a value is NaN or infinite.
    """
    guess, error = _checked("predicted", predicted), _checked("standard_error", standard_error)
    truths = _checked("first", first), _checked("second", second)
    for name, other in zip(("standard_error", "first", "second"), (error, *truths), strict=True):
        same_shape("predicted", guess, name, other)
    stated = float((error**2).sum())
    return float(((guess - truths[0]) * (guess - truths[1])).sum()) / stated if stated else float("nan")


def doubt(standard_error: ArrayLike, deviation: ArrayLike, labels: ArrayLike) -> float:
    """Return how uncertain a prediction of the labels' logits is, in standard deviations of these logits over models.

    It is a root mean square over points. Above ``UNKNOWN`` a prediction says little of what a retrained model answers:
    its error is almost as large as the differences between models of one kind.

    Args:
        standard_error: of the predicted effect, ``[points, classes]``, in logits.
        deviation: of the originals' logits over members, ``[points, classes]``.
        labels: ``[points]``.

    Raises:
        UserError: when the shapes differ, nothing is given, or a value is NaN or infinite.
    """
    error, scale = _checked("standard_error", standard_error), _checked("deviation", deviation)
    same_shape("standard_error", error, "deviation", scale)
    own = np.arange(len(error)), np.asarray(labels)
    scale = np.maximum(scale[own], 1e-3 * scale.mean() + 1e-12)
    return float(np.sqrt(((error[own] / scale) ** 2).mean()))


def _checked(name: str, effect: ArrayLike) -> NDArray[np.float64]:
    """Return the effect as a finite float64 array that is not empty."""
    array = np.asarray(effect, dtype=np.float64)
    if not array.size or not np.isfinite(array).all():
        raise UserError(
            f"{name} has shape {list(array.shape)} or holds NaN or infinite values; expected finite numbers."
        )
    return array
