"""Ensembles of stacked models, their seeds, and the Lightning module that trains chunks of them."""

from dmm_exp.ensembles.ensemble import Ensemble
from dmm_exp.ensembles.module import EnsembleModule
from dmm_exp.ensembles.optimisation import Optimisation
from dmm_exp.ensembles.seeds import Role, member_generator, member_seed
from dmm_exp.ensembles.subsets import AllBut, Designed, Only, RandomSubsets, Subsets
from dmm_exp.ensembles.training import EnsembleTraining

__all__ = [
    "AllBut",
    "Designed",
    "Ensemble",
    "EnsembleModule",
    "EnsembleTraining",
    "Only",
    "Optimisation",
    "RandomSubsets",
    "Role",
    "Subsets",
    "member_generator",
    "member_seed",
]
