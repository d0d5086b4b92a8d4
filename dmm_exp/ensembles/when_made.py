"""The Lightning module of training, for code that makes one: it is imported then, and not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmm_exp.config.later import Later

if TYPE_CHECKING:
    from dmm_exp.ensembles.training import EnsembleTraining
else:
    EnsembleTraining = Later("dmm_exp.ensembles.training:EnsembleTraining")

__all__ = ["EnsembleTraining"]
