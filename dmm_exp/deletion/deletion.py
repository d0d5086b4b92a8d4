"""A deletion: models and effects of an experiment, with a given network in the place of its originals."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import isfinite
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dmm_exp.attribution import Estimator, Learned
from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.registered import REGISTERED, registered
from dmm_exp.config.schema import Config, Node, plain
from dmm_exp.data import Examples, Rows, content_hash
from dmm_exp.deletion.belonging import Answers, check_answers
from dmm_exp.deletion.fresh import Fresh
from dmm_exp.deletion.given import Given
from dmm_exp.deletion.recipes import composed
from dmm_exp.ensembles import Ensemble
from dmm_exp.ensembles.engine import Engine
from dmm_exp.ensembles.stacking import fingerprint
from dmm_exp.ensembles.work import evaluation_copy, model_factory, recipe, trainer_factory
from dmm_exp.errors import UserError
from dmm_exp.executors import Local
from dmm_exp.pipeline import Context, Effects, Last, Models
from dmm_exp.pipeline.chunks import Chunks
from dmm_exp.pipeline.context import Data, content_of
from dmm_exp.pipeline.effects import FromOriginals, FromPool
from dmm_exp.records.purged import Purged, purged_of
from dmm_exp.store import Artifact, Draft, Spec
from dmm_exp.unlearners import Unlearner
from dmm_exp.unlearners.unlearner import UnlearningResult, UnlearningTask

if TYPE_CHECKING:
    from dmm_exp.console.progress import Console
    from dmm_exp.ensembles.work import Executor
    from dmm_exp.store import Store

SMALL = 1_000_000  # parameters


def local_executor(given: Given) -> Local:
    """Return what trains such networks in this process: small ones with one thread, since more only slow them down."""
    size = sum(value.numel() for value in given.ensemble.parameters())
    return Local(threads=1 if size < SMALL and not torch.cuda.is_available() else None)


class Deletion:
    """What a deletion works with: a given network where an experiment has its originals, models, and effects.

    Args:
        given: the network and its data.
        pooled: whether effects are predicted from a pool, and not from the given network alone.
        config: of an experiment with this pool, or with the given network as its only original.
        store: where artifacts are kept.
        executor: where networks are trained.
        console: where each stage's line goes.
        learned: what was learnt last from the pool, for deletions that share it.
    """

    def __init__(
        self,
        given: Given,
        pooled: bool,
        config: Config,
        store: Store,
        executor: Executor,
        console: Console,
        learned: Last[Learned] | None = None,
    ) -> None:
        self.given = given
        self.pooled = pooled
        self.purged = purged_of(store.root.parent) if pooled else None
        self.context = Context(config, store, executor, console, data_of(given, self.purged))
        self.models = self._models(self.context, None if pooled else lambda: self.subject)
        estimator: Estimator = instantiate(config.attribution, "attribution")
        source = (FromPool if pooled else FromOriginals)(self.models, estimator)
        # Held-out members are predicted once, when the pool is made, and not at every request. One network has no
        # spread; a verification's have.
        self._predicted: Last[dict[str, Tensor]] = Last()
        self.effects = Effects(source, learned or Last(), measures_lds=False, spreads=False)

    def _models(self, context: Context, originals: Callable[[], Artifact] | None) -> Models:
        chunks = Chunks(context, (self.given.build, ("untrained", self._architecture)))
        return Models(chunks, originals, partial(self._ensemble, chunks))

    def models_by(self, config: Config) -> Models:
        """Return models that are trained by another configuration, on the same data; originals, too."""
        context = self.context
        return self._models(Context(config, context.store, context.executor, context.console, context.data), None)

    @property
    def config(self) -> Config:
        """The configuration."""
        return self.context.config

    @property
    def console(self) -> Console:
        """Where lines go."""
        return self.context.console

    @property
    def examples(self) -> Examples:
        """The given data."""
        return self.context.examples

    @cached_property
    def subject(self) -> Artifact:
        """The given network (or several, as an ensemble)."""
        tensors, spec = self.given.ensemble.tensors(), self._given_spec
        if self.context.store.find(spec) is None:
            tensors["logits"] = self.given.answers

        def make(draft: Draft) -> None:
            members = len(self.given.ensemble)
            draft.layout([[0, members]])
            draft.write_shard(0, tensors, {"members": members, "seconds": 0.0, "history": [], "sample_gradients": 0})

        return self.context.obtain("given", "the given network", spec, make)

    @cached_property
    def _given_spec(self) -> Spec:
        """What determines the artifact of the given network."""
        numbers = content_hash(*(value.cpu() for value in self.given.ensemble.tensors().values()))
        config = {"network": self.config.model.network}
        inputs = {"dataset": self.context.data.spec.digest, "numbers": numbers}
        if self.given.blank:  # its answers there are those to zeros
            inputs["blank"] = content_hash(torch.tensor(self.given.blank))
        return Spec("given", config, inputs)

    def given_answers(self) -> Answers:
        """Return the answers of the given network on all points, after checking that it was trained on this data.

        Nothing is written.

        Raises:
            UserError: it was not; see :func:`dmm_exp.deletion.belonging.check_answers`.
        """
        kept = self.context.store.find(self._given_spec)
        logits = self.given.answers if kept is None else kept.stacked("logits")
        check_answers(logits, self.examples, self.given.blank)
        return Answers.of(logits, self.examples.labels)

    def full_answers(self) -> Answers:
        """Return the answers of the networks that were trained by the recipe on everything; they are kept."""
        originals = self.models.originals
        spec = Spec("answers", {}, {"originals": originals.digest})

        def make(draft: Draft) -> None:
            found = Answers.of(originals.stacked("logits"), self.examples.labels)
            draft.write_tensors("answers", {name: torch.from_numpy(value) for name, value in vars(found).items()})

        kept = self.context.store.obtain(spec, make).tensors("answers")
        return Answers(**{name: value.numpy() for name, value in kept.items()})

    def _ensemble(
        self,
        chunks: Chunks,
        name: str,
        detail: str,
        spec: Spec,
        make: Callable[[Draft], None],
        *,
        to_read: bool,
    ) -> Artifact:
        """Return an ensemble, trained if need be; a pool that was purged lacks the data to train more.

        Raises:
            UserError: it is not there, and cannot be trained.
        """
        network, context = self.config.model.network, chunks.context
        build = registered(network["name"]) if network["_target_"] == REGISTERED else None
        if isinstance(build, Fresh):
            build.check_buffers(name.removeprefix("network.") for name in chunks.stacking.changed)
        if self.purged is not None and context.store.find(spec) is None:
            raise UserError(
                f"pool={context.store.root.parent}: lacks {name} or they are damaged, and cannot train them after a "
                "purge removed rows; expected another pool (prepare)"
            )
        return context.obtain(name, detail, spec, make, to_read=to_read)

    @cached_property
    def _architecture(self) -> Hashable:
        """What tells the architecture from others, within this process."""
        return str(self.context.config.model.network), fingerprint(self.given.ensemble.skeleton)

    def check_steps(self) -> None:
        """Check that a method can take steps from the given network, and note what of it they do not train.

        Raises:
            UserError: it cannot.
        """
        build = partial(self.given.ensemble.member, 0)
        found = self.models.chunks.stacking_of(build, ("given", self._architecture))
        found.check()
        notice = found.notice(one_at_a_time=False)
        if notice is not None:
            self.console.note_once(notice, about=str(self.config.model.network))

    def one_original(self) -> Artifact:
        """Return one network trained by the recipe, alone and with nothing watched: what retraining takes."""
        job = replace(self.models.job("original"), keep=("parameters",))
        return self.models.trained("one network", "trained alone", 1, job)

    def lds(self) -> float | None:
        """Return the linear datamodeling score of the pool on members that estimators do not see, over unseen points.

        Over training points where there are no unseen ones; there it mostly says who was in a subset.
        What the estimator learns for it is kept, and serves the requests that follow.
        """
        nothing = Rows(torch.zeros(0, dtype=torch.long), self.examples.n_train)
        scores = self.effects.lds(nothing)["lds"]
        unseen = scores[self.examples.n_train :]
        found = float((unseen if len(unseen) else scores).nanmean())
        return found if isfinite(found) else None

    def predicted(self, gone: Rows) -> dict[str, Tensor]:
        """Return the ``effect`` of some training rows ``[points, classes]``, and its ``standard_error`` if known."""
        return self._predicted.obtain(gone.digest, lambda: self.effects.of(gone).tensors("effect"))


def data_of(given: Given, purged: Purged | None) -> Data:
    """Return the given data; where rows were purged from a pool, its artifact has zeros for them."""
    whole = Data.of(given.examples)
    if purged is None:
        return whole
    written = given.examples
    if purged.rows:
        inputs = written.inputs.clone()
        inputs[list(purged.rows)] = 0
        written = replace(written, inputs=inputs)
    same = content_of(written) == purged.blank
    spec = replace(whole.spec, inputs={"content": purged.content}) if same else whole.spec
    return Data(given.examples, spec, written, "without what was purged")


def pool_free_attribution(given: Given) -> Node:
    """Return the configuration of an estimator that needs the given network alone: factored TRAK where it can."""
    factored = composed(["attribution=trak_factored"]).attribution
    try:
        estimator: Estimator = instantiate(factored)
        estimator.check(given.build())
    except UserError:
        return {**composed(["attribution=trak"]).attribution, "checkpoints": 1}
    return {**factored, "checkpoints": 1}


@dataclass(frozen=True)
class Work:
    """Rows that have to go from networks.

    Attributes:
        deletion: predicts effects.
        current: the networks as they are now; earlier deletions may have changed them.
        origin: logits ``[members, points, classes]`` of the networks as they were first given.
            new: rows that have to go now.
        gone: all rows that have to be gone afterwards.
        seed: of the method.
    """

    deletion: Deletion
    current: Ensemble
    origin: Tensor
    new: Rows
    gone: Rows
    seed: int

    def carry_out(self, unlearner: Unlearner) -> tuple[UnlearningResult, Tensor | None]:
        """Unlearn the rows, and return the result and the logits that it was to match, if any.

        A method that matches predictions is given everything that is gone, since that is what is predicted.
        """
        examples, config = self.deletion.examples, self.deletion.config
        predicts = unlearner.target == "predicted"
        targets = self.origin - self.deletion.predicted(self.gone)["effect"] if predicts else None
        task = UnlearningTask(
            originals=evaluation_copy(self.current, config.trainer),
            examples=examples,
            forget=self.deletion.given.readable(self.gone if predicts else self.new).indices,
            retain=self.gone.others,
            seed=self.seed,
            members=range(len(self.current)),
            targets=targets,
            build=model_factory(config.model.network, examples),
            recipe=recipe(plain(config.training)),
            make_trainer=trainer_factory({**config.trainer, "engine": vars(Engine().settled())}),
        )
        return unlearner.unlearn(task), targets
