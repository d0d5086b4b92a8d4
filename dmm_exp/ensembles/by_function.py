"""Training by a user's own function, one member after another, instead of by a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from dmm_exp.config.schema import Plain
from dmm_exp.ensembles.ensemble import Ensemble
from dmm_exp.ensembles.seeds import global_numbers
from dmm_exp.errors import UserError, reason_of

TrainFunction = Callable[[nn.Module, Tensor, int], nn.Module]
"""A function from (fresh network, training indices, seed) to the trained network."""


def by_function(training: Plain) -> bool:
    """Return whether a training configuration names a registered :data:`TrainFunction` instead of a recipe."""
    return "function" in training


def train_by_function(train: TrainFunction, ensemble: Ensemble, subsets: Tensor, seeds: Sequence[int]) -> Ensemble:
    """Train every member by a function, and return the trained members.

    The global random numbers of torch, Python and numpy are seeded for each member, so that the result depends on the
    member's seed alone.

    Args:
        train: trains one network; it may change the given network, and returns it or one of the same architecture.
        ensemble: of fresh members behind the dataset's normalisation.
        subsets: training indices ``[members, size]``.
        seeds: one for each member.

    Raises:
        UserError: the function failed, or did not return a network of the same architecture.
    """
    trained = []
    for row, seed in enumerate(seeds):
        member = ensemble.member(row)
        network: Any = member.network
        with global_numbers(seed):
            found = _trained(train, network.train(), subsets[row], seed)
        if not isinstance(found, nn.Module):
            raise UserError(f"recipe: the function returned {type(found).__name__}; expected the trained nn.Module")
        try:
            network.load_state_dict(found.state_dict())
        except RuntimeError as error:
            raise UserError("recipe: the function returned a network of another architecture") from error
        trained.append(member.cpu())
    return Ensemble.stack(trained)


def _trained(train: TrainFunction, network: nn.Module, rows: Tensor, seed: int) -> Any:
    try:
        return train(network, rows, seed)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"recipe: the function raised {reason_of(error)}; expected (model, dataset, seed) -> model, trained"
        ) from error
