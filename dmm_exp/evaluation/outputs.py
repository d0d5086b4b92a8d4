"""What ensembles answer, and how many members an interval takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmm_exp.metrics import accuracy, margins

FEWEST_FOR_INTERVALS = 20
ENDS = {"unlearned": "", "floor": "_floor", "original": "_original"}
"""Ensembles that are compared with the oracles, with the end of their metrics' names: ``klom_floor``, ``tow_floor``."""


@dataclass(frozen=True)
class Outputs:
    """The outputs of one ensemble.

    Attributes:
        margins: ``[members, points]`` float32.
        correct: ``[members, points]`` bool; None where only margins are known.
        mean_logits: ``[points, classes]``; None where only margins are known.
    """

    margins: NDArray[np.floating]
    correct: NDArray[np.bool_] | None = None
    mean_logits: NDArray[np.floating] | None = None

    @classmethod
    def of(cls, logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Outputs:
        """Return the outputs of an ensemble with these logits ``[members, points, classes]`` and labels ``[points]``.

        Raises:
            UserError: the shapes do not fit, or a label is no class index.
        """
        return cls(margins(logits, labels), accuracy(logits, labels), logits.mean(0))
