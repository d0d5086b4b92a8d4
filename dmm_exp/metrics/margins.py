"""Margins and correctness, the inputs of all other metrics."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmm_exp.metrics._inputs import checked_logits

_VALUES_PER_BLOCK = 1 << 21  # logits in one block: three float32 working copies of 8 MiB each


def margins(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.float32]:
    """Return ``z_y - logsumexp_{c != y} z_c`` for every member and point, the log-odds of the true class.

    The arithmetic is float32 whatever the precision of ``logits``, in blocks of members: beside its result the
    function needs a few times 8 MiB (or of one member's logits, where those are larger). A NaN logit
    gives a NaN margin.

    Args:
        logits: ``[members, points, classes]``, eval mode, no augmentation; an array or a tensor on the CPU.
        labels: ``[points]`` class indices.

    Returns:
        Margins ``[members, points]``, in nats.

    Raises:
        UserError: when the shapes do not fit, there are fewer than two classes, or a label is no class index.

    Source: Georgiev et al., arXiv 2410.23232 (the margin that KLoM compares).
    """
    scores, classes_of = checked_logits(logits, labels)
    result = np.empty(scores.shape[:2], dtype=np.float32)
    step = max(1, _VALUES_PER_BLOCK // max(1, scores[0].size if len(scores) else 1))
    for start in range(0, len(scores), step):
        block = slice(start, start + step)
        result[block] = _block_margins(scores[block].astype(np.float32), classes_of)
    return result


def accuracy(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
    """Return whether the largest logit is the true class, ``[members, points]``; ``.mean(axis=1)`` is each member's.

    Args:
        logits: ``[members, points, classes]``.
        labels: ``[points]`` class indices.

    Raises:
        UserError: as ``margins`` does.
    """
    scores, classes_of = checked_logits(logits, labels)
    return scores.argmax(axis=2) == classes_of


def _block_margins(scores: NDArray[np.float32], labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return the margins ``[members, points]`` of logits that may be overwritten."""
    index = labels[None, :, None]
    true = np.take_along_axis(scores, index, axis=2)[..., 0]
    np.put_along_axis(scores, index, -np.inf, axis=2)
    largest = scores.max(axis=2)  # subtracted before the exponential, so that it can neither overflow nor vanish
    scores -= largest[..., None]
    np.exp(scores, out=scores)
    return true - largest - np.log(scores.sum(axis=2))
