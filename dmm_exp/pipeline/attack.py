"""What the strong form of U-LiRA attacks: base models on random subsets, each made to forget many small sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dmm_exp.config.schema import StrongUliraConfig, plain
from dmm_exp.ensembles import RandomSubsets, member_generator, member_seed
from dmm_exp.ensembles.work import run_shards
from dmm_exp.errors import UserError
from dmm_exp.executors import Local
from dmm_exp.forget import class_index
from dmm_exp.metrics import check_seen
from dmm_exp.pipeline.prediction import Prediction
from dmm_exp.pipeline.stages import content_hash
from dmm_exp.refinement import Whole
from dmm_exp.store import Artifact, Draft, Spec
from dmm_exp.unlearners import Unlearner
from dmm_exp.unlearners.pairs import Pair, PairsJob, unlearn_pairs

EFFECTS_AT_ONCE = 1 << 25  # numbers that are predicted together, and kept in one file; 128 MiB
KEY = "evaluation.strong_ulira"


class Block(NamedTuple):
    """Pairs ``start … stop-1``, whose effects are one shard."""

    shard: int
    start: int
    stop: int


class Attack(Prediction):
    """Base models, forget sets, and every base model unlearned of every set; absent unless it is asked for.

    Base models are trained as the pool's members are, on subsets of their own, so that the pool can predict what
    unlearning should change.
    """

    unlearner: Unlearner

    @property
    def attack(self) -> StrongUliraConfig:
        """Settings of the attack."""
        return self.config.evaluation.strong_ulira

    @property
    def attacks(self) -> bool:
        """Whether the attack is asked for."""
        return self.attack.forget_sets > 0

    def check_attack(self) -> None:
        """Raise ``UserError`` if the attack is asked for but cannot work."""
        if not self.attacks:
            return
        asked = f"{KEY}.forget_sets={self.attack.forget_sets}"
        if not isinstance(self.refinement, Whole):
            raise UserError(f"{asked}: its forget sets are too small to be split; expected refinement=none")
        if self.unlearner.target == "oracle":
            raise UserError(
                f"{asked}: {type(self.unlearner).__name__} would need models retrained without each set; expected an "
                "unlearner that matches none"
            )
        if self.unlearner.target == "predicted" and self.estimator.source == "oracles":
            raise UserError(
                f"{asked}: {type(self.estimator).__name__} predicts the run's own forget set only; expected another "
                "attribution"
            )
        check_seen(self.base_subsets.masks(self._base_numbers).numpy(), self.base_subsets.block)
        if self.attack.drawn_from == "class":
            self._check_candidates(self._of_class())

    @property
    def _base_numbers(self) -> range:
        return range(self.attack.base_models)

    @property
    def base_subsets(self) -> RandomSubsets:
        """What base models are trained on: subsets like the pool's, but others."""
        return replace(self.subsets, role="base")

    @cached_property
    def base_models(self) -> Artifact:
        """The models that are attacked."""
        members, job = len(self._base_numbers), replace(self._job("base"), subsets=self.base_subsets)
        return self._trained("base models", f"{members:,} models on random subsets, to be attacked", members, job)

    @cached_property
    def forget_sets(self) -> Tensor:
        """The examples that base models have to forget, ``[sets, size]``, each row sorted; set k depends on k alone."""
        candidates = self._of_class() if self.attack.drawn_from == "class" else self.forget
        self._check_candidates(candidates)
        drawn = []
        for number in range(self.attack.forget_sets):
            generator = member_generator(self.config.seed, "attack", number, "subset")
            order = torch.randperm(len(candidates), generator=generator)
            drawn.append(candidates[order[: self.attack.size]].sort().values)
        return torch.stack(drawn)

    def _of_class(self) -> Tensor:
        """Return the training examples of the class that sets are drawn from: the largest, or the one asked for."""
        labels, asked = self.examples.labels[: self.examples.n_train], self.attack.label
        position = self.attack.position
        if asked is None and position is None:
            label = int(labels.bincount().argmax())
        else:
            label = class_index(asked, self.examples.class_names, f"{KEY}.label", position)
        return (labels == label).nonzero().squeeze(1)

    def _check_candidates(self, candidates: Tensor) -> None:
        if self.attack.size > len(candidates):
            raise UserError(
                f"{KEY}.size={self.attack.size}: {KEY}.drawn_from={self.attack.drawn_from} has "
                f"{len(candidates)} training examples; expected at most as many"
            )

    @cached_property
    def pairs(self) -> list[Pair]:
        """Base models and sets with something to forget, those with as much of it next to each other."""
        bases, sets = len(self._base_numbers), self.forget_sets
        known = self.base_subsets.masks(self._base_numbers)[:, sets].sum(2).T.flatten()
        order = known.argsort(stable=True)
        return [
            Pair(number, number % bases, tuple(sets[number // bases].tolist()))
            for number in order[known[order] > 0].tolist()
        ]

    @cached_property
    def attacked(self) -> Artifact:
        """What every pair answers on its set's examples once it is unlearned, ``logits [pairs, size, classes]``."""
        effects = self.pair_effects if self.unlearner.target == "predicted" else None
        inputs = {"bases": self.base_models.digest, "sets": content_hash(self.forget_sets)}
        inputs |= {"effects": effects.digest} if effects else {}
        config = {"unlearner": self.config.unlearner, "seed": self.config.seed, "trainer": self._trainer_identity}

        def make(draft: Draft) -> None:
            def job(shard: int, start: int, stop: int) -> PairsJob:
                return PairsJob(
                    pairs=tuple(self.pairs[start:stop]),
                    unlearner=self.config.unlearner,
                    examples=self.dataset.path,
                    bases=self.base_models.path,
                    effects=effects.path if effects else None,
                    model=self.config.model.network,
                    training=plain(self.config.training),
                    trainer=self.trainer,
                    seed=member_seed(self.config.seed, "attack", 0, "order"),
                    output=draft.path,
                    shard=shard,
                    start=start,
                )

            self._run_shards("attacked", draft, unlearn_pairs, job, len(self.pairs))

        detail = f"{len(self.pairs):,} base models unlearned of {len(self.forget_sets)} small sets"
        return self.obtain("attacked", detail, Spec("attacked", config, inputs), make)

    @cached_property
    def pair_effects(self) -> Artifact:
        """What including its forget points does to every logit of a pair's base, ``effect [pairs, points, classes]``.

        Predicted at the size of the pool's subsets, which is that of the base models'.
        """
        gone = self.forget_sets.unique()
        sources = {name: made for name, made in self._sources_of_effect(gone).items() if name in ("pool", "gradients")}
        inputs = {name: made.digest for name, made in sources.items()} | {"bases": self.base_models.digest}
        config = {"estimator": self.config.attribution, "held_out": self.config.pool.held_out, "of": "pairs"}
        spec = Spec("effect", config, inputs | {"sets": content_hash(self.forget_sets)})
        detail = f"effects of what {len(self.pairs):,} base models forget by {type(self.estimator).__name__}"
        return self.obtain("effects", detail, spec, lambda draft: self._make_pair_effects(draft, gone))

    def _make_pair_effects(self, draft: Draft, gone: Tensor) -> None:
        learned = self.estimator.learn(self._evidence_of_pool(gone))
        masks = self.base_models.stacked("masks")

        def predict(block: Block) -> None:
            shard, start, stop = block
            directions = torch.zeros(stop - start, self.examples.n_train)
            for direction, pair in zip(directions, self.pairs[start:stop], strict=True):
                direction[list(pair.chosen)] = masks[pair.base, list(pair.chosen)].float()
            draft.write_shard(shard, {"effect": learned.predict(directions)}, {})

        run_shards(
            draft,
            predict,
            Block,
            members=len(self.pairs),
            chunk_size=max(1, EFFECTS_AT_ONCE // (self.examples.n_points * self.examples.n_classes)),
            executor=Local(),
            progress=lambda total: self.console.progress("effects", total),
        )

    def attacked_answers(self) -> tuple[Tensor, Tensor]:
        """Return logits of all base models on the examples of all sets, before and after forgetting them.

        Both are ``[bases, sets, size, classes]``. A base model that knows nothing of a set stays as it is.
        """
        bases, sets = len(self._base_numbers), self.forget_sets
        before = self.base_models.stacked("logits")[:, sets]
        numbers = torch.tensor([pair.number for pair in self.pairs])
        after = before.clone()
        after[numbers % bases, numbers // bases] = self.attacked.stacked("logits")
        return before, after

    def stages_of_attack(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield (name, maker) of every stage that the attack needs beside those of the run."""
        if self.attacks:
            yield "base_models", lambda: self.base_models
            yield "attacked", lambda: self.attacked
