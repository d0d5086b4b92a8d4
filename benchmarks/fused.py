"""Training steps that are written out (``engine.members=fused``) against stacked ones, and whether the models agree."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.plain import Work
from benchmarks.timing import TABLE_HEAD, Speed, compare
from dmm_exp.ensembles import Ensemble

MEMBERS, PAIRS = 100, 7
CHUNKS = ((50, 50), (100, 100), (100, 50))  # members that train together: stacked, fused
SAME_ACCURACY = 0.01  # largest difference between the mean accuracies of the members on unseen points


def main() -> str:
    """Return the section of ``results.md``."""
    torch.set_num_threads(1)
    rows = [_speed(*sizes).row for sizes in CHUNKS]
    return "\n".join(
        [
            f"One thread, processor seconds, initialisation included: {MEMBERS} members of `model=mlp` on digits, the "
            f"recipe of `training=sgd_one_cycle`. Mean accuracies agree within {SAME_ACCURACY:.0%}; "
            "`tests/ensembles/test_fused_steps.py` compares parameters.",
            "",
            TABLE_HEAD,
            *rows,
        ]
    )


def _speed(stacked: int, fused: int) -> Speed:
    """Compare the two in chunks of their own sizes."""
    ways = Work.of("mlp", "engine.members=together"), Work.of("mlp", "engine.members=fused")
    reference, ours = (
        partial(way.engine, range(MEMBERS), size) for way, size in zip(ways, (stacked, fused), strict=True)
    )
    work = f"fused in chunks of {fused}, against stacked in chunks of {stacked}"
    return compare(work, reference, ours, partial(_as_accurate, ways[0]), pairs=PAIRS)


def _as_accurate(work: Work, *ensembles: list[Ensemble]) -> bool:
    """Say whether the members of both are equally accurate in the mean."""
    first, second = (torch.cat([chunk.logits(work.examples.inputs) for chunk in chunks]) for chunks in ensembles)
    return abs(float(work.accuracy(first).mean() - work.accuracy(second).mean())) <= SAME_ACCURACY
