"""Machine unlearning experiments: datamodel matching, refined forget sets, and the baselines, on one evaluation."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmm_exp.deletion import Ledger, Limits, Pool, Unlearned, prepare, train, unlearn

__version__ = "0.1.0"

__all__ = ["Ledger", "Limits", "Pool", "Unlearned", "prepare", "train", "unlearn"]


def __getattr__(name: str) -> object:
    """Import what a program asks for, and no sooner: ``import dmm_exp`` alone is quick."""
    if name not in __all__:
        raise AttributeError(f"module 'dmm_exp' has no attribute '{name}'")
    return getattr(import_module("dmm_exp.deletion"), name)
