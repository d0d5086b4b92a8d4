"""How well a predicted effect of the forget set matches the true one."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmm_exp.errors import UserError
from dmm_exp.metrics._inputs import same_shape


def effect_quality(predicted: ArrayLike, true: ArrayLike) -> dict[str, float]:
    """Return ``r2`` and ``correlation`` of a predicted effect against the true one, over all points and classes.

    ``r2`` is ``1 - SSE / SST``, with SST taken about the mean of ``true``: 1 is exact, 0 is as good as one constant,
    negative is worse. ``correlation`` is Pearson's, blind to scale and offset. A value that does not apply is absent:
    both where ``true`` is constant (SST = 0), ``correlation`` also where ``predicted`` is.

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
        quality["correlation"] = float((offset * centred).sum() / np.sqrt((offset**2).sum() * total))
    return quality


def _checked(name: str, effect: ArrayLike) -> NDArray[np.float64]:
    """Return the effect as a finite float64 array that is not empty."""
    array = np.asarray(effect, dtype=np.float64)
    if not array.size or not np.isfinite(array).all():
        raise UserError(
            f"{name} has shape {list(array.shape)} or holds NaN or infinite values; expected finite numbers."
        )
    return array
