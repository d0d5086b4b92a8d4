"""The true mean effect, from real retrained models: not unlearning, but the ceiling of every estimator."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from dmm_exp.attribution.estimator import Estimator, Evidence, Source


class OracleEffect(Estimator):
    """Mean logits of originals minus mean logits of oracles (of the role that scoring never sees)."""

    source: ClassVar[Source] = "oracles"

    def estimate(self, evidence: Evidence, forget: Tensor) -> Tensor:
        """Return the difference of mean logits, ``[points, classes]``."""
        if evidence.originals is None or evidence.oracles is None:
            raise TypeError("the true effect needs originals and oracles")
        first, second = evidence.originals, evidence.oracles
        self._variance = first.var(0) / len(first) + second.var(0) / len(second)
        return evidence.originals.mean(0) - evidence.oracles.mean(0)

    def standard_error(self, forget: Tensor) -> Tensor:
        """Return the sampling error of a difference of means."""
        return self._variance.sqrt()
