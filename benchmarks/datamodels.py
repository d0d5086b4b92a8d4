"""Speed of the ridge datamodel against scikit-learn, an output at a time, and against the matrix products in it."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.timing import TABLE_HEAD, compare
from dmm_exp.attribution import Datamodel, Evidence, SubsetModels
from dmm_exp.attribution.datamodel import RidgeEffects

MEMBERS, N_TRAIN, POINTS, CLASSES = 1_000, 50_000, 200, 10
FORGET, HELPFUL = 100, 500  # examples that are predicted for, and that outputs depend on
REFITTED = 2  # outputs that scikit-learn is timed on
PRODUCTS_LIMIT = 1.5


def main() -> str:
    """Return the section of ``results.md``."""
    torch.set_num_threads(1)
    pool = _pool()
    groups = torch.arange(3).repeat_interleave(torch.tensor([POINTS // 4, POINTS // 4, POINTS // 2]))
    directions = torch.zeros(1 + FORGET, N_TRAIN)  # the forget set, then each of its examples: their coefficients
    directions[0, :FORGET] = 1
    directions[1:, :FORGET] = torch.eye(FORGET)
    estimator, evidence = Datamodel(), Evidence(groups, N_TRAIN, pool=pool)

    def ours() -> Tensor:
        return estimator.learn(evidence).predict(directions).flatten(1)

    learned = estimator.learn(evidence)
    reference = partial(_one_at_a_time, pool.masks.numpy().astype(np.float32), pool.logits.flatten(1).numpy())
    speeds = [
        compare(
            "scikit-learn's Ridge, an output at a time, its λ given",
            lambda: reference(learned.penalty[0]),
            ours,
            _close,
            share=REFITTED / (POINTS * CLASSES),
            pairs=3,
        ),
        compare(
            "the matrix products in it (the limit)",
            partial(_products, estimator, learned, pool.centred(slice(None)), torch.randn(MEMBERS, 1 + FORGET)),
            ours,
            lambda *_: True,
            pairs=5,
            limit=1 / PRODUCTS_LIMIT,
        ),
    ]
    return "\n".join(
        [
            f"One thread, processor seconds. M = {MEMBERS:,} masks, n = {N_TRAIN:,}, {POINTS * CLASSES:,} outputs in "
            f"three groups; ours chooses λ of each group among {len(estimator.penalties)} by leave-one-out error, and "
            f"predicts for a forget set of {FORGET} and for each of its examples. scikit-learn is timed on {REFITTED} "
            "outputs and scaled; coefficients and predictions agree to 1e-3 of the largest.",
            "",
            TABLE_HEAD,
            *(speed.row for speed in speeds),
            "",
            f"Ours takes {1 / speeds[1].ratio:.2f} times what its matrix products take (wanted: at most "
            f"{PRODUCTS_LIMIT:g}). These are: masks by masks, left singular vectors by a sample of the outputs for "
            "each λ, and members' weights by outputs. Centring, the eigendecomposition and the small systems of "
            "leaving out come on top.",
        ]
    )


def _pool() -> SubsetModels:
    """Draw masks, and logits that depend on some examples, with noise."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(MEMBERS, N_TRAIN, generator=generator) < 0.5
    coefficients = torch.randn(HELPFUL, POINTS * CLASSES, generator=generator) / HELPFUL**0.5
    logits = masks[:, :HELPFUL].float() @ coefficients
    logits += 0.5 * torch.randn(logits.shape, generator=generator)
    return SubsetModels(masks, logits.view(MEMBERS, POINTS, CLASSES))


def _one_at_a_time(masks: NDArray, outputs: NDArray, penalty: float) -> NDArray[np.float32]:
    """Return the coefficients ``[outputs, examples]`` of the first outputs, each from a fit of its own."""
    from sklearn.linear_model import Ridge

    return np.stack([Ridge(alpha=penalty).fit(masks, outputs[:, number]).coef_[:FORGET] for number in range(REFITTED)])


def _close(coefficients: NDArray, predicted: Tensor) -> bool:
    expected = np.concatenate([coefficients.sum(1)[None], coefficients.T])
    found = predicted[:, :REFITTED].numpy()
    apart = np.abs(found - expected)
    return bool(apart[0].max() <= 1e-3 * np.abs(expected[0]).max() and apart.max() <= 1e-3 * np.abs(expected[1:]).max())


def _products(estimator: Datamodel, learned: RidgeEffects, centred: Tensor, forgotten: Tensor) -> None:
    """Do the matrix products of a fit and a prediction, and nothing else; ``forgotten`` are columns of masks."""
    ridge = learned.ridge
    centred @ centred.T
    for where in learned.points.values():
        outputs = ridge.logits.at(where).flatten(1)
        sample = outputs[:, : estimator.tuning_outputs].contiguous()
        projected = ridge.left.T @ sample
        for _ in estimator.penalties:
            ridge.left @ projected
        weights = forgotten[:, : 1 + FORGET].T @ ridge.left @ ridge.left.T
        weights @ outputs


if __name__ == "__main__":
    print(main())
