"""The cost of unlearning compared with retraining, in sample-gradient evaluations."""

from __future__ import annotations

import math

from dmm_exp.errors import UserError


def retraining_cost(epochs: float, n_retain: int) -> float:
    """Return the sample-gradient evaluations of training one oracle: ``epochs`` passes over the retain set.

    Raises:
        UserError: when either is negative or not finite.
    """
    return _amount("epochs", epochs) * _amount("n_retain", n_retain)


def cost_ratio(unlearning: float, retraining: float) -> float:
    """Return the cost of unlearning one model as a share of one retraining: 1 for retraining, 0 for doing nothing.

    Both are sample-gradient evaluations. What a method shares between requests is another amount, which may be given as
    ``unlearning`` to have it in retrainings.

    Raises:
        UserError: when ``unlearning`` is negative, ``retraining`` is not above 0, or either is not finite.
    """
    if not retraining > 0:
        raise UserError(f"retraining is {retraining}; expected a number of sample-gradient evaluations above 0.")
    return _amount("unlearning", unlearning) / _amount("retraining", retraining)


def _amount(name: str, value: float) -> float:
    """Return ``value`` as a float that is finite and not negative."""
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{name} is {value}; expected a finite number, 0 or above.")
    return float(value)
