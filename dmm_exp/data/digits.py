"""scikit-learn's 1,797 handwritten digits (8×8, 17 grey levels), which need no download."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from dmm_exp.data.corruption import Corruption, LabelCorruption
from dmm_exp.data.examples import Examples, Normalisation
from dmm_exp.errors import UserError


@dataclass(frozen=True)
class Digits:
    """The digits dataset, split by a seed.

    Attributes:
        validation_fraction: share of all examples kept for validation.
        split_seed: seed of the split; not the run's seed, so that ensembles of several seeds share one dataset.
        corruption: what to introduce on purpose: wrong labels, or a class of its own.
    """

    normalisation: Normalisation
    validation_fraction: float = 0.2
    split_seed: int = 0
    corruption: Corruption = field(default_factory=LabelCorruption)

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"dataset.validation_fraction={self.validation_fraction}: expected a fraction in (0, 1)")

    def load(self) -> Examples:
        """Return the examples: inputs uint8 ``[1797, 1, 8, 8]``."""
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        inputs, labels = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1), torch.from_numpy(digits.target)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(self.split_seed))
        inputs, labels = inputs[order], labels.long()[order]
        n_train = len(labels) - round(self.validation_fraction * len(labels))
        names, clean = [str(digit) for digit in range(10)], torch.zeros(len(labels), dtype=torch.bool)
        return self.corruption.applied(Examples(inputs, labels, n_train, names, self.normalisation, clean))
