"""The models for the strong form of U-LiRA: base models on random subsets, which forget many small sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from dmm_exp.config.schema import plain
from dmm_exp.data import Rows, content_hash
from dmm_exp.ensembles import RandomSubsets, member_generator, member_seed
from dmm_exp.ensembles.work import ShardJob, run_shards
from dmm_exp.errors import UserError
from dmm_exp.executors import Local
from dmm_exp.forget import class_index
from dmm_exp.metrics import check_seen
from dmm_exp.pipeline import Pipeline
from dmm_exp.pipeline.code import with_code
from dmm_exp.pipeline.effects import FromPool
from dmm_exp.pipeline.plan import Stage, training
from dmm_exp.refinement import Whole
from dmm_exp.store import Artifact, Draft, Spec
from dmm_exp.unlearners.pairs import Pair, PairsJob, unlearn_pairs

EFFECTS_AT_ONCE = 1 << 25  # numbers that are predicted together and stored in one file; 128 MiB
KEY = "evaluation.strong_ulira"


class Attack:
    """Base models, forget sets, and every base model after unlearning every set; only if the attack is configured.

    Base models are trained like the pool's members, on other subsets, so that the pool can predict what unlearning
    should change.

    Args:
        pipeline: whose unlearner is attacked.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.context, self.config = pipeline.context, pipeline.context.config
        self.models, self.unlearner, self.estimator = pipeline.models, pipeline.unlearner, pipeline.effects.estimator
        self.settings = self.config.evaluation.strong_ulira

    @property
    def is_configured(self) -> bool:
        """Whether the attack is configured."""
        return self.settings.forget_sets > 0

    def check(self) -> None:
        """Raise ``UserError`` if the attack is configured but cannot work."""
        if not self.is_configured:
            return
        setting = f"{KEY}.forget_sets={self.settings.forget_sets}"
        if not isinstance(self.pipeline.refinement, Whole):
            raise UserError(f"{setting}: its forget sets are too small to be split; expected refinement=none")
        if self.unlearner.starts_at is not None:
            raise UserError(
                f"{setting}: {type(self.unlearner).__name__} would need an early checkpoint of every base model; "
                "expected an unlearner that begins at trained models"
            )
        if self.unlearner.target == "oracle":
            raise UserError(
                f"{setting}: {type(self.unlearner).__name__} would need models retrained without each set; expected an "
                "unlearner that matches none"
            )
        if self.unlearner.target == "predicted" and self.estimator.source == "oracles":
            raise UserError(
                f"{setting}: {type(self.estimator).__name__} predicts the run's own forget set only; expected another "
                "attribution"
            )
        check_seen(self.base_subsets.masks(self._base_numbers).numpy(), self.base_subsets.block)
        if self.settings.drawn_from == "class":
            self._check_candidates(self._of_class())

    @property
    def _base_numbers(self) -> range:
        return range(self.settings.base_models)

    @property
    def base_subsets(self) -> RandomSubsets:
        """The training subsets of base models, of the same kind as the pool's."""
        return replace(self.models.subsets, role="base")

    @cached_property
    def base_models(self) -> Artifact:
        """The models that are attacked."""
        members, job = len(self._base_numbers), replace(self.models.job("base"), subsets=self.base_subsets)
        return self.models.trained("base models", f"{members:,} models on random subsets, to be attacked", members, job)

    @cached_property
    def forget_sets(self) -> Tensor:
        """The examples that base models forget, ``[sets, size]``, each row sorted; set k depends on k alone."""
        candidates = self._of_class() if self.settings.drawn_from == "class" else self.pipeline.forget.indices
        self._check_candidates(candidates)
        drawn = []
        for number in range(self.settings.forget_sets):
            generator = member_generator(self.config.seed, "attack", number, "subset")
            order = torch.randperm(len(candidates), generator=generator)
            drawn.append(candidates[order[: self.settings.size]].sort().values)
        return torch.stack(drawn)

    def _of_class(self) -> Tensor:
        """Return the training examples of the class from which sets are drawn; by default the largest class."""
        labels, position = self.context.examples.labels[: self.context.examples.n_train], self.settings.position
        if self.settings.label is None and position is None:
            label = int(labels.bincount().argmax())
        else:
            label = class_index(self.settings.label, self.context.examples.class_names, f"{KEY}.label", position)
        return (labels == label).nonzero().squeeze(1)

    def _check_candidates(self, candidates: Tensor) -> None:
        if self.settings.size > len(candidates):
            raise UserError(
                f"{KEY}.size={self.settings.size}: {KEY}.drawn_from={self.settings.drawn_from} has "
                f"{len(candidates)} training examples; expected at most as many"
            )

    @cached_property
    def pairs(self) -> list[Pair]:
        """Base models and sets with something to forget, ordered by the number of examples to forget."""
        bases, sets = len(self._base_numbers), self.forget_sets
        known = self.base_subsets.masks(self._base_numbers)[:, sets].sum(2).T.flatten()
        order = known.argsort(stable=True)
        return [
            Pair(number, number % bases, tuple(sets[number // bases].tolist()))
            for number in order[known[order] > 0].tolist()
        ]

    @cached_property
    def attacked(self) -> Artifact:
        """The logits of every unlearned pair on the examples of its set, ``logits [pairs, size, classes]``."""
        effects = self.pair_effects if self.unlearner.target == "predicted" else None
        inputs = {"bases": self.base_models.digest, "sets": content_hash(self.forget_sets)}
        inputs |= {"effects": effects.digest} if effects else {}
        config = {
            "unlearner": self.config.unlearner,
            "seed": self.config.seed,
            "trainer": self.context.trainer_identity,
        }

        def make(draft: Draft) -> None:
            job = PairsJob(
                pairs=tuple(self.pairs),
                unlearner=self.config.unlearner,
                examples=self.context.dataset.path,
                bases=self.base_models.path,
                effects=effects.path if effects else None,
                model=self.config.model.network,
                training=plain(self.config.training),
                trainer=self.models.chunks.trainer,
                seed=member_seed(self.config.seed, "attack", 0, "order"),
            )
            self.models.chunks.run("attacked", draft, unlearn_pairs, job, len(self.pairs))

        detail = f"{len(self.pairs):,} base models unlearned of {len(self.forget_sets)} small sets"
        return self.context.obtain("attacked", detail, Spec("attacked", with_code(config), inputs), make)

    @cached_property
    def pair_effects(self) -> Artifact:
        """The effect of a pair's forget points on every logit of its base, ``effect [pairs, points, classes]``.

        It is predicted at the size of the pool's subsets, which is that of the base models' subsets.
        """
        rows = Rows(self.forget_sets.unique(), self.context.examples.n_train)
        sources = {
            name: artifact
            for name, artifact in self.pipeline.effects.source.artifacts(rows).items()
            if name in ("pool", "gradients")
        }
        inputs = {name: artifact.digest for name, artifact in sources.items()} | {"bases": self.base_models.digest}
        config = {
            "estimator": self.config.attribution,
            "held_out": self.config.pool.held_out,
            "of": "pairs",
        }
        spec = Spec("effect", with_code(config), inputs | {"sets": content_hash(self.forget_sets)})
        detail = f"effects of what {len(self.pairs):,} base models forget by {type(self.estimator).__name__}"
        return self.context.obtain("effects", detail, spec, lambda draft: self._make_pair_effects(draft, rows))

    def _make_pair_effects(self, draft: Draft, rows: Rows) -> None:
        source = self.pipeline.effects.source
        assert isinstance(source, FromPool)
        learned = source.estimator.at_size_of_pool.learn(source.at_size_of_pool(rows))
        masks = self.base_models.stacked("masks")

        def predict(job: ShardJob) -> None:
            directions = torch.zeros(job.stop - job.start, rows.n_train)
            for direction, pair in zip(directions, self.pairs[job.start : job.stop], strict=True):
                direction[list(pair.chosen)] = masks[pair.base, list(pair.chosen)].float()
            effect = {"effect": learned.predict(directions)}
            draft.write_shard(job.shard, effect, {}, members=(job.start, job.stop))

        run_shards(
            draft,
            predict,
            ShardJob(),
            members=len(self.pairs),
            chunk_size=max(1, EFFECTS_AT_ONCE // (self.context.examples.n_points * self.context.examples.n_classes)),
            executor=Local(),
            progress=lambda total: self.context.console.progress("effects", total),
        )

    def attacked_answers(self) -> tuple[Tensor, Tensor]:
        """Return logits of all base models on the examples of all sets, before and after forgetting them.

        Both are ``[bases, sets, size, classes]``. A base model without any example of a set stays as it is.
        """
        bases, sets = len(self._base_numbers), self.forget_sets
        before = self.base_models.stacked("logits")[:, sets]
        numbers = torch.tensor([pair.number for pair in self.pairs])
        after = before.clone()
        after[numbers % bases, numbers // bases] = self.attacked.stacked("logits")
        return before, after

    def stages(self) -> Iterator[Stage]:
        """Yield every stage that the attack needs besides those of the run."""
        if self.is_configured:
            bases, share = self.settings.base_models, self.base_subsets.size / self.context.examples.n_train
            size = self.models.member_bytes + self.context.examples.n_train
            yield training(self.context, "base_models", lambda: self.base_models, bases, share, size=size)
            pairs = bases * self.settings.forget_sets
            gradients = pairs * self.unlearner.epochs * round(share * self.context.examples.n_train)
            answers = 4 * pairs * self.settings.size * self.context.examples.n_classes
            yield Stage("attacked", lambda: self.attacked, pairs, gradients, answers)
