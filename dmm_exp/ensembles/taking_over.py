"""Members that another artifact already has are copied from it instead of being computed again.

A member depends on its role and number alone, so the members of an ensemble are the first members of every larger
ensemble that is equal in everything else.
"""

from __future__ import annotations

import torch

from dmm_exp.files.reading import Json
from dmm_exp.store import Artifact, Draft


def beginning_as(relative: Artifact | None, wanted: list[list[int]]) -> list[list[int]]:
    """Return ``wanted`` with the shard limits of another ensemble where it has members, so that shards can be shared.

    Args:
        relative: the other ensemble.
        wanted: ``[start, stop]`` of every shard.
    """
    if relative is None:
        return wanted
    shared = min(relative.members, wanted[-1][1])
    known = [[start, min(stop, shared)] for start, stop in relative.layout if start < shared]
    return known + [[max(start, shared), stop] for start, stop in wanted if stop > shared]


def take_over(draft: Draft, shard: int, start: int, stop: int) -> bool:
    """Write a shard of members ``start … stop-1`` from those of the draft's relative; False if it lacks any of them."""
    relative = draft.relative
    if relative is None or stop > relative.members:
        return False
    try:
        if [start, stop] in relative.layout:
            draft.take_shard(shard, relative, relative.layout.index([start, stop]))
        else:
            _cut(draft, shard, start, stop, relative)
    except FileNotFoundError:  # it has been removed in the meantime
        return False
    return True


def _cut(draft: Draft, shard: int, start: int, stop: int, relative: Artifact) -> None:
    """Write a shard whose members are in several shards of the other ensemble."""
    tensors, shares, facts = [], [], relative.shard_facts()
    for place, (first, end) in enumerate(relative.layout):
        if first < stop and end > start:
            inside = max(first, start), min(end, stop)
            tensors.append(relative.some_members(place, inside[0] - first, inside[1] - first))
            shares.append((facts[place], inside[1] - inside[0], end - first))
    joined = {name: torch.cat([part[name] for part in tensors]) for name in tensors[0]}
    draft.write_shard(shard, joined, _joined_facts(shares), taken_over={relative.digest: stop - start})


def _joined_facts(shares: list[tuple[Json, int, int]]) -> Json:
    """Return the facts of some members, from (facts of a shard, number of its members that are copied, its members).

    Seconds are divided in proportion, losses are averaged over members; facts about one member are equal in all shards.
    """
    taken = sum(count for _, count, _ in shares)
    curves = [[loss * count / taken for loss in facts["history"]] for facts, count, _ in shares]
    return {
        **shares[0][0],
        "members": taken,
        "seconds": sum(facts["seconds"] * count / total for facts, count, total in shares),
        "history": [sum(losses) for losses in zip(*curves, strict=True)],
    }
