"""Families of scores that are computed together."""

from __future__ import annotations

from collections.abc import Iterable

from dmm_exp.ensembles.trajectory import PROXIES
from dmm_exp.errors import UserError, did_you_mean

FAMILIES = {
    "memorization": ("memorization", "memorization_correctness"),
    "principal": ("pc1", "pc2"),
    "entanglement": ("es", "es_group", "es_distance"),
    "trajectory": PROXIES,
    "curvature": ("loss_curvature",),
    "held_out": ("held_out_retraining",),
}
FROM_POOL = ("memorization", "principal")  # other families are computed from the originals
NO_SCORES = ("point", "es_group")


def score_names(columns: Iterable[str]) -> list[str]:
    """Return the columns of a table that hold scores, without standard errors and the number of the point."""
    return [name for name in columns if name not in NO_SCORES and not name.endswith("_se")]


def families_of(names: Iterable[str]) -> list[str]:
    """Return the families of some scores, each once, in the order of :data:`FAMILIES`.

    Raises:
        UserError: there is no such score.
    """
    wanted, known = set(), [name for names in FAMILIES.values() for name in names]
    for name in names:
        if name not in known:
            raise UserError(f"score={name}: expected one of {', '.join(known)}{did_you_mean(name, known)}")
        wanted |= {family for family, members in FAMILIES.items() if name in members}
    return [family for family in FAMILIES if family in wanted]
