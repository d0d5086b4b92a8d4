"""What the likelihood-ratio attack finds in unlearned models, in the originals and in independent oracles."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmm_exp.evaluation.outputs import ENDS, FEWEST_FOR_INTERVALS
from dmm_exp.metrics import false_positives, roc, tpr_at_fpr, ulira, ulira_intervals, ulira_scores

FEWEST_FOR_ATTACK = 3
RATES = np.union1d(np.linspace(0, 1, 101), np.logspace(-5, 0, 101))  # false-positive rates at which a curve is kept


KEPT = 8  # results of intervals_of: originals and floors are the same for all methods on a forget set
_found: dict[str, dict[str, tuple[float, float]]] = {}


def intervals_of(
    margins: NDArray[np.float32], oracle: NDArray[np.float32], held_out: NDArray[np.float32] | None
) -> dict[str, tuple[float, float]]:
    """Do what :func:`ulira_intervals` does; for margins that this process has just seen, from memory.

    Args:
        margins: ``[members, forget points]`` of the models that are attacked.
        oracle: those of retrained models.
        held_out: those of further retrained models, or None.
    """
    digest = hashlib.sha256()
    for side in (margins, oracle, held_out):
        known = None if side is None else np.ascontiguousarray(side)
        digest.update(b"" if known is None else f"{known.shape}{known.dtype}".encode() + known.tobytes())
    key = digest.hexdigest()
    if key not in _found:
        _found[key] = ulira_intervals(margins, oracle, held_out)
    _found[key] = _found.pop(key)  # the latest stands last
    while len(_found) > KEPT:
        del _found[next(iter(_found))]
    return _found[key]


class LikelihoodAttack:
    """Tells every ensemble from the oracles by margins on forget points.

    Args:
        margins: ensemble → ``[members, forget points]``, for ``oracle`` and those of ``ENDS`` that there are.
    """

    def __init__(self, margins: Mapping[str, NDArray[np.float32]]) -> None:
        self.margins = margins
        self.oracle = margins["oracle"]

    @property
    def attacked(self) -> dict[str, str]:
        """Ensemble → the end of its metrics' names; empty for too few members."""
        there = {name: end for name, end in ENDS.items() if name in self.margins}
        return there if len(self.oracle) >= FEWEST_FOR_ATTACK else {}

    def by_point(self) -> NDArray[np.float64]:
        """Return the attack's accuracy on unlearned models at every forget point, NaN without an attack."""
        if not self.attacked:
            return np.full(self.oracle.shape[1], np.nan)
        return ulira(self.margins["unlearned"], self.oracle)

    def metrics(self) -> dict[str, float]:
        """Return accuracy and true-positive rate for every ensemble, and how often a retrained model is accused."""
        found: dict[str, float] = {}
        for name, end in self.attacked.items():
            margins = self.margins[name]
            found[f"ulira{end}/accuracy"] = float(ulira(margins, self.oracle).mean())
            found[f"ulira{end}/tpr_at_1fpr"] = tpr_at_fpr(*ulira_scores(margins, self.oracle))
            if (held_out := self._held_out(name)) is not None:
                wrong = false_positives(margins, self.oracle, held_out)
                found[f"ulira{end}/false_positive_rate"] = float(wrong.mean())
        return found

    def intervals(self) -> dict[str, float]:
        """Return the 95 % interval of every metric, ``NAME_low`` and ``NAME_high``; nothing for few members."""
        found: dict[str, float] = {}
        for name, end in self.attacked.items() if len(self.oracle) >= FEWEST_FOR_INTERVALS else ():
            for rate, ends in intervals_of(self.margins[name], self.oracle, self._held_out(name)).items():
                found[f"ulira{end}/{rate}_low"], found[f"ulira{end}/{rate}_high"] = ends
        return found

    def _held_out(self, name: str) -> NDArray[np.float32] | None:
        """Return the independent oracles that an attack might accuse; None where these are what it attacks."""
        return None if name == "floor" else self.margins.get("floor")

    def curves(self) -> pd.DataFrame:
        """Return the ROC of every ensemble: ``ensemble``, ``fpr``, ``tpr``; empty without an attack."""
        curves = []
        for name in self.attacked:
            fpr, tpr, _ = roc(*ulira_scores(self.margins[name], self.oracle))
            kept = np.unique(np.searchsorted(fpr, RATES, side="right") - 1)
            curves.append(pd.DataFrame({"ensemble": name, "fpr": fpr[kept], "tpr": tpr[kept]}))
        return pd.concat(curves) if curves else pd.DataFrame(columns=["ensemble", "fpr", "tpr"])
