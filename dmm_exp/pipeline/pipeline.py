"""The stages of an experiment.

dataset → pool → scores → forget set → originals, oracles → effect → unlearned models: each stage is an artifact, which
is computed when it is needed and then reused. No stage depends on the stages that use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dmm_exp.config.schema import Node, plain
from dmm_exp.data import Rows
from dmm_exp.ensembles.by_function import by_function
from dmm_exp.ensembles.engine import Engine
from dmm_exp.ensembles.optimisation import check_optimizer
from dmm_exp.errors import UserError
from dmm_exp.forget import Selector
from dmm_exp.metrics.settings import check_settings
from dmm_exp.pipeline.chunks import Chunks
from dmm_exp.pipeline.context import Context
from dmm_exp.pipeline.effects import Effects, FromPool
from dmm_exp.pipeline.models import Models
from dmm_exp.pipeline.plan import Stage, training
from dmm_exp.pipeline.scores import Scores
from dmm_exp.pipeline.unlearning import Unlearning
from dmm_exp.pools import role_of
from dmm_exp.refinement import Part, Refinement
from dmm_exp.scores import FROM_POOL, families_of
from dmm_exp.store import Artifact
from dmm_exp.unlearners import Unlearner
from dmm_exp.unlearners.unlearner import Target

if TYPE_CHECKING:
    import pandas as pd


class Pipeline:
    """One experiment: a forget set, models retrained without it, and unlearned models.

    Args:
        context: configuration, data and store.
        models: trained by the recipe.
        effects: predictions; by default those of the configured estimator.
        forget: rows to forget; those that the configuration chooses by default.
    """

    def __init__(
        self,
        context: Context,
        models: Models | None = None,
        effects: Effects | None = None,
        forget: Rows | None = None,
    ) -> None:
        config = context.config
        self.context = context
        self.models = models or Models(Chunks(context))
        self.scores = Scores(self.models)
        self.effects = effects or Effects.of_experiment(self.models)
        self.selector: Selector = context.made(config.forget, "forget")
        self.refinement: Refinement = context.made({**config.refinement, "_recursive_": False}, "refinement")
        self.unlearner: Unlearner = context.made(config.unlearner, "unlearner")
        self._forget = forget

    def check(self) -> None:
        """Raise ``UserError`` for settings that cannot work, before anything is computed or written."""
        config, examples = self.context.config, self.context.examples
        check_settings(config.evaluation)
        self.selector.check(examples)
        self._check_parts()
        model = self.context.network()
        if "predicted" in self.targets:
            self.effects.estimator.check(model)
            self.effects.check()
        self.scores.check(self.families)
        Engine(**plain(config.engine))
        self._check_recipe(self.context.recipe(config.training))
        check_optimizer(self.context.recipe(config.scores.held_out)["optimizer"], "scores.held_out.optimizer")

    def _check_parts(self) -> None:
        for unlearner in self.unlearners:
            unlearner.check_inputs(self.context.examples, "unlearner")
        for unlearner in self.unlearners[:-1]:
            if not unlearner.returns_models:
                raise UserError(
                    f"refinement: {type(unlearner).__name__} returns predictions and no models; it can only be last"
                )
        training = plain(self.context.config.training)
        for unlearner in self.unlearners:
            if unlearner.needs_training and by_function(training):
                raise UserError(f"unlearner: {type(unlearner).__name__} needs a recipe of conf/training, no function")
            if unlearner.starts_at is not None and unlearner.starts_at > training["epochs"]:
                raise UserError(
                    f"unlearner.rewind_to={unlearner.starts_at}: expected an epoch of the originals' training, from 0 "
                    f"(retraining) to {training['epochs']} (nothing is done)"
                )

    def _check_recipe(self, parts: Node) -> None:
        check_optimizer(parts["optimizer"], "training.optimizer")
        first, zero = self.context.examples.inputs[None, :1], torch.zeros(1, dtype=torch.long)
        parts["augmentation"](first, zero, zero[None], 0)

    @property
    def families(self) -> list[str]:
        """The families of scores that the forget set or its refinement depends on."""
        users = (self.selector, self.refinement)
        return families_of([user.score for user in users if user.needs_scores])

    @cached_property
    def needed_scores(self) -> pd.DataFrame:
        """The scores of these families, one row a training example."""
        return self.scores.table(self.families)

    @cached_property
    def forget(self) -> Rows:
        """The rows to forget."""
        if self._forget is not None:
            return self._forget
        scores = self.needed_scores if self.selector.needs_scores else None
        rows = self.selector.rows(self.context.examples, scores)
        remark = self.selector.remark(rows, scores)
        number = f"{len(rows)} of {rows.n_train:,} training examples"
        self.context.console.note(f"forget set: {number}{': ' * bool(remark)}{remark}")
        return rows

    @cached_property
    def groups(self) -> Tensor:
        """The group of each point: 0 forget, 1 retain, 2 validation; ``[points]``."""
        return self.forget.groups(self.context.examples.n_points)

    @cached_property
    def oracles(self) -> Artifact:
        """N models retrained without the forget set; metrics compare with these."""
        return self.models.retrained("oracles", "oracle", self.forget)

    @cached_property
    def floor_oracles(self) -> Artifact:
        """N further models, independent of the oracles: the distance between both is the noise floor."""
        return self.models.retrained("floor oracles", "floor_oracle", self.forget)

    @cached_property
    def effect(self) -> Artifact:
        """The change of every logit by including the forget set; see :meth:`Effects.of`."""
        return self.effects.of(self.forget, "the forget set")

    @cached_property
    def parts(self) -> list[Part]:
        """The parts of the forget set that are unlearned in turn, each with the configuration of its unlearner."""
        scores = self.needed_scores if self.refinement.needs_scores else None
        own = self.context.config.unlearner
        return [replace(part, unlearner=part.unlearner or own) for part in self.refinement.parts(self.forget, scores)]

    @cached_property
    def unlearners(self) -> list[Unlearner]:
        """The unlearner of each part, in the order of parts."""
        own, made = self.context.config.unlearner, self.context.made
        return [
            made(unlearner, f"refinement.{name}.unlearner") if unlearner else made(own, "unlearner")
            for name, unlearner in self.refinement.unlearners.items()
        ]

    @property
    def targets(self) -> list[Target]:
        """The kind of targets of each part's unlearner, in the order of parts."""
        return [unlearner.target for unlearner in self.unlearners]

    @property
    def nests(self) -> bool:
        """Whether a shorter run is the beginning of a longer one."""
        return len(self.unlearners) == 1 and self.unlearners[0].nests

    @property
    def predicts(self) -> bool:
        """Whether the effect of the whole forget set is predicted: the last part's unlearner matches a prediction."""
        return self.targets[-1] == "predicted"

    @cached_property
    def unlearning(self) -> Unlearning:
        """The unlearning of the parts."""
        return Unlearning(self.models, self.effects, self.parts, self.unlearners)

    @cached_property
    def unlearned(self) -> Artifact:
        """The unlearned models, one for each original."""
        return self.unlearning.models_of(self.models.originals)

    def stages(self) -> Iterator[Stage]:
        """Yield every stage that this configuration needs, in order."""
        context, models, config = self.context, self.models, self.context.config
        from_pool = bool(set(self.families) & set(FROM_POOL))
        source = self.effects.source if "predicted" in self.targets else None
        of_pool = partial(training, context, size=models.pool_member_bytes)
        of_networks = partial(training, context, size=models.member_bytes)
        yield Stage("dataset", lambda: context.dataset, bytes=self._dataset_bytes)
        if from_pool or isinstance(source, FromPool):
            yield of_pool("pool", lambda: models.pool, config.pool.size, config.pool.alpha)
        if isinstance(source, FromPool) and source.extrapolates:
            larger = config.pool.larger
            yield of_pool("larger", lambda: models.larger, larger.size, larger.alpha)
        for name in source.designs if isinstance(source, FromPool) else ():
            design = models.designs[name]
            make = partial(models.designed, name)
            yield of_pool(role_of(name), make, design.members, 1 - design.about)
        if self.families:
            yield Stage("scores", lambda: self.needed_scores)
        yield of_networks("originals", lambda: models.originals, config.n_models)
        yield of_networks("oracles", lambda: self.oracles, config.n_models)
        yield of_networks("floor_oracles", lambda: self.floor_oracles, config.n_models)
        for place, target in enumerate(self.targets):
            if target == "oracle":
                yield of_networks("target_oracles", partial(self._job, place), config.n_models)
            elif target == "predicted":
                if few := self.effects.estimator.oracles:
                    rows = partial(self.unlearning.gone, place)
                    yield of_networks("few_oracles", lambda rows=rows: self.effects.correcting(rows()), few)
                yield Stage("effect", partial(self._job, place), bytes=2 * self._effect_bytes)
            if (epoch := self.unlearners[place].starts_at) is not None:
                share = epoch / config.training.epochs
                yield of_networks("early_originals", partial(models.early, epoch), config.n_models, share)
        epochs = sum(unlearner.epochs for unlearner in self.unlearners)
        gradients, size = config.n_models * epochs * context.examples.n_train, config.n_models * models.member_bytes
        yield Stage("unlearned", lambda: self.unlearned, config.n_models, gradients, size)

    @property
    def _dataset_bytes(self) -> int:
        examples = self.context.examples
        return examples.inputs.nbytes + examples.labels.nbytes

    @property
    def _effect_bytes(self) -> int:
        return 4 * self.context.examples.n_points * self.context.examples.n_classes

    def _job(self, place: int) -> object:
        return self.unlearning.job(place)

    def make(self) -> None:
        """Compute every stage that is needed and does not exist."""
        for stage in self.stages():
            stage.make()
