"""What ensembles answer, and how many members an interval takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_FOR_INTERVALS = 20
ENDS = {"unlearned": "", "floor": "_floor", "original": "_original"}
"""Ensembles that are compared with the oracles, with the end of their metrics' names: ``klom_floor``, ``tow_floor``."""


@dataclass(frozen=True)
class Outputs:
    """The outputs of one ensemble.

    Attributes:
        margins: ``[members, points]`` float32.
        correct: ``[members, points]`` bool.
        mean_logits: ``[points, classes]``.
    """

    margins: NDArray[np.float32]
    correct: NDArray[np.bool_]
    mean_logits: NDArray[np.float32]
