"""The picture of the architecture, as code.

dataset → pool → scores → forget set → originals, oracles → effect → unlearned models: each stage is an artifact, made
when something asks for it and reused ever after. No stage knows which stage asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch

from dmm_exp.config.instantiate import check_options_of, instantiate
from dmm_exp.config.schema import Node, plain
from dmm_exp.ensembles.engine import Engine
from dmm_exp.ensembles.optimisation import check_optimizer
from dmm_exp.ensembles.work import model_factory, recipe
from dmm_exp.metrics import KlomOptions, check_attack, check_options
from dmm_exp.pipeline.attack import Attack
from dmm_exp.pipeline.learning import LastLearned
from dmm_exp.pipeline.stages import content_hash
from dmm_exp.refinement import Part
from dmm_exp.scores import FROM_POOL
from dmm_exp.store import Artifact, Draft, Missing, Spec
from dmm_exp.unlearners import Unlearner
from dmm_exp.unlearners.unlearner import Target
from dmm_exp.unlearners.work import PartJob, UnlearnJob, unlearn_chunk

_MADE_AS = {  # stage → the role of its models, or the kind of its artifact
    "pool": "subset",
    "larger": "larger",
    "originals": "original",
    "oracles": "oracle",
    "floor_oracles": "floor_oracle",
    "target_oracles": "target_oracle",
    "unlearned": "unlearned",
    "base_models": "base",
    "attacked": "attacked",
}


class Pipeline(Attack):
    """One experiment: its stages, each made at most once. Arguments are those of :class:`Prediction`."""

    def __init__(self, *parts: Any, learned: LastLearned | None = None) -> None:
        super().__init__(*parts, learned=learned)
        self.unlearner: Unlearner = instantiate(self.config.unlearner)

    def check(self) -> None:
        """Raise ``UserError`` for what cannot work, before anything is computed or written."""
        check_options_of("evaluation.klom", self.config.evaluation.klom, KlomOptions)
        check_options_of("evaluation.mia", self.config.evaluation.mia, check_attack)
        check_options(**self.config.evaluation.klom)
        check_attack(**self.config.evaluation.mia)
        self.selector.check(self.examples)
        self.check_attack()
        model = model_factory(self.config.model.network, self.examples)()
        if "predicted" in self.targets:
            self.estimator.check(model)
        self.check_scores(self.families)
        Engine(**plain(self.config.engine))
        self._check_recipe(recipe(plain(self.config.training)))
        check_optimizer(recipe(plain(self.config.scores.held_out))["optimizer"], "scores.held_out.optimizer")

    def _check_recipe(self, parts: Node) -> None:
        check_optimizer(parts["optimizer"], "training.optimizer")
        first, zero = self.examples.inputs[None, :1], torch.zeros(1, dtype=torch.long)
        parts["augmentation"](first, zero, zero[None], 0)

    @cached_property
    def parts(self) -> list[Part]:
        """The forget set in the parts in which it is unlearned, each with the configuration of its unlearner."""
        scores = self.scores if self.refinement.needs_scores else None
        own = self.config.unlearner
        return [replace(part, unlearner=part.unlearner or own) for part in self.refinement.parts(self.forget, scores)]

    @cached_property
    def unlearners(self) -> list[Unlearner]:
        """The unlearner of each part, in the order of parts."""
        own = self.config.unlearner
        return [instantiate(unlearner or own) for unlearner in self.refinement.unlearners.values()]

    @property
    def targets(self) -> list[Target]:
        """What each part's unlearner matches, in the order of parts."""
        return [unlearner.target for unlearner in self.unlearners]

    @property
    def nests(self) -> bool:
        """Whether a run of few epochs is the beginning of a longer one."""
        return len(self.unlearners) == 1 and self.unlearners[0].nests

    @property
    def predicts(self) -> bool:
        """Whether the effect of the whole forget set is predicted: the last part's unlearner matches a prediction."""
        return self.targets[-1] == "predicted"

    @cached_property
    def subject(self) -> Artifact:
        """The models that are unlearned: the originals, unless a subclass is given others."""
        return self.originals

    @cached_property
    def unlearned(self) -> Artifact:
        """As many unlearned models as there are in :attr:`subject`."""
        parts = [self._part_job(place) for place in range(len(self.parts))]
        config = {
            "parts": [part.unlearner for part in self.parts],
            "seed": self.config.seed,
            "trainer": self._trainer_identity,
        }
        inputs, families = {"originals": self.subject.digest}, {"originals": self.subject.spec.family}
        for place, (part, artifact) in enumerate(parts):
            inputs[f"points {place}"] = content_hash(torch.tensor(part.points))
            inputs |= {f"target {place}": artifact.digest} if artifact else {}
            families |= {f"target {place}": artifact.spec.family} if artifact and part.oracles else {}
        spec = Spec("unlearned", config, inputs, families)

        def make(draft: Draft) -> None:
            def job(shard: int, start: int, stop: int) -> UnlearnJob:
                return UnlearnJob(
                    parts=tuple(part for part, _ in parts),
                    examples=self.dataset.path,
                    originals=self.subject.path,
                    model=self.config.model.network,
                    training=plain(self.config.training),
                    trainer=self.trainer,
                    seed=self.config.seed,
                    output=draft.path,
                    shard=shard,
                    start=start,
                    stop=stop,
                )

            self._run_shards("unlearning", draft, unlearn_chunk, job, self.config.n_models)

        return self.obtain("unlearning", f"{self.config.n_models:,} models by {self._methods}", spec, make)

    @property
    def _methods(self) -> str:
        """The classes of the parts' unlearners, in their order."""
        names = [str(part.unlearner["_target_"]).rpartition(".")[2] for part in self.parts if part.unlearner]
        return names[0] if len(set(names)) == 1 else ", then ".join(names)

    def _part_job(self, place: int) -> tuple[PartJob, Artifact | None]:
        """Return what is to do for a part, and the artifact that its targets come from.

        A part's targets are those of models without it *and* without the parts before it.
        """
        part, target = self.parts[place], self.targets[place]
        gone = torch.cat([part.points for part in self.parts[: place + 1]]).sort().values
        oracles = self.target_oracles(gone) if target == "oracle" else None
        effect = self.effect_of(gone) if target == "predicted" else None
        assert part.unlearner is not None
        return PartJob(
            unlearner=part.unlearner,
            points=tuple(part.points.tolist()),
            oracles=oracles.path if oracles else None,
            effect=effect.path if effect else None,
        ), oracles or effect

    def needed(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield (name, maker) of every stage that this configuration needs, in the order of the picture."""
        predicted, by_pool = "predicted" in self.targets, self.estimator.source != "oracles"
        wants = {
            "dataset": True,
            "pool": bool(set(self.families) & set(FROM_POOL)) or (predicted and by_pool),
            "larger": predicted and self.extrapolates,
            "scores": self.needs_scores,
            "originals": True,
            "oracles": True,
            "floor_oracles": True,
        }
        for name, wanted in wants.items():
            if wanted:
                yield name, lambda name=name: getattr(self, name)
        for place, target in enumerate(self.targets):
            if target != "none":
                yield {"oracle": "target_oracles", "predicted": "effect"}[target], partial(self._part_job, place)
        yield "unlearned", lambda: self.unlearned

    def make(self) -> None:
        """Make every stage that is needed and not there."""
        for _, maker in self.needed():
            maker()

    def plan(self) -> list[PlannedStage]:
        """Say which stages exist and what making the others would cost; with a read-only store nothing is made."""
        return [self._planned(name, maker) for name, maker in (*self.needed(), *self.stages_of_attack())]

    def _planned(self, name: str, maker: Callable[[], Any]) -> PlannedStage:
        models, gradients = self._work(name)
        try:
            maker()
        except Missing as missing:
            own = missing.spec.config.get("role", missing.spec.kind) == _MADE_AS.get(name)
            taken_over = min(missing.relative.members, models) if own and missing.relative else 0
            todo = models - taken_over
            return PlannedStage(name, False, todo, round(gradients * todo / max(1, models)), taken_over)
        return PlannedStage(name, True, models, gradients)

    def _work(self, name: str) -> tuple[int, int]:
        """Return (models, sample-gradient evaluations) of making a stage; 0 where nothing is trained from scratch."""
        epochs, n_train = self.config.training.epochs, self.examples.n_train
        if name in ("pool", "larger"):
            pool = self.config.pool if name == "pool" else self.config.pool.larger
            return pool.size, round(pool.size * epochs * pool.alpha * n_train)
        if name.endswith(("originals", "oracles")):
            return self.config.n_models, self.config.n_models * epochs * n_train
        if name == "base_models":
            bases = self.attack.base_models
            return bases, bases * epochs * self.base_subsets.size
        if name == "attacked":
            return self.attack.base_models * self.attack.forget_sets, 0
        return (self.config.n_models, 0) if name == "unlearned" else (0, 0)


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a plan.

    Attributes:
        name: of the stage.
        exists: whether it would be reused.
        models: number of models it trains.
        sample_gradients: gradient evaluations of single examples that training them from scratch takes.
        taken_over: number of further models, which another artifact has already.
    """

    name: str
    exists: bool
    models: int
    sample_gradients: int
    taken_over: int = 0
