"""scikit-learn's 1,797 handwritten digits (8×8, 17 grey levels), which need no download."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from dmm_exp.data.corruption import LabelCorruption
from dmm_exp.data.examples import Examples, Normalisation, split_by_seed
from dmm_exp.errors import UserError


@dataclass(frozen=True)
class Digits:
    """The digits dataset, split by a seed.

    Attributes:
        validation_fraction: share of all examples kept for validation.
        split_seed: seed of the split; not the run's seed, so that ensembles of several seeds share one dataset.
        corruption: wrong labels to introduce into the training set.
    """

    normalisation: Normalisation
    validation_fraction: float = 0.2
    split_seed: int = 0
    corruption: LabelCorruption = field(default_factory=LabelCorruption)

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"dataset.validation_fraction={self.validation_fraction}: expected a fraction in (0, 1)")

    def load(self) -> Examples:
        """Return the examples: inputs uint8 ``[1797, 1, 8, 8]``."""
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        inputs = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)
        inputs, labels, n_train = split_by_seed(
            inputs,
            torch.from_numpy(digits.target).long(),
            validation_fraction=self.validation_fraction,
            seed=self.split_seed,
        )
        labels, corrupted = self.corruption(labels, n_train, 10)
        return Examples(inputs, labels, n_train, [str(digit) for digit in range(10)], self.normalisation, corrupted)
