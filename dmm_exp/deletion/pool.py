"""A pool that is trained once for a network's recipe, and answers every request to delete afterwards."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dmm_exp.config.schema import Config, LargerConfig, ModelConfig, Node, plain, training_config
from dmm_exp.console.progress import Console, duration
from dmm_exp.console.words import number
from dmm_exp.deletion.budget import seconds_of
from dmm_exp.deletion.deletion import Deletion, here
from dmm_exp.deletion.given import PROBED, Given, given
from dmm_exp.deletion.identity import zeros_among
from dmm_exp.deletion.recipes import Recipe, composed, training_of
from dmm_exp.deletion.rows import Data
from dmm_exp.deletion.timing import break_even_in_words, requests_to_break_even, seconds_of_training
from dmm_exp.ensembles.by_function import by_function
from dmm_exp.ensembles.engine import AUTO
from dmm_exp.errors import UserError, shown, storage_errors
from dmm_exp.files.reading import read_json
from dmm_exp.files.writing import write_json
from dmm_exp.pipeline import LastLearned
from dmm_exp.store import Artifact, Store
from dmm_exp.store.lock import Lock
from dmm_exp.store.spec import SHORT
from dmm_exp.store.store import SEAL, is_intact, sealed
from dmm_exp.store.temporary import sweep

if TYPE_CHECKING:
    from dmm_exp.ensembles.work import Executor

FILE = "pool.json"
FORMAT = 1
SIZE = 1000  # subset models, by default
FEWEST = 40  # subset models, below which a prediction is worth nothing
ALPHA, LARGER_ALPHA = 0.5, 0.75
ATTACKED = 300  # retain and unseen points each that a membership attack learns from; its cost grows with the square
ONE_BY_ONE = 5  # models of a chunk that a function trains; an interruption costs at most one chunk
ALIKE = 1e-3  # relative difference of the logits of two networks that are the same one


@dataclass(frozen=True)
class Pool:
    """A finished pool: subset models, larger ones, and originals, all trained by one recipe.

    Attributes:
        folder: where it is.
        size: models trained on random halves; beside them there are a quarter as many on three quarters, and a tenth as
            many on everything.
        training: configuration of the recipe.
        network: name of the architecture.
        dataset: digest of the data.
        probe: logits of the network that seed 0 initialises, on a few examples.
        seed: determines every model.
        seconds: wall time of the call that finished it, and of those that finished smaller ones before.
        retraining: wall seconds of training one network alone, on everything, by a plain loop.
        models: number of all its models.
        lds: linear datamodeling score on members that took no part in estimation: 1 where their answers are predicted
            in their order, 0 where nothing is; None where they all answer alike.
        learned: what was learnt from it last, which requests to this object share; no file holds it.
    """

    folder: Path
    size: int
    training: Node
    network: Node
    dataset: str
    probe: list[Any]
    seed: int
    seconds: float
    retraining: float
    models: int
    lds: float | None
    learned: LastLearned = field(default_factory=LastLearned, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, folder: str | Path) -> Pool:
        """Return the pool in a folder that :func:`dmm_exp.prepare` has finished.

        Raises:
            UserError: there is none.
        """
        path = Path(folder).expanduser() / FILE
        if not os.path.isfile(path):
            raise UserError(f"pool={shown(folder)}: holds no finished pool; expected a folder of prepare()")
        facts = _read(path)
        if facts is None:
            raise UserError(f"pool={folder}: {FILE} is damaged; prepare() mends it")
        if facts.pop("format") != FORMAT:
            raise UserError(f"pool={folder}: is of another version of this package; expected another folder")
        return cls(path.parent, **facts)

    def break_even(self, request: float) -> int | None:
        """Return after how many requests, of so many seconds each, the pool took less time than retraining.

        None where a request takes more than half of a retraining: then retraining is the better way.

        >>> pool = Pool(Path("pool"), 400, {}, {}, "", [], seed=0, seconds=900.0, retraining=100.0, models=540, lds=0.5)
        >>> pool.break_even(request=10.0)
        10
        """
        return requests_to_break_even(self.seconds, self.retraining, request)

    def in_words(self, request: float) -> str:
        """Say in a sentence whether the pool pays off, if requests take so many seconds."""
        return break_even_in_words(self.seconds, self.retraining, request)

    def unseen(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the (inputs, labels) that the pool's models have answers for beside the training set, None if none."""
        from dmm_exp.ensembles.work import read_examples

        examples = read_examples(self.folder / "artifacts" / "dataset" / self.dataset[:SHORT])
        unseen = examples.inputs[examples.n_train :], examples.labels[examples.n_train :]
        return unseen if len(unseen[1]) else None

    def deletion(self, known: Given, executor: Executor, console: Console) -> Deletion:
        """Return what predicts effects on a given network from this pool.

        Raises:
            UserError: the pool is of another network, or of other data.
        """
        if known.network != self.network:
            raise UserError(f"pool={self.folder}: was trained for another architecture; expected the same network")
        store = Store(self.folder / "artifacts", console)
        config = pool_config(known, self.training, self.size, self.seed)
        found = Deletion(known, True, config, store, executor, console, self.learned)
        if found.context.data.spec.digest != self.dataset:
            gone = ", and rows that are zeros now to be purged from it, too (ledger.purge())" if known.blank else ""
            raise UserError(f"pool={self.folder}: was trained on other data; expected the same points{gone}")
        removed = () if found.purged is None else found.purged.rows
        if unknown := set(known.blank) - set(removed):
            raise UserError(
                f"pool={self.folder}: was prepared when row {min(unknown)} was zeros already; expected a pool of the "
                "data as it was when the network was trained"
            )
        lost = set(zeros_among(known.examples.inputs, removed)) - set(known.blank)
        if lost:
            raise UserError(
                f"train: row {min(lost)} is all zeros, and was purged from the pool in {self.folder}; expected its "
                "input, or a ledger that it was deleted by"
            )
        same = [row for row in range(len(known.examples.inputs[:PROBED])) if row not in removed]
        if not torch.allclose(known.probe()[:, same], torch.tensor(self.probe)[:, same], rtol=ALIKE, atol=ALIKE):
            raise UserError(
                f"pool={self.folder}: its networks were initialised otherwise; expected the same network and factory"
            )
        return found


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
        size: subset models, an even number; a quarter as many larger ones and a tenth as many originals are trained
            beside them. More predict better.
        validation: unseen points; predictions are made for them, too.
        factory: makes an untrained network. By default the layers of ``model`` are initialised anew.
        prefix: as in :func:`dmm_exp.unlearn`.
        budget: seconds (``600``), or text with a unit (``"10min"``, ``"2h"``): the size is cut to what fits.
        seed: determines every model.
        progress: whether to show on standard error how far it is.

    Raises:
        UserError: something does not fit, or the budget is too small for any pool.

    >>> from tempfile import mkdtemp
    >>> import torch
    >>> from dmm_exp import prepare
    >>> x, y = torch.randn(40, 3), torch.arange(40) % 2
    >>> net = torch.nn.Linear(3, 2)
    >>> pool = prepare(net, (x, y), {"epochs": 1}, mkdtemp(), size=40, progress=False)
    >>> pool.models
    56
    """
    known = given(model, train, validation, factory, prefix)
    console = Console(quiet=not progress)
    for sentence in known.examples.taken:
        console.note(sentence)
    return prepare_given(
        known, training_of(recipe, known), Path(folder), here(known), console, size=size, budget=budget, seed=seed
    )


@storage_errors()
def prepare_given(
    known: Given,
    training: Node,
    folder: Path,
    executor: Executor,
    console: Console,
    *,
    size: int,
    budget: float | str | None,
    seed: int,
) -> Pool:
    """Do what :func:`prepare` does."""
    _check(size, seed)
    sweep()
    limit, folder = seconds_of(budget, "budget"), folder.expanduser()

    def deletion(members: int) -> Deletion:
        config = pool_config(known, training, members, seed)
        return Deletion(known, True, config, Store(folder / "artifacts", console), executor, console)

    waiting = "waiting for {}, which is preparing this pool"
    with Lock(folder / ".lock", lambda holder: console.note(waiting.format(holder))), torch.random.fork_rng(devices=[]):
        begun, smallest = time.monotonic(), deletion(FEWEST)
        before = _before(folder, (known.network, dict(training), smallest.context.data.spec.digest, seed))
        if smallest.purged is not None:
            return _as_purged(folder, before, size)
        if limit is not None:
            size = _fitting(smallest.models.pool, size, limit - (time.monotonic() - begun))
        whole = deletion(size if before is None else max(size, before.size))
        models = whole.models
        made = (models.pool, models.larger, models.originals)
        if before is not None and before.size == models.pool.members and all(ensemble.cached for ensemble in made):
            pool = before
        else:
            pool = _trained_pool(folder, whole, 0.0 if before is None else before.seconds, begun)
            facts = {name: value for name, value in vars(pool).items() if name not in ("folder", "learned")}
            write_json(folder / FILE, sealed({"format": FORMAT, **facts}))
    console.note(
        f"pool of {pool.models:,} models, {duration(pool.seconds)}; one retraining {duration(pool.retraining)}; "
        f"LDS {number(pool.lds)}"
    )
    return pool


def _as_purged(folder: Path, before: Pool | None, size: int) -> Pool:
    """Return a pool that rows were purged from, which stays as it is.

    Raises:
        UserError: it would have to be trained further.
    """
    if before is None or before.size < size:
        what = "its pool.json is missing or damaged" if before is None else f"it has {before.size} subset models"
        raise UserError(
            f"folder={folder}: rows were purged from this pool, so it trains no more networks, and {what}; expected "
            f"{'another folder' if before is None else f'size={before.size}, or another folder'}"
        )
    return before


def _check(size: Any, seed: Any) -> None:
    """Raise ``UserError`` for a size or a seed that cannot be."""
    if not isinstance(size, int) or size < FEWEST or size % 2:
        raise UserError(f"size={shown(size)}: expected an even number of at least {FEWEST}")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UserError(f"seed={shown(seed)}: expected a whole number of at least 0")


def _trained_pool(folder: Path, deletion: Deletion, earlier: float, begun: float) -> Pool:
    """Learn from the models of a pool what requests need, and return what is to be known of it.

    Args:
        folder: of the pool.
        deletion: the pipeline.
        earlier: seconds that a smaller pool took.
        begun: when this one began, by the monotonic clock.
    """
    models = deletion.models
    members = sum(
        ensemble.members for ensemble in (deletion.models.pool, deletion.models.larger, deletion.models.originals)
    )
    lds = deletion.lds()
    deletion.full_answers()  # are kept, for the networks that requests come with
    return Pool(
        folder,
        size=models.pool.members,
        training=plain(deletion.config.training),
        network=deletion.given.network,
        dataset=deletion.context.data.spec.digest,
        probe=deletion.given.probe().tolist(),
        seed=deletion.config.seed,
        seconds=earlier + time.monotonic() - begun,
        retraining=seconds_of_training(deletion),
        models=members,
        lds=lds,
    )


def _read(path: Path) -> Node | None:
    """Return what a pool's file holds, None where there is none or it is damaged."""
    try:
        facts = read_json(path)
    except (OSError, ValueError):
        return None
    whole = isinstance(facts, dict) and SEAL in facts and is_intact(facts)
    return {name: value for name, value in facts.items() if name != SEAL} if whole else None


def opened(pool: Pool | str | Path | bool | None) -> Pool | None:
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


def larger_of(size: int) -> int:
    """Return how many models on larger subsets belong to a pool of so many on halves."""
    return max(8, size // 4 // 4 * 4)


def originals_of(size: int) -> int:
    """Return how many models trained on everything belong to it."""
    return max(8, size // 10)


def models_of(size: int) -> int:
    """Return the number of all its models."""
    return size + larger_of(size) + originals_of(size)


def pool_config(known: Given, training: Node, size: int, seed: int) -> Config:
    """Return the configuration of an experiment with this pool."""
    config = composed(["attribution=best", "logger=none"])
    pool = replace(
        config.pool,
        size=size,
        alpha=ALPHA,
        complementary=True,
        held_out=max(2, size // 20 // 2 * 2),
        larger=LargerConfig(larger_of(size), LARGER_ALPHA),
    )
    return replace(
        config,
        seed=seed,
        n_models=originals_of(size),
        training=training_config(training),
        evaluation=replace(config.evaluation, mia={**config.evaluation.mia, "largest": ATTACKED}),
        model=ModelConfig(ONE_BY_ONE if by_function(training) else AUTO, known.network),
        pool=pool,
        forget={"_target_": "dmm_exp.forget.Points", "points": [0]},
    )


def _fitting(pilot: Artifact, wanted: int, seconds: float) -> int:
    """Return how many subset models, with the larger ones and originals that belong to them, fit into some seconds.

    Raises:
        UserError: not even the fewest do.
    """
    each = sum(facts["seconds"] for facts in pilot.shard_facts()) / pilot.members
    rest = (LARGER_ALPHA / 4 + 1 / 10) / ALPHA  # of the others, in models on halves for each of these
    fitting = int(seconds / each + pilot.members) // (1 + rest)
    if fitting < FEWEST:
        least = (1 + rest) * FEWEST * each
        raise UserError(f"budget: the smallest pool takes about {duration(least)} here; expected at least that")
    return min(wanted, int(fitting) // 2 * 2)


def _before(folder: Path, wanted: tuple[Any, ...]) -> Pool | None:
    """Return the finished pool of a folder, None if there is none, or its file is damaged.

    Args:
        folder: of the pool.
        wanted: network, recipe, data and seed, which it must have been made for.

    Raises:
        UserError: what is there is something else.
    """
    if _read(folder / FILE) is None:
        return None
    pool = Pool.open(folder)
    if (pool.network, pool.training, pool.dataset, pool.seed) != wanted:
        raise UserError(
            f"folder={folder}: holds the pool of another network or recipe, of other data or another seed; expected "
            "another folder"
        )
    return pool
