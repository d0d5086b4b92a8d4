"""Unlearning for a network of one's own: one deletion, a pool for many, a ledger of those that follow each other."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmm_exp.deletion.drift import Drift, Limits
    from dmm_exp.deletion.ledger import Ledger
    from dmm_exp.deletion.pool import prepare
    from dmm_exp.deletion.training import train
    from dmm_exp.deletion.unlearning import unlearn
    from dmm_exp.records.chain import Receipt
    from dmm_exp.records.pool import Pool
    from dmm_exp.records.result import Cost, Unlearned

__all__ = ["Cost", "Drift", "Ledger", "Limits", "Pool", "Receipt", "Unlearned", "prepare", "train", "unlearn"]

_MODULES = {
    "dmm_exp.deletion.drift": ("Drift", "Limits"),
    "dmm_exp.deletion.ledger": ("Ledger",),
    "dmm_exp.deletion.pool": ("prepare",),
    "dmm_exp.deletion.training": ("train",),
    "dmm_exp.deletion.unlearning": ("unlearn",),
    "dmm_exp.records.chain": ("Receipt",),
    "dmm_exp.records.pool": ("Pool",),
    "dmm_exp.records.result": ("Cost", "Unlearned"),
}


def __getattr__(name: str) -> object:
    """Import what a program asks for, and no sooner: ``import dmm_exp`` alone is quick."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'dmm_exp.deletion' has no attribute '{name}'")
