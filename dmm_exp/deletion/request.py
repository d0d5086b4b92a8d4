"""A request: what deletes rows from a given network as the options say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dmm_exp.config.schema import Node, plain
from dmm_exp.console.progress import Console, duration
from dmm_exp.deletion.belonging import check_answers
from dmm_exp.deletion.deletion import Deletion, pool_free_attribution
from dmm_exp.deletion.execution import Execution
from dmm_exp.deletion.given import Given
from dmm_exp.deletion.options import Options, check_request, taken_over
from dmm_exp.deletion.pool import ONE_BY_ONE, SIZE, deletion_from, pool_config, pool_of, prepare_given
from dmm_exp.deletion.recipes import Recipe, composed, method_of, predicts, training_of
from dmm_exp.deletion.timing import seconds_of_training
from dmm_exp.ensembles.by_function import by_function
from dmm_exp.errors import UserError, storage_errors
from dmm_exp.records.pool import Pool, models_of
from dmm_exp.store import Store
from dmm_exp.store.temporary import temporary_folder

if TYPE_CHECKING:
    from dmm_exp.ensembles.work import Executor

WITHOUT_POOL = (
    "effects were predicted from gradients of the given network alone, which predicts worse than a pool "
    "(docs/unlearn_your_model.md)"
)


@contextmanager
def request(known: Given, options: Options, executor: Executor, console: Console) -> Iterator[Execution]:
    """Give what deletes rows from a given network.

    Raises:
        UserError: the options do not go together.
    """
    settings, pool = method_of(options.method), pool_of(options.pool)
    training = _training(options.recipe, pool, known)
    check_request(settings, training, options, known)
    if options.pool is True and training is None and predicts(settings):
        raise UserError("pool=True: a pool is trained by a recipe; give recipe=")
    kept = taken_over(settings, known, options.keep)
    if pool is None:  # a pool may hold these answers already; the request checks them, then
        check_answers(known.answers, known.examples, known.blank)
    own_numbers = torch.random.fork_rng(devices=[])  # what is drawn here leaves the program's own random numbers alone
    with storage_errors(), own_numbers, temporary_folder() as folder:
        if predicts(settings) and options.pool is True:
            assert training is not None
            pool = _for_this_call(known, training, folder, executor, console, options)
        if pool is not None and predicts(settings):
            deletion = deletion_from(pool, known, executor, console, options.chunk_size)
        else:
            deletion = _alone(known, training, folder, options, executor, console)
        _check_pipeline(deletion, options)
        retraining = _seconds_of_retraining(deletion, training, pool)
        found = Execution(deletion, settings, options, pool, training is not None, retraining, kept)
        found.warnings += _about_predictions(found)
        yield found


def _check_pipeline(deletion: Deletion, options: Options) -> None:
    """Raise ``UserError`` for what the pool or the network cannot do."""
    if options.verify and deletion.purged is not None:
        raise UserError(
            f"verify={options.verify}: the pool in {deletion.context.store.root.parent} was purged and trains no "
            "networks to compare with; expected 0, or another pool"
        )
    deletion.check_steps()


def _training(recipe: Recipe | None, pool: Pool | None, known: Given) -> Node | None:
    """Return the training configuration, which a pool knows, too."""
    training = None if recipe is None else training_of(recipe, known)
    if pool is None or training == pool.training:
        return training
    if training is not None:
        raise UserError(f"recipe: the pool in {pool.folder} was trained by another one; expected the same")
    return dict(pool.training)


def _for_this_call(
    known: Given, training: Node, folder: Path, executor: Executor, console: Console, options: Options
) -> Pool:
    """Return a pool that is prepared for one request, after saying how large it is."""
    console.note(f"preparing a pool of {_models(known):,} networks for this call alone; prepare() keeps one")
    more: dict[str, Any] = {"size": SIZE, "seed": options.seed, "chunk_size": options.chunk_size}
    return prepare_given(known, training, folder, executor, console, **more)


def _models(known: Given) -> int:
    """Return how many networks a pool has by default."""
    return models_of(SIZE, known.trained_classes)


def _alone(
    known: Given, training: Node | None, folder: Path, options: Options, executor: Executor, console: Console
) -> Deletion:
    """Return what predicts effects from the given network alone."""
    recipe = training or plain(composed([]).training)
    config = pool_config(known, recipe, SIZE, options.seed, chunk_size=options.chunk_size)
    model = replace(config.model, chunk_size=ONE_BY_ONE) if training is None else config.model
    config = replace(config, attribution=pool_free_attribution(known), n_models=1, model=model)
    return Deletion(known, False, config, Store(folder / "artifacts", console), executor, console)


def _seconds_of_retraining(deletion: Deletion, training: Node | None, pool: Pool | None) -> float | None:
    """Return how long one retraining takes, None where that is not known without carrying one out."""
    if training is None:
        return None
    if pool is not None:
        return pool.retraining
    return None if by_function(training) else seconds_of_training(deletion)


def _about_predictions(execution: Execution) -> list[str]:
    """Return warnings about the source of predictions."""
    pool = execution.options.pool
    if not execution.predicts or (execution.pool is not None and pool is not True):
        return []
    if pool is True:
        return ["the pool was prepared for this call alone; dmm_exp.prepare() keeps one for further requests"]
    execution.deletion.effects.estimator.check(execution.deletion.given.build())
    if execution.retraining is None:
        return [f"{WITHOUT_POOL}; give pool=, what prepare() returned"]
    models, seconds = _models(execution.deletion.given), execution.retraining
    alternatives = (
        f'retraining this network takes about {duration(seconds)} and is exact (method="retrain"); a pool of '
        f"{models:,} networks (prepare(), or pool=True) takes at most about {duration(models * seconds)}"
    )
    execution.deletion.console.note(alternatives)
    return [f"{WITHOUT_POOL}; {alternatives}"]
