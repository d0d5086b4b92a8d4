"""Unlearning for a network of one's own: one deletion, a pool for many, a ledger of those that follow each other."""

from dmm_exp.deletion.ledger import Drift, Ledger, Limits
from dmm_exp.deletion.pool import Pool, prepare
from dmm_exp.deletion.result import Cost, Unlearned
from dmm_exp.deletion.training import train
from dmm_exp.deletion.unlearning import unlearn

__all__ = ["Cost", "Drift", "Ledger", "Limits", "Pool", "Unlearned", "prepare", "train", "unlearn"]
