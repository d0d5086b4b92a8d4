"""Speed of the linear datamodeling score of an attribution against dattri's, from the same scores and subsets."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.timing import TABLE_HEAD, compare
from dmm_exp.metrics import lds

MEMBERS, EXAMPLES, POINTS = 100, 5_000, 500


def main() -> str:
    """Return the section of ``results.md``."""
    try:
        from dattri.metric import lds as reference
    except ImportError:
        return "Not measured: dattri is not installed here (`pip install dmm_exp[dattri]`)."
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(EXAMPLES, POINTS, generator=generator)
    inside = torch.stack([torch.randperm(EXAMPLES, generator=generator)[: EXAMPLES // 2] for _ in range(MEMBERS)])
    masks = torch.zeros(MEMBERS, EXAMPLES).scatter_(1, inside, 1.0)
    predicted = masks @ scores
    actual = predicted + predicted.std() * torch.randn(predicted.shape, generator=generator)

    def ours() -> NDArray[np.float64]:
        return lds((masks @ scores).numpy(), actual.numpy())

    measured = partial(compare, ours=ours, same=_same)
    theirs = measured("dattri's lds", lambda: reference(scores, (actual, inside))[0], limit=50)
    product = compare("the matrix product in it (the limit)", lambda: masks @ scores, ours, lambda *_: True)
    return "\n".join(
        [
            f"One thread, processor seconds: {MEMBERS} held-out models, scores of {EXAMPLES:,} training examples for "
            f"{POINTS} points; dattri {version('dattri')}. Sums over subsets and rank correlations, from scores to one "
            "number a point.",
            "",
            TABLE_HEAD,
            theirs.row,
            product.row,
        ]
    )


def _same(expected: Tensor, found: NDArray[np.float64]) -> bool:
    """Sums over subsets differ by rounding, which may exchange two neighbouring ranks."""
    return bool(np.allclose(expected.numpy(), found, atol=1e-3))


if __name__ == "__main__":
    print(main())
