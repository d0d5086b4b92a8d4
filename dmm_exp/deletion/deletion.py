"""One deletion as a pipeline: the given network stands where an experiment has its originals."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dmm_exp.attribution import Estimator, Evidence, Gradients
from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.registered import REGISTERED, registered
from dmm_exp.config.schema import Config, Node, plain
from dmm_exp.data import Examples
from dmm_exp.deletion.belonging import Answers, check_answers
from dmm_exp.deletion.fresh import Fresh
from dmm_exp.deletion.given import Given
from dmm_exp.deletion.purged import Purged, purged_of
from dmm_exp.ensembles import AllBut, Ensemble
from dmm_exp.ensembles.engine import Engine
from dmm_exp.ensembles.stacking import Stacking, fingerprint
from dmm_exp.ensembles.work import TrainJob, evaluation_copy, model_factory, recipe, trainer_factory
from dmm_exp.errors import UserError
from dmm_exp.executors import Local
from dmm_exp.pipeline import LastLearned, Pipeline, content_hash
from dmm_exp.store import Artifact, Draft, Missing, Spec
from dmm_exp.unlearners import Unlearner
from dmm_exp.unlearners.unlearner import Unlearned, UnlearningTask

if TYPE_CHECKING:
    from dmm_exp.console.progress import Console
    from dmm_exp.ensembles.work import Executor, TrainJob
    from dmm_exp.store import Store

SMALL = 1_000_000  # parameters


def here(given: Given) -> Local:
    """Return what trains such networks in this process: small ones with one thread, which several only slow down."""
    size = sum(value.numel() for value in given.ensemble.parameters())
    return Local(threads=1 if size < SMALL and not torch.cuda.is_available() else None)


class Deletion(Pipeline):
    """The stages of an experiment, with a given network in place of originals, and no oracles.

    Args:
        given: the network and its data.
        pooled: whether effects are predicted from a pool, and not from the given network alone.
        config: see :class:`dmm_exp.pipeline.Stages`, as the next three.
        store: where artifacts live.
        executor: where networks are trained.
        console: where each stage's line goes.
        learned: what was learnt last from the pool, for deletions that share it.
    """

    measures_lds = False  # of the pool once, and not of every request

    def __init__(
        self,
        given: Given,
        pooled: bool,
        config: Config,
        store: Store,
        executor: Executor,
        console: Console,
        learned: LastLearned | None = None,
    ) -> None:
        self.given = given
        self.pooled = pooled
        super().__init__(config, store, executor, console, learned=learned)

    @cached_property
    def examples(self) -> Examples:
        """The given data."""
        return self.given.examples

    @cached_property
    def purged(self) -> Purged | None:
        """What was removed from the pool, None if nothing was, or there is no pool."""
        return purged_of(self.store.root.parent) if self.pooled else None

    @cached_property
    def dataset_spec(self) -> Spec:
        """What determines the dataset's artifact: all data, also where rows were purged and are zeros now."""
        spec, purged = super().dataset_spec, self.purged
        if purged is None or self._blank_content() != purged.blank:
            return spec
        return replace(spec, inputs={"content": purged.content})

    def _blank_content(self) -> str:
        examples = self._without_purged()
        return content_hash(examples.inputs, examples.labels, examples.corrupted)

    def _without_purged(self) -> Examples:
        """Return the data with zeros for the inputs that were purged from the pool."""
        if self.purged is None or not self.purged.rows:
            return self.examples
        inputs = self.examples.inputs.clone()
        inputs[list(self.purged.rows)] = 0
        return replace(self.examples, inputs=inputs)

    @cached_property
    def dataset(self) -> Artifact:
        """The dataset as an artifact; rows that were purged are not written again."""
        if self.purged is None:
            return super().dataset
        return self.obtain("dataset", "without what was purged", self.dataset_spec, self._without_purged().write)

    @cached_property
    def subject(self) -> Artifact:
        """The given network (or several, as an ensemble)."""
        tensors, spec = self.given.ensemble.tensors(), self._given_spec
        if self.store.find(spec) is None:
            tensors["logits"] = self.given.answers

        def make(draft: Draft) -> None:
            members = len(self.given.ensemble)
            draft.layout([[0, members]])
            draft.write_shard(0, tensors, {"members": members, "seconds": 0.0, "history": [], "sample_gradients": 0})

        return self.obtain("given", "the given network", spec, make)

    @cached_property
    def _given_spec(self) -> Spec:
        """What determines the artifact of the given network."""
        numbers = content_hash(*(value.cpu() for value in self.given.ensemble.tensors().values()))
        config = {"network": self.config.model.network}
        inputs = {"dataset": self.dataset_spec.digest, "numbers": numbers}
        if self.given.blank:  # its answers there are those to zeros
            inputs["blank"] = content_hash(torch.tensor(self.given.blank))
        return Spec("given", config, inputs)

    def given_answers(self) -> Answers:
        """Return the answers of the given network on all points, after checking that it was trained on this data.

        Nothing is written.

        Raises:
            UserError: it was not; see :func:`dmm_exp.deletion.belonging.check_answers`.
        """
        kept = self.store.find(self._given_spec)
        logits = self.given.answers if kept is None else kept.stacked("logits")
        check_answers(logits, self.examples, self.given.blank)
        return Answers.of(logits, self.examples.labels)

    def full_answers(self) -> Answers:
        """Return the answers of the networks that were trained by the recipe on everything; they are kept."""
        spec = Spec("answers", {}, {"originals": self.originals.digest})

        def make(draft: Draft) -> None:
            found = Answers.of(self.originals.stacked("logits"), self.examples.labels)
            draft.write_tensors("answers", {name: torch.from_numpy(value) for name, value in vars(found).items()})

        kept = self.store.obtain(spec, make).tensors("answers")
        return Answers(**{name: value.numpy() for name, value in kept.items()})

    @cached_property
    def originals(self) -> Artifact:
        """Networks trained by the recipe, as the pool is; without a pool the given one alone."""
        return super().originals if self.pooled else self.subject

    @cached_property
    def forget(self) -> Tensor:
        """Nothing: rows are named when they are asked for."""
        return torch.zeros(0, dtype=torch.long)

    def _trained(
        self, name: str, detail: str, members: int, job: TrainJob, initial: Artifact | None = None
    ) -> Artifact:
        network = self.config.model.network
        build = registered(network["name"]) if network["_target_"] == REGISTERED else None
        if isinstance(build, Fresh):
            build.check_buffers(name.removeprefix("network.") for name in self.stacking.changed)
        with self._training_nothing_after_a_purge(name):
            return super()._trained(name, detail, members, job, initial)

    @contextmanager
    def _training_nothing_after_a_purge(self, name: str) -> Iterator[None]:
        """Let a pool that was purged give what is there alone: it lacks the data to train more.

        Raises:
            UserError: an ensemble is not there.
        """
        self.store.read_only = self.purged is not None
        try:
            yield
        except Missing as error:
            raise UserError(
                f"pool={self.store.root.parent}: lacks {name} or they are damaged, and cannot train them after a purge "
                "removed rows; expected another pool (prepare)"
            ) from error
        finally:
            self.store.read_only = False

    @cached_property
    def stacking(self) -> Stacking:
        """How untrained networks of the given one's architecture can be trained."""
        return self._stacking_of(self.given.build, ("untrained", self._architecture))

    @cached_property
    def _architecture(self) -> Hashable:
        """What tells the architecture from others, within this process."""
        return str(self.config.model.network), fingerprint(self.given.ensemble.skeleton)

    def check_steps(self) -> None:
        """Check that a method can take steps from the given network, and note what of it they do not train.

        Raises:
            UserError: it cannot.
        """
        found = self._stacking_of(lambda: self.given.ensemble.member(0), ("given", self._architecture))
        found.check()
        notice = found.notice(one_at_a_time=False)
        if notice is not None:
            self.console.note_once(notice, about=str(self.config.model.network))

    def one_original(self) -> Artifact:
        """Return one network trained by the recipe, alone and with nothing watched: what retraining takes."""
        job = replace(self._job("original"), keep=("parameters",))
        return self._trained("one network", "trained alone", 1, job)

    def lds(self) -> float | None:
        """Return the linear datamodeling score of the pool on its members that estimators do not see, over points.

        What the estimator learns for it is kept, and serves the requests that follow.
        """
        nothing = torch.zeros(0, dtype=torch.long)
        found = float(self._lds_by_alpha(self._learned(nothing), self._evidence(nothing))["lds"].nanmean())
        return found if isfinite(found) else None

    def _sources_of_effect(self, gone: Tensor) -> dict[str, Artifact]:
        if self.pooled:
            return super()._sources_of_effect(gone)
        return {"gradients": self.gradients, "originals": self.subject}

    def _evidence(self, gone: Tensor) -> Evidence:
        if self.pooled:
            return super()._evidence(gone)
        parts = {name: self.gradients.stacked(name) for name in ("train", "weights", "targets")}
        return Evidence(
            self._groups(gone),
            self.examples.n_train,
            gradients=Gradients(**parts),
            originals=self.subject.stacked("logits"),
            labels=self.examples.labels,
        )

    def predicted(self, gone: Tensor) -> dict[str, Tensor]:
        """Return the ``effect`` of some training points ``[points, classes]``, and its ``standard_error`` if known."""
        return self.effect_of(gone).tensors("effect")


def pool_free_attribution(given: Given) -> Node:
    """Return the configuration of an estimator that needs the given network alone: factored TRAK where it can."""
    from dmm_exp.deletion.recipes import composed

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
        new: sorted training indices that have to go now; None for all.
        gone: all that have to be gone afterwards.
        seed: of the method.
    """

    deletion: Deletion
    current: Ensemble
    origin: Tensor
    new: Tensor | None
    gone: Tensor
    seed: int

    @property
    def count(self) -> int:
        """Number of rows that have to go now."""
        return len(self.gone if self.new is None else self.new)

    def carry_out(self, unlearner: Unlearner) -> tuple[Unlearned, Tensor | None]:
        """Unlearn the rows, and return what came out and the logits that it was to match, if any.

        A method that matches predictions is given everything that is gone, since that is what is predicted.
        """
        examples, config = self.deletion.examples, self.deletion.config
        predicts = unlearner.target == "predicted"
        targets = self.origin - self.deletion.predicted(self.gone)["effect"] if predicts else None
        task = UnlearningTask(
            originals=evaluation_copy(self.current, config.trainer),
            examples=examples,
            forget=self.deletion.given.still_there(self.gone if predicts or self.new is None else self.new),
            retain=AllBut(examples.n_train, self.gone).indices(range(1))[0],
            seed=self.seed,
            members=range(len(self.current)),
            targets=targets,
            build=model_factory(config.model.network, examples),
            recipe=recipe(plain(config.training)),
            make_trainer=trainer_factory({**config.trainer, "engine": vars(Engine().settled())}),
        )
        return unlearner.unlearn(task), targets
