"""Pools by design: which rows the members of a pool are trained without, before any forget set is known."""

from dmm_exp.pools.designs import (
    Design,
    WithoutClass,
    WithoutGroup,
    WithoutLevelSet,
    WithoutPart,
    WithoutShare,
    role_of,
)
from dmm_exp.pools.known import Known, answers_alike, rows_of_classes

__all__ = [
    "Design",
    "Known",
    "WithoutClass",
    "WithoutGroup",
    "WithoutLevelSet",
    "WithoutPart",
    "WithoutShare",
    "answers_alike",
    "role_of",
    "rows_of_classes",
]
