"""Ensembles of stacked models, their seeds, and the Lightning module that trains chunks of them."""

from importlib import import_module
from typing import TYPE_CHECKING

from dmm_exp.ensembles.ensemble import Ensemble
from dmm_exp.ensembles.optimisation import Optimisation
from dmm_exp.ensembles.seeds import Role, member_generator, member_seed
from dmm_exp.ensembles.subsets import AllBut, Designed, Only, RandomSubsets, Subsets

if TYPE_CHECKING:
    from dmm_exp.ensembles.module import EnsembleModule
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

_MODULES = {"EnsembleModule": "module", "EnsembleTraining": "training"}  # they need Lightning, which takes seconds


def __getattr__(name: str) -> object:
    """Import a Lightning module when it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module 'dmm_exp.ensembles' has no attribute '{name}'")
    return getattr(import_module(f"dmm_exp.ensembles.{_MODULES[name]}"), name)
