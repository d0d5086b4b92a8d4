"""A request: a method, and what predicts for it, ready to delete rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.schema import Node, Plain, TrainingByFunction, plain
from dmm_exp.console.progress import Console, duration
from dmm_exp.deletion.belonging import check_answers, check_pool
from dmm_exp.deletion.budget import seconds_of, share_of
from dmm_exp.deletion.cautions import cautions
from dmm_exp.deletion.deletion import Deletion, Work, pool_free_attribution
from dmm_exp.deletion.exactness import check_exact
from dmm_exp.deletion.given import Given
from dmm_exp.deletion.pool import ONE_BY_ONE, SIZE, Pool, models_of, opened, pool_config, prepare_given
from dmm_exp.deletion.quality import Verification, groups_of, points_table, quality
from dmm_exp.deletion.recipes import Recipe, composed, method_of, training_of
from dmm_exp.deletion.rows import RAW
from dmm_exp.deletion.timing import seconds_of_training
from dmm_exp.ensembles.by_function import by_function
from dmm_exp.errors import UserError, shown, storage_errors
from dmm_exp.metrics import retraining_cost
from dmm_exp.metrics.klom import FEWEST_MODELS
from dmm_exp.records.checkpoints import weights_digest
from dmm_exp.records.result import Cost, Unlearned, counts, names_of, rows_digest
from dmm_exp.store import Store
from dmm_exp.store.temporary import temporary_folder
from dmm_exp.unlearners import Retrain, Unlearner
from dmm_exp.unlearners import unlearner as internal

if TYPE_CHECKING:
    from dmm_exp.ensembles import Ensemble
    from dmm_exp.ensembles.work import Executor

FEWEST_ORACLES = 3
WORSE = 0.02  # of accuracy on unseen points that is worth a warning
WITHOUT_POOL = (
    "effects were predicted from gradients of the given network alone, which predicts worse than a pool "
    "(docs/unlearn_your_model.md)"
)


@dataclass(frozen=True)
class Outcome:
    """What a request made.

    Attributes:
        result: for the person who asked.
        origin: logits ``[1, points, classes]`` of the network as it was first given.
        made: what became of it.
        targets: logits that were to be matched, if any.
    """

    result: Unlearned
    origin: Tensor
    made: internal.Unlearned
    targets: Tensor | None


@dataclass
class Request:
    """A method, and what predicts for it, ready to delete rows.

    Attributes:
        deletion: the pipeline.
        settings: configuration of the unlearner.
        pool: what predictions come from, if that is a pool.
        trainable: whether the recipe is known.
        verify: number of oracles.
        seed: of the method.
        budget: the most that unlearning may take, if there is a limit.
        warnings: what to beware of.
        retraining: seconds of training one network by the recipe, None where that is not known.
        kept: names of tensors that a retrained network takes over from the given one.
    """

    deletion: Deletion
    settings: Node
    pool: Pool | None
    trainable: bool
    verify: int
    seed: int
    budget: float | str | None
    warnings: list[str]
    retraining: float | None = None
    kept: list[str] = field(default_factory=list)

    @property
    def predicts(self) -> bool:
        """Whether the method matches predictions."""
        return predicts(self.settings)

    @property
    def exact(self) -> bool:
        """Whether every number of the network that comes out owes nothing to the deleted rows."""
        return _target(self.settings) is Retrain and not self.kept

    def delete(
        self, gone: Tensor, new: Tensor | None = None, current: Ensemble | None = None, read: str = ""
    ) -> Outcome:
        """Delete rows from the given network, or from what earlier deletions made of it.

        Args:
            gone: sorted training indices that are gone afterwards.
            new: those of them that are not gone yet; all by default.
            current: the network as it is now; as it was given by default.
            read: in words, what the rows were read from.
        """
        deletion, known = self.deletion, self.deletion.given
        belongs, doubts = self._belonging(gone)
        work = Work(deletion, current or known.ensemble, deletion.subject.stacked("logits"), new, gone, self.seed)
        begun = time.monotonic()
        if self.predicts:
            deletion.predicted(gone)
        settings, cut = self._within(work, time.monotonic() - begun)
        warnings = [*self.warnings, *cautions(deletion.examples, gone, known.still_there(gone)), *doubts, *cut]
        with deletion.console.stage("unlearning", f"{work.count:,} rows by {_target(settings).__name__}"):
            made, targets = work.carry_out(instantiate(settings))
        seconds = time.monotonic() - begun
        model = self._restored(made, settings)
        logits = made.logits if known.is_exact else known.logits(model)
        if torch.equal(logits, work.origin):
            warnings = [*warnings, "no answer of the network changed, as far as its precision can tell"]
        begun, verification, retrained = time.monotonic(), {}, None
        if self.verify:
            check = Verification(deletion, gone, settings, self.verify)
            verification, retrained = check.metrics(work.origin, logits), check.retrained
        cost = self._cost(made, settings, seconds, len(gone), time.monotonic() - begun if self.verify else 0.0)
        found = quality(deletion, gone, work.origin, logits, targets) | self._doubt(gone) | belongs
        result = Unlearned(
            model=model,
            metrics=found,
            verification=verification,
            cost=cost,
            warnings=[*warnings, *_beware(found, verification, self.exact), *_pointless(work.origin, targets)],
            forgotten=gone.tolist(),
            method=settings,
            attribution=deletion.config.attribution if self.predicts else None,
            seed=self.seed,
            examples=counts(known),
            rows=rows_digest(known, gone),
            read=read,
            names=names_of(known, gone),
            weights={"before": known.weights, "after": weights_digest(model)},
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            points=points_table(deletion, gone, work.origin, logits, targets, retrained),
            pool=self.pool if self.predicts else None,
            kept=self.kept,
            taken=list(known.examples.taken),
            normalisation=None if known.examples.normalisation == RAW else dict(vars(known.examples.normalisation)),
        )
        if self.pool is not None:
            deletion.console.note(self.pool.in_words(seconds))
        return Outcome(result, work.origin, made, targets)

    def _belonging(self, gone: Tensor) -> tuple[dict[str, float], list[str]]:
        """Return how far the given network is from the pool's full models, and what to warn of.

        Nothing is written before.

        Raises:
            UserError: it does not belong to its data, or to the pool.
        """
        own = self.deletion.given_answers()
        if self.pool is None or not self.predicts:
            return {}, []
        groups = groups_of(self.deletion, gone)
        return check_pool(f"pool={self.pool.folder}", own, self.deletion.full_answers(), groups)

    def _restored(self, made: internal.Unlearned, settings: Node) -> nn.Module:
        """Return what came out as a network like the given one.

        Raises:
            UserError: the method diverged.
        """
        if made.ensemble is None or not made.logits.isfinite().all():
            raise UserError(
                f"method: {_target(settings).__name__} diverged (logits are not finite); expected settings that keep "
                "the network together, such as a lower learning rate"
            )
        return self.deletion.given.restore(made.ensemble.member(0))

    def _within(self, work: Work, spent: float) -> tuple[Node, list[str]]:
        """Return the method's settings with as many epochs as fit into a budget, and what to say of it.

        One epoch is carried out to see what it takes.
        """
        budget, epochs, name = self.budget, self.settings.get("epochs"), _target(self.settings).__name__
        if budget is None:
            return self.settings, []
        share = share_of(budget)
        limit = (seconds_of(budget) or 0.0) - spent if share is None else share * self._retraining(len(work.gone))
        if not isinstance(epochs, int) or epochs < 1:
            return self.settings, [f"budget: {name} does not go by epochs; nothing was cut"]
        begun, one = time.monotonic(), instantiate({**self.settings, "epochs": 1})
        made, _ = work.carry_out(one)
        taken = time.monotonic() - begun if share is None else made.sample_gradients
        fitting = int((limit - (taken if share is None else 0)) / taken)
        if fitting < 1:
            least = f"{spent + 2 * taken:.1f} s" if share is None else f"{share * taken / limit:.1%}"
            raise UserError(f"budget={budget}: is less than one epoch of {name} takes; expected at least {least}")
        if fitting >= epochs:
            return self.settings, []
        return {**self.settings, "epochs": fitting}, [f"budget: {fitting} of {epochs} epochs fitted into it"]

    def _retraining(self, forgotten: int) -> float:
        """Return gradient evaluations of one retraining, where the recipe is one of ours."""
        epochs = self.deletion.config.training.epochs
        return retraining_cost(epochs, self.deletion.examples.n_train - forgotten)

    def _cost(
        self, made: internal.Unlearned, settings: Node, seconds: float, forgotten: int, verification: float
    ) -> Cost:
        epochs, ratio = settings.get("epochs"), None
        if self.trainable and not isinstance(self.deletion.config.training, TrainingByFunction):
            ratio = made.sample_gradients / self._retraining(forgotten)
        count = epochs if isinstance(epochs, int) else 0
        return Cost(seconds, made.sample_gradients, count, ratio, self.retraining, verification)

    def _doubt(self, gone: Tensor) -> dict[str, float]:
        """Return the root mean square standard error of predicted logits, by group."""
        error = self.deletion.predicted(gone).get("standard_error") if self.predicts else None
        if error is None:
            return {}
        groups = groups_of(self.deletion, gone)
        return {f"doubt/{name}": float(error[points].square().mean().sqrt()) for name, points in groups.items()}


@contextmanager
def request(
    known: Given,
    method: str | Plain,
    recipe: Recipe | None,
    pool: Pool | str | Path | bool | None,
    seed: int,
    verify: int,
    executor: Executor,
    console: Console,
    budget: float | str | None = None,
    keep: Sequence[str] = (),
) -> Iterator[Request]:
    """Give what deletes rows from a given network; arguments are those of :func:`unlearn`.

    Raises:
        UserError: they do not go together.
    """
    settings, kept = method_of(method), opened(pool)
    training = _training(recipe, kept, known)
    check_request(settings, training, verify, budget, known)
    if pool is True and training is None and _target(settings).target == "predicted":
        raise UserError("pool=True: a pool is trained by a recipe; give recipe=")
    taken_over = _taken_over(settings, known, keep)
    if kept is None:  # a pool may hold these answers already; the request checks them, then
        check_answers(known.answers, known.examples, known.blank)
    own_numbers = torch.random.fork_rng(devices=[])  # what is drawn here leaves the program's own random numbers alone
    with storage_errors(), own_numbers, temporary_folder() as folder:
        if predicts(settings) and pool is True:
            assert training is not None
            kept = _for_this_call(known, training, folder, executor, console, seed)
        predicted_from_pool = predicts(settings) and kept is not None
        if kept is not None and predicted_from_pool:
            deletion = kept.deletion(known, executor, console)
        else:
            deletion = _alone(known, training, folder, seed, executor, console)
        if verify and deletion.purged is not None:
            raise UserError(
                f"verify={verify}: the pool in {deletion.context.store.root.parent} was purged and trains no networks "
                "to compare with; expected 0, or another pool"
            )
        deletion.check_steps()
        retraining = None if training is None or kept is None else kept.retraining
        if retraining is None and training is not None and not by_function(training):
            retraining = seconds_of_training(deletion)
        asked = Request(
            deletion, settings, kept, training is not None, verify, seed, budget, [], retraining, taken_over
        )
        asked.warnings += _of_the_way(asked, pool)
        yield asked


def _of_the_way(asked: Request, pool: Pool | str | Path | bool | None) -> list[str]:
    """Return what to beware of in where predictions come from."""
    if not asked.predicts or (asked.pool is not None and pool is not True):
        return []
    if pool is True:
        return ["the pool was prepared for this call alone; dmm_exp.prepare() keeps one for further requests"]
    asked.deletion.effects.estimator.check(asked.deletion.given.build())
    if asked.retraining is None:
        return [f"{WITHOUT_POOL}; give pool=, what prepare() returned"]
    models = models_of(SIZE)
    alternatives = (
        f'retraining this network takes about {duration(asked.retraining)} and is exact (method="retrain"); a pool of '
        f"{models:,} networks (prepare(), or pool=True) takes at most about {duration(models * asked.retraining)}"
    )
    asked.deletion.console.note(alternatives)
    return [f"{WITHOUT_POOL}; {alternatives}"]


def _for_this_call(known: Given, training: Node, folder: Path, executor: Executor, console: Console, seed: int) -> Pool:
    """Return a pool that is prepared for one request, after saying what it takes."""
    console.note(f"preparing a pool of {models_of(SIZE):,} networks for this call alone; prepare() keeps one")
    return prepare_given(known, training, folder, executor, console, size=SIZE, budget=None, seed=seed)


def _taken_over(settings: Node, known: Given, keep: Sequence[str]) -> list[str]:
    """Return the names of what a retrained network takes over from the given one, if that is wanted."""
    if isinstance(keep, str) or not all(isinstance(name, str) for name in keep):
        raise UserError(f"keep={shown(keep)}: expected a list of names of tensors or layers")
    if _target(settings) is Retrain:
        return check_exact(known, keep)
    if keep:
        raise UserError(f"keep={shown(list(keep))}: is for method=retrain; other methods start from the given network")
    return []


def check_request(
    settings: Node,
    training: Node | None,
    verify: int,
    budget: float | str | None,
    known: Given,
) -> None:
    """Raise ``UserError`` for what does not go together, before anything is computed or written."""
    _check(settings, training, verify, known)
    if share_of(budget) is not None and (training is None or by_function(training)):
        raise UserError(
            f"budget={budget}: a share of a retraining takes a recipe by which its cost is known; expected seconds"
        )


def _alone(
    known: Given, training: Node | None, folder: Path, seed: int, executor: Executor, console: Console
) -> Deletion:
    """Return what predicts effects from the given network alone."""
    config = pool_config(known, training or plain(composed([]).training), SIZE, seed)
    model = replace(config.model, chunk_size=ONE_BY_ONE) if training is None else config.model
    config = replace(config, attribution=pool_free_attribution(known), n_models=1, model=model)
    return Deletion(known, False, config, Store(folder / "artifacts", console), executor, console)


def predicts(settings: Node) -> bool:
    """Return whether a method matches predictions."""
    return _target(settings).target == "predicted"


def _target(settings: Node) -> type[Unlearner]:
    from hydra.utils import get_class

    return get_class(settings["_target_"])


def _training(recipe: Recipe | None, pool: Pool | None, known: Given) -> Node | None:
    """Return the training configuration, which a pool knows, too."""
    training = None if recipe is None else training_of(recipe, known)
    if pool is None or training == pool.training:
        return training
    if training is not None:
        raise UserError(f"recipe: the pool in {pool.folder} was trained by another one; expected the same")
    return dict(pool.training)


def _check(settings: Node, training: Node | None, verify: int, known: Given) -> None:
    """Refuse what does not go together."""
    kind, function = _target(settings), training is not None and by_function(training)
    if kind is Retrain and (training is None or function):
        raise UserError("method=retrain: needs a recipe of conf/training; expected recipe=, and no function")
    if kind.reference and kind is not Retrain:
        raise UserError(f"method: {kind.__name__} is a reference for experiments; expected a method that unlearns")
    if not isinstance(verify, int) or isinstance(verify, bool) or (verify and verify < FEWEST_ORACLES):
        raise UserError(f"verify={shown(verify)}: expected 0 for none, or a whole number of at least {FEWEST_ORACLES}")
    if verify and training is None:
        raise UserError(f"verify={verify}: networks can only be retrained with a recipe; give recipe=")
    if verify and len(known.examples.labels) == known.examples.n_train:
        raise UserError(f"verify={verify}: retrained networks are compared on unseen points, too; give validation=")


def _beware(found: Mapping[str, float], verification: Mapping[str, float], exact: bool) -> list[str]:
    """Return what to beware of in what came out."""
    said = []
    before, after = (found.get(f"accuracy/{name}/val") for name in ("given", "unlearned"))
    if before is not None and after is not None and before - after > WORSE:
        said.append(f"accuracy on unseen points fell from {before:.1%} to {after:.1%}")
    if verification and verification["oracles"] < FEWEST_MODELS:
        few = int(verification["oracles"])
        said.append(f"verified with {few} retrained networks; KLoM is mostly sampling noise below {FEWEST_MODELS}")
    if not verification and not exact:
        said.append("not verified: nothing was retrained; give recipe= and verify=")
    return said


def _pointless(origin: Tensor, targets: Tensor | None) -> list[str]:
    """Say it where predictions change nothing."""
    if targets is None or not torch.equal(origin, targets):
        return []
    return ["no effect of these rows is predicted: the network answers training rows no better than unseen ones"]
