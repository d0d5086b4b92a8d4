"""The true mean effect from real retrained models: not unlearning, but the best possible estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dmm_exp.attribution.estimator import Effect, Estimator, Learned, Source
from dmm_exp.attribution.evidence import Evidence


class OracleEffect(Estimator):
    """Mean logits of originals minus mean logits of oracles; metrics compare with other oracles."""

    source: ClassVar[Source] = "oracles"

    def learn(self, evidence: Evidence) -> TrueEffect:
        """Return the difference of mean logits, with the sampling error of a difference of means."""
        if evidence.originals is None or evidence.oracles is None:
            raise TypeError("the true effect needs originals and oracles")
        first, second = evidence.originals, evidence.oracles
        error = (first.var(0) / len(first) + second.var(0) / len(second)).sqrt()
        return TrueEffect(evidence.points_of_groups[0], Effect(first.mean(0) - second.mean(0), error))


@dataclass(frozen=True)
class TrueEffect(Learned):
    """The effect of the examples that oracles were not trained on.

    Attributes:
        rows: sorted indices of these examples.
        measured: their effect.
    """

    rows: Tensor
    measured: Effect

    def effect(self, rows: Tensor) -> Effect:
        """Return the effect. Raises ``ValueError`` for other examples."""
        if not torch.equal(rows, self.rows):
            raise ValueError("oracles tell only the effect of the examples that they were not trained on")
        return self.measured
