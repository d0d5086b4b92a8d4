"""Training steps that are written out (``engine.members=fused``) against stacked ones, and whether the models agree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.nn import functional

from benchmarks.plain import Work
from benchmarks.timing import TABLE_HEAD, Speed, compare
from dmm_exp.ensembles import Ensemble

PAIRS = 7
SAME_ACCURACY = 0.01  # largest difference between the mean accuracies of the members on unseen points
ENLARGED = 28  # side of the enlarged digits
STABLE_RATE = 0.05  # for them: with the recipe's, rounding alone changes how accurate members become


@dataclass(frozen=True)
class Case:
    """Members to train in both ways.

    Attributes:
        model: a choice of ``model``.
        members: how many.
        stacked, fused: how many of them train together.
        enlarged: whether the digits are images of 28×28.
    """

    model: str
    members: int
    stacked: int
    fused: int
    enlarged: bool = False

    def work(self, way: str) -> Work:
        """Return the work with ``engine.members=way``."""
        rate = [f"training.optimizer.lr={STABLE_RATE}"] if self.enlarged else []
        work = Work.of(self.model, f"engine.members={way}", *rate)
        if not self.enlarged:
            return work
        images = functional.interpolate(work.examples.inputs.float(), (ENLARGED, ENLARGED)).to(torch.uint8)
        return replace(work, examples=replace(work.examples, inputs=images))

    def speed(self) -> Speed:
        """Compare the two in chunks of their own sizes."""
        ways = self.work("together"), self.work("fused")
        reference, ours = (
            partial(way.engine, range(self.members), size)
            for way, size in zip(ways, (self.stacked, self.fused), strict=True)
        )
        side = ways[0].examples.input_shape[-1]
        work = (
            f"{self.members} `{self.model}` on {side}×{side}: fused in chunks of {self.fused}, against stacked in "
            f"chunks of {self.stacked}"
        )
        return compare(work, reference, ours, partial(_as_accurate, ways[0]), pairs=PAIRS)


CASES = (
    *(Case("mlp", 100, stacked, fused) for stacked, fused in ((50, 50), (100, 100), (100, 50))),
    Case("cnn", 50, 10, 10),
    Case("cnn", 10, 10, 10, enlarged=True),
)


def main() -> str:
    """Return the section of ``results.md``."""
    torch.set_num_threads(1)
    rows = [case.speed().row for case in CASES]
    return "\n".join(
        [
            "One thread, processor seconds, initialisation included, the recipe of `training=sgd_one_cycle` on digits "
            f"of 8×8, and on the same enlarged to {ENLARGED}×{ENLARGED} (learning rate {STABLE_RATE}). Mean accuracies "
            f"agree within {SAME_ACCURACY:.0%}; `tests/ensembles/test_fused_steps.py` compares parameters.",
            "",
            TABLE_HEAD,
            *rows,
        ]
    )


def _as_accurate(work: Work, *ensembles: list[Ensemble]) -> bool:
    """Say whether the members of both are equally accurate in the mean."""
    first, second = (torch.cat([chunk.logits(work.examples.inputs) for chunk in chunks]) for chunks in ensembles)
    return abs(float(work.accuracy(first).mean() - work.accuracy(second).mean())) <= SAME_ACCURACY
