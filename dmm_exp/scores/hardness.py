"""Scores with a common sign: the higher the score, the harder an example should be to unlearn."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmm_exp.errors import UserError, did_you_mean
from dmm_exp.scores.families import score_names

FALLING = ("confidence", "max_confidence", "binary_accuracy")  # high for easy examples


def hardness(scores: pd.DataFrame, name: str, key: str = "score") -> NDArray[np.float64]:
    """Return a column of the table of scores ``[n_train]``, negated if it is high for easy examples.

    Args:
        scores: one row for each training point.
        name: of the column.
        key: of the score in the configuration, for errors.

    Raises:
        UserError: there is no such column, or an example has no score.
    """
    known = score_names(scores.columns)
    if name not in known:
        raise UserError(f"{key}={name}: expected one of {', '.join(known)}{did_you_mean(name, known)}")
    values = scores[name].to_numpy(dtype=np.float64, copy=True)
    if unknown := int(np.isnan(values).sum()):
        raise UserError(f"{key}={name}: {unknown} examples have no score; expected a larger pool.size")
    return -values if name in FALLING else values
