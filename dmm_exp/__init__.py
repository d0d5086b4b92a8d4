"""Machine unlearning experiments: datamodel matching, refined forget sets, and the baselines, on one evaluation."""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmm_exp.deletion import Ledger, Limits, Pool, Unlearned, prepare, train, unlearn

# Read by PyTorch when it is imported: threads that wait for one another sleep. By default they spin, and where other
# processes use the cores too, an operation on several threads takes twenty times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

__all__ = ["Ledger", "Limits", "Pool", "Unlearned", "prepare", "train", "unlearn"]


def __getattr__(name: str) -> object:
    """Import what a program asks for, and no sooner: ``import dmm_exp`` alone is quick."""
    if name not in __all__:
        raise AttributeError(f"module 'dmm_exp' has no attribute '{name}'")
    return getattr(import_module("dmm_exp.deletion"), name)
