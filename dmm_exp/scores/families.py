"""Which scores are computed together."""

from __future__ import annotations

from collections.abc import Iterable

from dmm_exp.errors import UserError, did_you_mean

FAMILIES = {
    "memorization": ("memorization", "memorization_correctness"),
    "principal": ("pc1", "pc2"),
    "entanglement": ("es", "es_group", "es_distance"),
    "curvature": ("loss_curvature",),
}
FROM_POOL = ("memorization", "principal")  # the others come from the originals


def families_of(names: Iterable[str]) -> list[str]:
    """Return the families that hold some scores, each once, in the order above.

    Raises:
        UserError: there is no such score.
    """
    wanted, known = set(), [name for names in FAMILIES.values() for name in names]
    for name in names:
        if name not in known:
            raise UserError(f"score={name}: expected one of {', '.join(known)}{did_you_mean(name, known)}")
        wanted |= {family for family, members in FAMILIES.items() if name in members}
    return [family for family in FAMILIES if family in wanted]
