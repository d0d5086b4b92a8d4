"""The score of the NeurIPS 2023 competition for unlearned models, for the originals and for independent oracles."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dmm_exp.evaluation.outputs import ENDS, FEWEST_FOR_INTERVALS
from dmm_exp.metrics import competition_epsilon, competition_quality, mean_interval

UTILITY = ("retain", "val")


def competition_metrics(
    margins: Mapping[str, NDArray[np.float32]], accuracies: Mapping[str, float]
) -> dict[str, float]:
    """Return ``competition/epsilon`` (median), ``…/quality`` and ``…/score``, with floors; nothing for few members.

    Without accuracies there is no score.

    The score is the quality times the ratios of retain and validation accuracy to the oracles'
    (arXiv 2406.09073, section 3). The quality's interval is that of a mean over forgotten examples.

    Args:
        margins: ensemble → ``[members, forget points]``, for ``oracle`` and those of ``ENDS`` that there are.
        accuracies: ``accuracy/ENSEMBLE/GROUP`` → mean accuracy, where they are known.
    """
    oracle, found = margins["oracle"], {}
    compared = {name: end for name, end in ENDS.items() if name in margins}
    for name, end in compared.items() if len(oracle) >= FEWEST_FOR_INTERVALS else ():
        epsilon = competition_epsilon(margins[name], oracle)
        quality = competition_quality(epsilon, len(oracle))
        found[f"competition/epsilon{end}"] = float(np.median(epsilon))
        found[f"competition/quality{end}"] = float(quality.mean())
        if len(quality) > 1:
            ends = mean_interval(quality)
            found[f"competition/quality{end}_low"], found[f"competition/quality{end}_high"] = ends
        utility = [_ratio(accuracies, name, group) for group in UTILITY if f"accuracy/{name}/{group}" in accuracies]
        if utility:
            found[f"competition/score{end}"] = float(quality.mean() * np.prod(utility))
    return found


def _ratio(accuracies: Mapping[str, float], name: str, group: str) -> float:
    """Return an ensemble's accuracy in the oracles'; 1 where the oracles are never right."""
    own, oracle = (accuracies[f"accuracy/{ensemble}/{group}"] for ensemble in (name, "oracle"))
    return own / oracle if oracle else 1.0
