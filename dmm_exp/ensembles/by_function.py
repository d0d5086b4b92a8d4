"""Members trained by a function of the user's own, one after another, in place of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from dmm_exp.config.schema import Plain
from dmm_exp.ensembles.ensemble import Ensemble
from dmm_exp.ensembles.seeds import global_numbers
from dmm_exp.errors import UserError, reason_of

Teacher = Callable[[nn.Module, Tensor, int], nn.Module]
"""From (fresh network, training indices, seed) to the network trained on them."""


def by_function(training: Plain) -> bool:
    """Say whether a training configuration names a registered :data:`Teacher` and no recipe."""
    return "function" in training


def teach(teacher: Teacher, ensemble: Ensemble, subsets: Tensor, seeds: Sequence[int]) -> Ensemble:
    """Return the members that a function trains.

    Random numbers of torch, Python and numpy that the function draws without a generator of its own depend on the
    member's seed alone.

    Args:
        teacher: trains one network; it may change the one it is given, and must return it or one like it.
        ensemble: of fresh members behind the dataset's normalisation.
        subsets: training indices ``[members, size]``.
        seeds: one a member.

    Raises:
        UserError: the function failed, or returned something else than a network of the same architecture.
    """
    taught = []
    for row, seed in enumerate(seeds):
        member = ensemble.member(row)
        network: Any = member.network
        with global_numbers(seed):
            found = _taught(teacher, network.train(), subsets[row], seed)
        if not isinstance(found, nn.Module):
            raise UserError(f"recipe: the function returned {type(found).__name__}; expected the trained nn.Module")
        try:
            network.load_state_dict(found.state_dict())
        except RuntimeError as error:
            raise UserError("recipe: the function returned a network of another architecture") from error
        taught.append(member.cpu())
    return Ensemble.stack(taught)


def _taught(teacher: Teacher, network: nn.Module, rows: Tensor, seed: int) -> Any:
    try:
        return teacher(network, rows, seed)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"recipe: the function raised {reason_of(error)}; expected (model, dataset, seed) -> model, trained"
        ) from error
