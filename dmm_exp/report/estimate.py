"""A mean over repetitions, with how sure one can be of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dmm_exp.report.tables import number


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; the half-width of its 95 % interval is NaN for a single seed, both are for none."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: np.ndarray) -> Estimate:
        """Estimate from one value a seed, with Student's t; NaN values are left out."""
        known = values[np.isfinite(values)]
        if len(known) < 2:
            return cls(float(known.mean()) if len(known) else math.nan, math.nan)
        from scipy.special import stdtrit

        spread = float(known.std(ddof=1)) / math.sqrt(len(known))
        return cls(float(known.mean()), float(stdtrit(len(known) - 1, 0.975)) * spread)

    def __str__(self) -> str:
        """Say both, as in ``0.912 ± 0.008``."""
        return number(self.mean, ".3f") + (f" ± {self.half:.3f}" if math.isfinite(self.half) else "")
