"""A pool that is trained once for a network's recipe, and answers every request to delete afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dmm_exp.config.schema import Config, LargerConfig, ModelConfig, Node, plain, training_config
from dmm_exp.console.progress import Console, duration
from dmm_exp.console.words import number
from dmm_exp.deletion.budget import seconds_of
from dmm_exp.deletion.deletion import Deletion, local_executor
from dmm_exp.deletion.given import Given, given
from dmm_exp.deletion.identity import zeros_among
from dmm_exp.deletion.options import check_chunk_size
from dmm_exp.deletion.recipes import Recipe, composed, training_of
from dmm_exp.deletion.rows import Data
from dmm_exp.deletion.timing import seconds_of_training
from dmm_exp.ensembles.by_function import by_function
from dmm_exp.ensembles.engine import AUTO
from dmm_exp.errors import UserError, listed, shown, storage_errors
from dmm_exp.records.files import read_whole
from dmm_exp.records.pool import (
    BEST,
    DESIGNED,
    EMPIRICAL_BAYES,
    FILE,
    PROBED,
    Pool,
    designed_of,
    larger_of,
    originals_of,
)
from dmm_exp.store import Artifact, Store
from dmm_exp.store.lock import Lock
from dmm_exp.store.temporary import sweep

if TYPE_CHECKING:
    from dmm_exp.ensembles.work import Executor

SIZE = 1000  # subset models, by default
FEWEST = 40  # subset models, below which a prediction is worth nothing
ALPHA, LARGER_ALPHA = 0.5, 0.75
ABOUT = 0.95  # share of the training set that models by design see, roughly
ATTACKED = 300  # retain and unseen points each that a membership attack learns from; its cost grows with the square
ONE_BY_ONE = 5  # models of a chunk that a function trains; an interruption costs at most one chunk
ALIKE = 1e-3  # relative difference of the logits of two networks that are the same one


def pool_of(pool: Pool | str | Path | bool | None) -> Pool | None:
    """Return the pool that an argument stands for, None where it stands for none, or for one yet to be prepared (True).

    Raises:
        UserError: it is nothing of the kind, or there is no pool in the folder.
    """
    if pool is None or isinstance(pool, bool):
        return None
    if isinstance(pool, (str, Path)):
        return Pool.open(pool)
    if not isinstance(pool, Pool):
        raise UserError(
            f"pool={shown(pool)}: expected what prepare() returned, its folder, or True for one for this call alone"
        )
    return pool


def deletion_from(
    pool: Pool, known: Given, executor: Executor, console: Console, chunk_size: int | str = AUTO
) -> Deletion:
    """Return what predicts effects on a given network from a pool.

    Raises:
        UserError: the pool is of another network, or of other data.
    """
    if known.network != pool.network:
        raise UserError(f"pool={pool.folder}: was trained for another architecture; expected the same network")
    config = pool_config(known, pool.training, pool.size, pool.seed, pool.attribution, chunk_size)
    found = Deletion(known, True, config, Store(pool.artifacts, console), executor, console, pool.learned)
    if found.context.data.spec.digest != pool.dataset:
        gone = ", and rows that are zeros now to be purged from it, too (ledger.purge())" if known.blank else ""
        raise UserError(f"pool={pool.folder}: was trained on other data; expected the same points{gone}")
    removed = () if found.purged is None else found.purged.rows
    _check_blank(pool, known, removed)
    same = [row for row in range(len(known.examples.inputs[:PROBED])) if row not in removed]
    if not torch.allclose(known.probe()[:, same], torch.tensor(pool.probe)[:, same], rtol=ALIKE, atol=ALIKE):
        raise UserError(
            f"pool={pool.folder}: its networks were initialised otherwise; expected the same network and factory"
        )
    return found


def _check_blank(pool: Pool, known: Given, removed: tuple[int, ...]) -> None:
    """Raise ``UserError`` unless the rows whose inputs are zeros are known of to the pool, and to the ledger."""
    if unknown := set(known.blank) - set(removed):
        raise UserError(
            f"pool={pool.folder}: was prepared when row {min(unknown)} was zeros already; expected a pool of the data "
            "as it was when the network was trained"
        )
    if lost := set(zeros_among(known.examples.inputs, removed)) - set(known.blank):
        raise UserError(
            f"train: row {min(lost)} is all zeros, and was purged from the pool in {pool.folder}; expected its input, "
            "or a ledger that it was deleted by"
        )


def prepare(
    model: nn.Module | str | Path,
    train: Data,
    recipe: Recipe,
    folder: str | Path,
    *,
    size: int = SIZE,
    validation: Data | None = None,
    factory: Callable[[], nn.Module] | None = None,
    prefix: str | None = None,
    budget: float | str | None = None,
    seed: int = 0,
    attribution: str | None = None,
    chunk_size: int | str = AUTO,
    progress: bool = True,
) -> Pool:
    """Train the pool of a network's recipe, once, so that requests to delete are answered in seconds.

    Interrupted, the same call goes on where it stopped; with a larger ``size`` or ``budget`` a finished pool grows.
    Only answers of its models are kept.

    Args:
        model: as in :func:`dmm_exp.unlearn`; only its architecture matters.
        train: as in :func:`dmm_exp.unlearn`.
        recipe: how the network was trained: the name of a file in ``conf/training``, differences from the default one
            as a mapping, or a function ``(model, dataset, seed) -> model`` that trains a fresh network on a part of
            the training set.
        folder: where the pool goes.
        size: subset models, an even number; about three quarters as many models by design (trained without a class, a
            part of one, or rows that are memorized alike) and a tenth as many originals are trained beside them. More
            predict better.
        validation: unseen points; predictions are made for them, too.
        factory: makes an untrained network. By default the layers of ``model`` are initialised again.
        prefix: as in :func:`dmm_exp.unlearn`.
        budget: seconds (``600``), or text with a unit (``"10min"``, ``"2h"``): the size is cut to what fits.
        seed: determines every model.
        attribution: what predicts from the pool: ``"best"``, or ``"empirical_bayes"`` for a smaller pool without models
            by design, which knows less of groups of rows. By default that of the pool that is in the folder, ``"best"``
            for a new one.
        chunk_size: how many networks are trained together; ``"auto"`` measures what is fastest. A recipe that is a
            function trains them one after another, and so many between two savings. It changes no result.
        progress: whether to show on standard error how far it is.

    Raises:
        UserError: something does not fit, the memory does not suffice for what is learnt from the pool, or the budget
            is too small for any pool.

    >>> from tempfile import mkdtemp
    >>> import torch
    >>> from dmm_exp import prepare
    >>> x, y = torch.randn(40, 3), torch.arange(40) % 2
    >>> net = torch.nn.Linear(3, 2)
    >>> pool = prepare(net, (x, y), {"epochs": 1}, mkdtemp(), size=40, progress=False)
    >>> pool.models
    80
    """
    known = given(model, train, validation, factory, prefix)
    console = Console(quiet=not progress)
    for sentence in known.examples.taken:
        console.note(sentence)
    training, executor = training_of(recipe, known), local_executor(known)
    options: dict[str, Any] = {"size": size, "budget": budget, "seed": seed}
    options |= {"attribution": attribution, "chunk_size": chunk_size}
    return prepare_given(known, training, Path(folder), executor, console, **options)


@storage_errors()
def prepare_given(
    known: Given,
    training: Node,
    folder: Path,
    executor: Executor,
    console: Console,
    *,
    size: int = SIZE,
    budget: float | str | None = None,
    seed: int,
    attribution: str | None = None,
    chunk_size: int | str = AUTO,
) -> Pool:
    """Prepare a pool as :func:`prepare` does, for a network and data that were checked."""
    _check(size, seed, attribution)
    check_chunk_size(chunk_size)
    sweep()
    limit, folder = seconds_of(budget, "budget"), folder.expanduser()

    def deletion(members: int) -> Deletion:
        config = pool_config(known, training, members, seed, wanted, chunk_size)
        return Deletion(known, True, config, Store(folder / "artifacts", console), executor, console)

    waiting = "waiting for {}, which is preparing this pool"
    with Lock(folder / ".lock", lambda holder: console.note(waiting.format(holder))), torch.random.fork_rng(devices=[]):
        begun, wanted = time.monotonic(), attribution or _attribution_of(folder)
        smallest = deletion(FEWEST)
        before = _before(folder, (known.network, dict(training), smallest.context.data.spec.digest, seed, wanted))
        if smallest.purged is not None:
            return _as_purged(folder, before, size)
        if limit is not None:
            size = _fitting(smallest.models.pool, size, limit - (time.monotonic() - begun), wanted)
        whole = deletion(size if before is None else max(size, before.size))
        _check_memory(whole)
        pool = _trained(folder, whole, before, begun)
    unseen = whole.examples.n_points > whole.examples.n_train
    on = "" if pool is before else f" on {'unseen' if unseen else 'training'} points"  # earlier versions: on both
    console.note(
        f"pool of {pool.models:,} models, {duration(pool.seconds)}; one retraining {duration(pool.retraining)}; "
        f"LDS{on} {number(pool.lds)}"
    )
    if pool.is_poor:
        console.warn(f"the pool is poor: {pool.quality}")
    return pool


def _as_purged(folder: Path, before: Pool | None, size: int) -> Pool:
    """Return a pool that rows were purged from, which stays as it is.

    Raises:
        UserError: it would have to be trained further.
    """
    if before is None or before.size < size:
        state = "its pool.json is missing or damaged" if before is None else f"it has {before.size} subset models"
        raise UserError(
            f"folder={folder}: rows were purged from this pool, so it trains no more networks, and {state}; expected "
            f"{'another folder' if before is None else f'size={before.size}, or another folder'}"
        )
    return before


def _check_memory(deletion: Deletion) -> None:
    """Raise ``UserError`` if what is learnt from a pool does not fit into memory, before it is trained."""
    try:
        deletion.effects.check()
    except UserError as error:
        raise UserError(
            f'{error} (here: a smaller size= than {deletion.config.pool.size}, or attribution="{EMPIRICAL_BAYES}")'
        ) from error


def _attribution_of(folder: Path) -> str:
    """Return what predicts from the pool of a folder, or would from one that is not there yet."""
    try:
        return Pool.open(folder).attribution
    except UserError:
        return BEST


def _check(size: Any, seed: Any, attribution: Any) -> None:
    """Raise ``UserError`` for a size, a seed or an attribution that cannot be."""
    if attribution not in (None, BEST, EMPIRICAL_BAYES):
        raise UserError(f"attribution={shown(attribution)}: expected {listed((BEST, EMPIRICAL_BAYES))}")
    if not isinstance(size, int) or size < FEWEST or size % 2:
        raise UserError(f"size={shown(size)}: expected an even number of at least {FEWEST}")
    check_seed(seed)


def check_seed(seed: Any) -> None:
    """Raise ``UserError`` for a seed that cannot be."""
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UserError(f"seed={shown(seed)}: expected a whole number of at least 0")


def _trained(folder: Path, deletion: Deletion, before: Pool | None, begun: float) -> Pool:
    """Train the models of a pool, learn from them what requests need, and write ``pool.json``.

    Args:
        folder: of the pool.
        deletion: the pipeline.
        before: the finished pool that is there already, perhaps a smaller one.
        begun: when the work on this one began, by the monotonic clock.
    """
    models = deletion.models
    beside = [models.designed(name) for name in models.design_names] or [models.larger]
    ensembles = (models.pool, *beside, models.originals)
    if before is not None and before.size == models.pool.members and all(ensemble.cached for ensemble in ensembles):
        return before
    lds = deletion.lds()
    deletion.full_answers()  # are kept, for the networks that requests come with
    seconds = time.monotonic() - begun + (0.0 if before is None else before.seconds)
    pool = Pool(
        folder,
        size=models.pool.members,
        training=plain(deletion.config.training),
        network=deletion.given.network,
        dataset=deletion.context.data.spec.digest,
        probe=deletion.given.probe().tolist(),
        seed=deletion.config.seed,
        seconds=seconds,
        retraining=seconds_of_training(deletion),
        models=sum(ensemble.members for ensemble in ensembles),
        lds=lds,
        attribution=BEST if models.design_names else EMPIRICAL_BAYES,
    )
    pool.write()
    return pool


def pool_config(
    known: Given, training: Node, size: int, seed: int, attribution: str = BEST, chunk_size: int | str = AUTO
) -> Config:
    """Return the configuration of an experiment with this pool."""
    together = ONE_BY_ONE if by_function(training) and chunk_size == AUTO else chunk_size
    by_design = attribution == BEST
    config = composed([f"attribution={attribution}", f"pool={'groups' if by_design else 'halves'}", "logger=none"])
    members = designed_of(size, known.trained_classes)
    designs = {name: {**node, "members": members[name]} for name, node in (config.pool.designs or {}).items()}
    pool = replace(
        config.pool,
        size=size,
        alpha=ALPHA,
        complementary=True,
        held_out=max(2, size // 20 // 2 * 2),
        larger=LargerConfig(0 if by_design else larger_of(size), LARGER_ALPHA),
        designs=designs or None,
    )
    return replace(
        config,
        seed=seed,
        n_models=originals_of(size),
        training=training_config(training),
        evaluation=replace(config.evaluation, mia={**config.evaluation.mia, "largest": ATTACKED}),
        model=ModelConfig(together, known.network),
        pool=pool,
        forget={"_target_": "dmm_exp.forget.Points", "points": [0]},
    )


def _fitting(pilot: Artifact, wanted: int, seconds: float, attribution: str) -> int:
    """Return how many subset models, with the other models that belong to them, fit into some seconds.

    Raises:
        UserError: not even the fewest do.
    """
    each = sum(facts["seconds"] for facts in pilot.shard_facts()) / pilot.members
    beside = ABOUT * sum(DESIGNED.values()) / 1300 if attribution == BEST else LARGER_ALPHA / 4
    rest = (beside + 1 / 10) / ALPHA  # of the others, in models on halves for each of these
    fitting = int(seconds / each + pilot.members) // (1 + rest)
    if fitting < FEWEST:
        least = (1 + rest) * FEWEST * each
        raise UserError(
            f"budget: the smallest pool takes about {duration(least)} on this machine; expected at least that"
        )
    return min(wanted, int(fitting) // 2 * 2)


def _before(folder: Path, wanted: tuple[Any, ...]) -> Pool | None:
    """Return the finished pool of a folder, None if there is none, or its file is damaged.

    Args:
        folder: of the pool.
        wanted: network, recipe, data, seed and attribution, which it must have been made for.

    Raises:
        UserError: what is there is something else.
    """
    try:
        read_whole(folder / FILE)
    except (OSError, ValueError):
        return None
    pool = Pool.open(folder)
    if (pool.network, pool.training, pool.dataset, pool.seed) != wanted[:-1]:
        raise UserError(
            f"folder={folder}: holds the pool of another network or recipe, of other data or another seed; expected "
            "another folder"
        )
    if pool.attribution != wanted[-1]:
        raise UserError(
            f"attribution={wanted[-1]}: {folder} holds a pool for {pool.attribution}; expected that, or another one"
        )
    return pool
