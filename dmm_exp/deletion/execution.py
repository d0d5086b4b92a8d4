"""Carrying a request out: rows are deleted from a network, and the result is measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import torch
from torch import nn

from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.schema import Node, TrainingByFunction
from dmm_exp.console.words import percent
from dmm_exp.data import Rows
from dmm_exp.deletion.belonging import check_pool
from dmm_exp.deletion.budget import seconds_of, share_of
from dmm_exp.deletion.cautions import cautions
from dmm_exp.deletion.deletion import Deletion, Work
from dmm_exp.deletion.options import Options
from dmm_exp.deletion.quality import Change, groups_of, verify
from dmm_exp.deletion.recipes import kind_of, predicts
from dmm_exp.deletion.rows import RAW
from dmm_exp.errors import UserError
from dmm_exp.metrics import UNKNOWN, doubt, retraining_cost
from dmm_exp.metrics.klom import FEWEST_MODELS
from dmm_exp.records.checkpoints import weights_digest
from dmm_exp.records.pool import Pool
from dmm_exp.records.result import Cost, Unlearned
from dmm_exp.unlearners import Retrain, Unlearner
from dmm_exp.unlearners.unlearner import UnlearningResult

if TYPE_CHECKING:
    from dmm_exp.ensembles import Ensemble

LEAST_EXPLAINED = 0.3  # of the effect that retrained networks show; less is worth a warning
WORSE = 0.02  # of accuracy on unseen points that is worth a warning


@dataclass(frozen=True)
class Outcome:
    """What came of a request.

    Attributes:
        result: for the caller.
        change: answers before and after, in float32.
    """

    result: Unlearned
    change: Change


@dataclass
class Execution:
    """A method, and what predicts for it, ready to delete rows.

    Attributes:
        deletion: the pipeline.
        settings: configuration of the unlearner.
        options: of the request.
        pool: what predictions come from, if that is a pool.
        has_recipe: whether the recipe is known.
        retraining: seconds of training one network by the recipe, None where that is not known.
        kept: names of tensors that a retrained network takes over from the given one.
        warnings: what to beware of.
    """

    deletion: Deletion
    settings: Node
    options: Options
    pool: Pool | None
    has_recipe: bool
    retraining: float | None = None
    kept: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def predicts(self) -> bool:
        """Whether the method matches predictions."""
        return predicts(self.settings)

    @property
    def method(self) -> str:
        """Name of the method."""
        return kind_of(self.settings).__name__

    def delete(self, gone: Rows, new: Rows | None = None, current: Ensemble | None = None) -> Outcome:
        """Delete rows from the given network, or from what earlier deletions made of it.

        Args:
            gone: rows that are gone afterwards.
            new: those of them that are not gone yet; all by default. The record says how these were read.
            current: the network as it is now; as it was given by default.

        Raises:
            UserError: the network does not belong to its data or to the pool, the budget is too small, or the method
                diverged.
        """
        new, known = gone if new is None else new, self.deletion.given
        method: Unlearner = instantiate(self.settings)
        method.check_inputs(known.examples, "method")
        distances, doubts = self._belonging(gone)  # before anything is written
        origin = self.deletion.subject.stacked("logits")
        work = Work(self.deletion, current or known.ensemble, origin, new, gone, self.options.seed)
        begun = time.monotonic()
        if self.predicts:
            self.deletion.predicted(gone)
        settings, cut = self._within_budget(work, time.monotonic() - begun)
        by_group = self.predicts and self.deletion.effects.estimator.uses_designs
        found = cautions(known.examples, gone, known.readable(gone), knows_groups=by_group)
        warnings = [*self.warnings, *found, *doubts, *cut]
        with self.deletion.console.stage("unlearning", f"{len(new):,} rows by {self.method}"):
            unlearned, targets = work.carry_out(method if settings is self.settings else instantiate(settings))
        seconds = time.monotonic() - begun
        change = Change(self.deletion, gone, origin, unlearned.logits, targets)
        result = self._result(change, unlearned, settings, seconds, warnings)
        result = replace(result, read=new.read, metrics=result.metrics | distances)
        if self.pool is not None:
            self.deletion.console.note(self.pool.in_words(seconds))
        return Outcome(result, change)

    def _belonging(self, gone: Rows) -> tuple[dict[str, float], list[str]]:
        """Return how far the given network is from the pool's full models, and what to warn of.

        Raises:
            UserError: it does not belong to its data, or to the pool.
        """
        own = self.deletion.given_answers()
        if self.pool is None or not self.predicts:
            return {}, []
        groups = groups_of(self.deletion, gone)
        return check_pool(f"pool={self.pool.folder}", own, self.deletion.full_answers(), groups)

    def _within_budget(self, work: Work, spent: float) -> tuple[Node, list[str]]:
        """Return the method's settings with as many epochs as fit into the budget, and a note if some were cut.

        One epoch is carried out to see how long it takes.
        """
        budget, epochs = self.options.budget, self.settings.get("epochs")
        if budget is None:
            return self.settings, []
        if not isinstance(epochs, int) or epochs < 1:
            return self.settings, [f"budget: {self.method} does not go by epochs; nothing was cut"]
        begun = time.monotonic()
        unlearned, _ = work.carry_out(instantiate({**self.settings, "epochs": 1}))
        if (share := share_of(budget)) is None:
            epoch = time.monotonic() - begun
            fitting = int(((seconds_of(budget) or 0.0) - spent - epoch) / epoch)
            least = f"{spent + 2 * epoch:.1f} s"
        else:
            retraining = self._retraining(len(work.gone))
            fitting = int(share * retraining / unlearned.sample_gradients)
            least = f"{unlearned.sample_gradients / retraining:.1%}"
        if fitting < 1:
            raise UserError(
                f"budget={budget}: is less than one epoch of {self.method} takes; expected at least {least}"
            )
        if fitting >= epochs:
            return self.settings, []
        return {**self.settings, "epochs": fitting}, [f"budget: {fitting} of {epochs} epochs fitted into it"]

    def _retraining(self, forgotten: int) -> float:
        """Return gradient evaluations of one retraining, where the recipe is one of ours."""
        epochs = self.deletion.config.training.epochs
        return retraining_cost(epochs, self.deletion.examples.n_train - forgotten)

    def _result(
        self, change: Change, unlearned: UnlearningResult, settings: Node, seconds: float, warnings: list[str]
    ) -> Unlearned:
        """Measure a deletion, and return its result."""
        known, gone = self.deletion.given, change.gone
        model = self._restored(unlearned)
        if not known.is_exact:
            change = replace(change, after=known.logits(model))
        metrics = change.metrics() | self._doubt(change)
        begun, verification, retrained = time.monotonic(), {}, None
        if self.options.verify:
            verification, retrained = verify(change, settings, self.options.verify)
        spent = time.monotonic() - begun if self.options.verify else 0.0
        is_exact = kind_of(settings) is Retrain and not self.kept
        return Unlearned(
            model=model,
            metrics=metrics,
            verification=verification,
            cost=self._cost(unlearned, settings, seconds, len(gone), spent),
            warnings=[
                *(*warnings, *_unchanged(change), *_beware(metrics, verification, is_exact)),
                *(*_pointless(change), *_unlike_the_pool(change), *self._poor_predictions(verification)),
            ],
            forgotten=gone.tolist(),
            method=settings,
            attribution=self.deletion.config.attribution if self.predicts else None,
            seed=self.options.seed,
            examples=known.counts(),
            rows=known.digest_of(gone),
            names=known.names_of(gone),
            weights={"before": known.weights, "after": weights_digest(model)},
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            points=change.table(retrained),
            pool=self.pool if self.predicts else None,
            kept=self.kept,
            taken=list(known.examples.taken),
            about=self.options.about,
            normalisation=None if known.examples.normalisation == RAW else dict(vars(known.examples.normalisation)),
        )

    def _restored(self, unlearned: UnlearningResult) -> nn.Module:
        """Return the unlearned network, like the given one.

        Raises:
            UserError: the method diverged.
        """
        if unlearned.ensemble is None or not unlearned.logits.isfinite().all():
            raise UserError(
                f"method: {self.method} diverged (logits are not finite); expected settings that keep the network "
                "together, such as a lower learning rate"
            )
        return self.deletion.given.restore(unlearned.ensemble.member(0))

    def _cost(
        self, unlearned: UnlearningResult, settings: Node, seconds: float, forgotten: int, verification: float
    ) -> Cost:
        epochs, ratio = settings.get("epochs"), None
        if self.has_recipe and not isinstance(self.deletion.config.training, TrainingByFunction):
            ratio = unlearned.sample_gradients / self._retraining(forgotten)
        count = epochs if isinstance(epochs, int) else 0
        return Cost(seconds, unlearned.sample_gradients, count, ratio, self.retraining, verification)

    def _poor_predictions(self, verification: Mapping[str, float]) -> list[str]:
        """Warn of a pool that predicts little, and of a prediction that retrained networks did not bear out."""
        warnings, share = [], verification.get("effect/r2/forget")
        if self.predicts and self.pool is not None and self.pool.is_poor:
            warnings.append(f"the pool is poor: {self.pool.quality}")
        if self.predicts and share is not None and share < LEAST_EXPLAINED:
            networks = int(verification["oracles"])
            warnings.append(
                f"on the deleted rows the prediction explains {percent(max(share, 0.0))} of the effect that {networks} "
                "retrained networks show (R²); what it misses, the method cannot recover"
            )
        return warnings

    def _doubt(self, change: Change) -> dict[str, float]:
        """Return the root mean square standard error of predicted logits, by group."""
        error = self.deletion.predicted(change.gone).get("standard_error") if self.predicts else None
        if error is None:
            return {}
        return {f"doubt/{name}": float(error[points].square().mean().sqrt()) for name, points in change.groups.items()}


def _unchanged(change: Change) -> list[str]:
    """Warn where nothing happened."""
    if not torch.equal(change.after, change.before):
        return []
    return ["no answer of the network changed, as far as its precision can tell"]


def _beware(found: Mapping[str, float], verification: Mapping[str, float], is_exact: bool) -> list[str]:
    """Warn of what was measured, and of what was not."""
    warnings = []
    before, after = (found.get(f"accuracy/{name}/val") for name in ("given", "unlearned"))
    if before is not None and after is not None and before - after > WORSE:
        warnings.append(f"accuracy on unseen points fell from {before:.1%} to {after:.1%}")
    if verification and verification["oracles"] < FEWEST_MODELS:
        few = int(verification["oracles"])
        warnings.append(f"verified with {few} retrained networks; KLoM is mostly sampling noise below {FEWEST_MODELS}")
    if not verification and not is_exact:
        warnings.append("not verified: nothing was retrained; give recipe= and verify=")
    return warnings


def _pointless(change: Change) -> list[str]:
    """Warn where predictions change nothing."""
    if change.targets is None or not torch.equal(change.before, change.targets):
        return []
    return ["no effect of these rows is predicted: the network answers training rows no better than unseen ones"]


def _unlike_the_pool(change: Change) -> list[str]:
    """Warn where the prediction on deleted rows is almost as uncertain as networks trained alike differ."""
    deletion, rows = change.deletion, change.gone.indices
    if change.targets is None or not deletion.pooled or not deletion.effects.estimator.posterior:
        return []
    error, logits = deletion.predicted(change.gone).get("standard_error"), deletion.models.originals.at("logits", rows)
    if error is None or len(logits) < 2:
        return []
    found = doubt(error[rows].numpy(), logits.std(0, correction=0).numpy(), change.labels[rows.numpy()])
    if found <= UNKNOWN:
        return []
    return [
        f"the deleted rows are unlike anything the pool knows: their predicted logits are uncertain by {found:.1f} "
        "standard deviations of networks trained alike; verify the result, or retrain"
    ]
