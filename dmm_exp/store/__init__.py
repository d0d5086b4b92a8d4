"""Artifacts on disk: keys, atomic and checksummed files, locks, resumable shards."""

from dmm_exp.files.digests import canonical, digest_of
from dmm_exp.store.artifact import Artifact
from dmm_exp.store.planning import PlanningStore
from dmm_exp.store.spec import Spec
from dmm_exp.store.stacked import Stacked, blocks, points_at_once
from dmm_exp.store.store import Draft, Messages, Missing, Store

__all__ = [
    "Artifact",
    "Draft",
    "Messages",
    "Missing",
    "PlanningStore",
    "Spec",
    "Stacked",
    "Store",
    "blocks",
    "canonical",
    "digest_of",
    "points_at_once",
]
