"""Unlearning for a network of one's own: one deletion, a pool for many, a ledger of those that follow each other."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmm_exp.deletion.drift import Drift, Limits
    from dmm_exp.deletion.ledger import Ledger
    from dmm_exp.deletion.pool import Pool, prepare
    from dmm_exp.deletion.training import train
    from dmm_exp.deletion.unlearning import unlearn
    from dmm_exp.records.chain import Receipt
    from dmm_exp.records.result import Cost, Unlearned

__all__ = ["Cost", "Drift", "Ledger", "Limits", "Pool", "Receipt", "Unlearned", "prepare", "train", "unlearn"]

_MODULES = {
    "Cost": "result",
    "Drift": "drift",
    "Ledger": "ledger",
    "Limits": "drift",
    "Pool": "pool",
    "Receipt": "ledger_files",
    "Unlearned": "result",
    "prepare": "pool",
    "train": "training",
    "unlearn": "unlearning",
}


def __getattr__(name: str) -> object:
    """Import what a program asks for, and no sooner: records are verified without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'dmm_exp.deletion' has no attribute '{name}'")
    return getattr(import_module(f"dmm_exp.deletion.{_MODULES[name]}"), name)
