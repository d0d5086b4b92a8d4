"""Whether the engine's models are distributed as those of one ``Trainer.fit`` per model with ordinary shuffling."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from benchmarks.plain import Work
from dmm_exp.compare.statistics import holm
from dmm_exp.metrics import margins

MEMBERS, POINTS, LEVEL = 200, 200, 0.01


def main() -> str:
    """Return the section of ``results.md``.

    Raises:
        ArithmeticError: a test rejects that the two are the same, or none rejects where they are not.
    """
    torch.set_num_threads(1)
    work = Work.of("mlp")
    plain = work.logits([work.lightning(MEMBERS + seed) for seed in range(MEMBERS)])
    p = _p_values(work, _engine(work), plain)
    control = _p_values(work, _engine(Work.of("mlp", "training.epochs=7")), plain)
    if p.min() <= LEVEL or control.min() > LEVEL:
        raise ArithmeticError(f"smallest p (Holm): {p.min():.2g}; of models of 7 epochs: {control.min():.2g}")
    return (
        f"{MEMBERS} digits MLPs of the engine and {MEMBERS} others of a `Trainer.fit` each, on a DataLoader that "
        f"shuffles: two-sample Kolmogorov–Smirnov tests of the validation accuracy and of the margins of {POINTS} "
        f"points drawn at random, corrected by Holm. None of {len(p)} rejects at {LEVEL:.0%}; the smallest corrected "
        f"p is {p.min():.2g}. Against members that were trained for 7 epochs instead of 8, "
        f"{(control <= LEVEL).sum()} reject."
    )


def _engine(work: Work) -> Tensor:
    """Return the logits ``[members, points, classes]`` of members that the engine made in chunks."""
    ensembles = work.engine(range(MEMBERS), work.config.model.chunk_size)
    return torch.cat([ensemble.logits(work.examples.inputs) for ensemble in ensembles])


def _p_values(work: Work, ours: Tensor, plain: Tensor) -> NDArray[np.float64]:
    """Return corrected p-values ``[1 + points]``: of the accuracy, and of the margins of some points."""
    points = np.sort(np.random.default_rng(0).choice(work.examples.n_points, POINTS, replace=False))
    sides = [
        np.column_stack([work.accuracy(logits), margins(logits, work.examples.labels)[:, points]])
        for logits in (ours, plain)
    ]
    return holm(stats.ks_2samp(*sides, axis=0).pvalue)


if __name__ == "__main__":
    print(main())
