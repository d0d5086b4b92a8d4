"""Scores of single members: accuracies, tug-of-war, membership inference; their means, and intervals for these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmm_exp.evaluation.outputs import ENDS, FEWEST_FOR_INTERVALS
from dmm_exp.metrics import mean_interval, tow, tow_mia
from dmm_exp.metrics.tow import ATTACK_GROUPS, GROUPS

Columns = dict[str, NDArray[np.float64]]
WITH_DEVIATION = ("tow", "tow_mia")


def accuracy_columns(accuracies: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> Columns:
    """Return accuracies and tug-of-war of every member ``[members]``, by the name of their mean in ``metrics.json``.

    Without one of the three groups there is no tug-of-war.

    Args:
        accuracies: ensemble → group of points → accuracy of every member ``[members]``.
    """
    found = {f"accuracy/{name}/{group}": values for name, own in accuracies.items() for group, values in own.items()}
    oracle = accuracies["oracle"]
    ends = _ends(accuracies) if oracle.keys() == set(GROUPS) else {}
    return found | {f"tow{end}": np.asarray(tow(accuracies[name], oracle)) for name, end in ends.items()}


def attack_columns(
    accuracies: Mapping[str, Mapping[str, NDArray[np.float64]]], attacks: Mapping[str, NDArray[np.float64]]
) -> Columns:
    """Return scores of membership inference and ToW-MIA of every member ``[members]``.

    Args:
        accuracies: as for :func:`accuracy_columns`.
        attacks: ensemble → score of every member ``[members]``.
    """
    sides: dict[str, Any] = {
        name: {group: attacks[name] if group == "mia" else own[group] for group in ATTACK_GROUPS}
        for name, own in accuracies.items()
    }
    found = {f"mia/{name}": score for name, score in attacks.items()}
    return found | {
        f"tow_mia{end}": np.asarray(tow_mia(sides[name], sides["oracle"])) for name, end in _ends(sides).items()
    }


def _ends(ensembles: Mapping[str, Any]) -> dict[str, str]:
    """Return the ensembles that are there and compared with the oracles → the end of their metrics' names."""
    return {name: end for name, end in ENDS.items() if name in ensembles}


def means(columns: Columns) -> dict[str, float]:
    """Return the mean of every column, and the standard deviation over members of tug-of-war."""
    found = {name: float(values.mean()) for name, values in columns.items()}
    return found | {f"{name}/std": float(columns[name].std(ddof=1)) for name in WITH_DEVIATION if name in columns}


def intervals(columns: Columns) -> dict[str, float]:
    """Return the 95 % interval of every mean, ``NAME_low`` and ``NAME_high``; nothing for few members.

    Members are independent: tug-of-war pairs member i with oracle i and with no other.
    """
    found: dict[str, float] = {}
    for name, values in columns.items():
        if len(values) >= FEWEST_FOR_INTERVALS:
            found[f"{name}_low"], found[f"{name}_high"] = mean_interval(values)
    return found
