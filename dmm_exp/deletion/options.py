"""How rows are to be deleted, and what of it does not go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dmm_exp.config.schema import Node, Plain
from dmm_exp.deletion.budget import share_of
from dmm_exp.deletion.exactness import check_exact
from dmm_exp.deletion.given import Given
from dmm_exp.deletion.recipes import Recipe, kind_of
from dmm_exp.ensembles.by_function import by_function
from dmm_exp.ensembles.engine import AUTO
from dmm_exp.errors import UserError, shown
from dmm_exp.records.about import About
from dmm_exp.records.pool import Pool
from dmm_exp.unlearners import Retrain

FEWEST_ORACLES = 3


@dataclass(frozen=True)
class Options:
    """How rows are to be deleted; the attributes are arguments of :func:`dmm_exp.unlearn`.

    ``about`` holds the facts about the request.
    """

    method: str | Plain = "dmm"
    recipe: Recipe | None = None
    pool: Pool | str | Path | bool | None = None
    seed: int = 0
    verify: int = 0
    budget: float | str | None = None
    keep: Sequence[str] = ()
    chunk_size: int | str = AUTO
    about: About = field(default_factory=About)


def check_request(settings: Node, training: Node | None, options: Options, known: Given) -> None:
    """Raise ``UserError`` for what does not go together, before anything is computed or written."""
    kind, is_function = kind_of(settings), training is not None and by_function(training)
    if kind is Retrain and (training is None or is_function):
        raise UserError("method=retrain: needs a recipe of conf/training; expected recipe=, and no function")
    if kind.reference and kind is not Retrain:
        raise UserError(f"method: {kind.__name__} is a reference for experiments; expected a method that unlearns")
    if kind.needs_training is not None:
        raise UserError(f"method: {kind.__name__} {kind.needs_training}; expected another method, such as finetune")
    _check_verify(options.verify, training, known)
    check_chunk_size(options.chunk_size)
    if share_of(options.budget) is not None and (training is None or is_function):
        raise UserError(
            f"budget={options.budget}: a share of a retraining takes a recipe by which its cost is known; expected "
            "seconds"
        )


def check_chunk_size(size: int | str) -> None:
    """Raise ``UserError`` for a number of networks that cannot be trained together."""
    whole = isinstance(size, int) and not isinstance(size, bool) and size >= 1
    if not whole and size != AUTO:
        raise UserError(f"chunk_size={shown(size)}: expected a whole number of at least 1, or '{AUTO}'")


def _check_verify(verify: int, training: Node | None, known: Given) -> None:
    if not isinstance(verify, int) or isinstance(verify, bool) or (verify and verify < FEWEST_ORACLES):
        raise UserError(f"verify={shown(verify)}: expected 0 for none, or a whole number of at least {FEWEST_ORACLES}")
    if verify and training is None:
        raise UserError(f"verify={verify}: networks can only be retrained with a recipe; give recipe=")
    if verify and len(known.examples.labels) == known.examples.n_train:
        raise UserError(f"verify={verify}: retrained networks are compared on unseen points, too; give validation=")


def taken_over(settings: Node, known: Given, keep: Sequence[str]) -> list[str]:
    """Return the names of what a retrained network takes over from the given one, if that is wanted."""
    if isinstance(keep, str) or not all(isinstance(name, str) for name in keep):
        raise UserError(f"keep={shown(keep)}: expected a list of names of tensors or layers")
    if kind_of(settings) is Retrain:
        return check_exact(known, keep)
    if keep:
        raise UserError(f"keep={shown(list(keep))}: is for method=retrain; other methods start from the given network")
    return []
