"""The ensembles of an experiment that are trained by its recipe, each at most once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dmm_exp.attribution import SubsetModels
from dmm_exp.config.schema import Plain, plain
from dmm_exp.data import Rows
from dmm_exp.ensembles import AllBut, Only, RandomSubsets, Role
from dmm_exp.ensembles.work import TrainJob, train_chunk
from dmm_exp.metrics import margins
from dmm_exp.pipeline.chunks import Chunks
from dmm_exp.store import Artifact, Draft, Spec

Obtain = Callable[[str, str, Spec, Callable[[Draft], None]], Artifact]
"""From (name, detail, spec, function that writes it) to an artifact, as :meth:`Context.obtain`."""


class Models:
    """Originals, pools and retrained models.

    Args:
        chunks: how members are trained.
        originals: returns models that replace those trained on everything; by default these are trained.
        obtain: returns an ensemble; by default it is trained if it does not exist.
    """

    def __init__(
        self, chunks: Chunks, originals: Callable[[], Artifact] | None = None, obtain: Obtain | None = None
    ) -> None:
        self.chunks = chunks
        self.context = chunks.context
        self._given = originals
        self._obtain = obtain or chunks.context.obtain

    @cached_property
    def originals(self) -> Artifact:
        """N models trained on everything."""
        if self._given is not None:
            return self._given()
        members, job = self.context.config.n_models, replace(self.job("original"), keep=("parameters", "trajectory"))
        return self.trained("originals", f"{members:,} models", members, job)

    @property
    def subsets(self) -> RandomSubsets:
        """The training subsets of the pool's members."""
        pool, seed = self.context.config.pool, self.context.config.seed
        return RandomSubsets(self.context.examples.n_train, pool.alpha, seed, pool.complementary)

    @cached_property
    def pool(self) -> Artifact:
        """Models trained on random subsets, for scores and attribution."""
        size, job = self.context.config.pool.size, self._subset_job("subset", self.subsets)
        return self.trained("pool", f"{size:,} subset models", size, job)

    @property
    def larger_subsets(self) -> RandomSubsets:
        """The training subsets of the models on larger subsets."""
        alpha, seed = self.context.config.pool.larger.alpha, self.context.config.seed
        return RandomSubsets(self.context.examples.n_train, alpha, seed, complementary=True, role="larger")

    @cached_property
    def larger(self) -> Artifact:
        """Models trained on larger random subsets than the pool's, from which effects are extrapolated."""
        size, job = self.context.config.pool.larger.size, self._subset_job("larger", self.larger_subsets)
        return self.trained("larger pool", f"{size:,} larger subset models", size, job)

    def of_other_subsets(self, alpha: float) -> Artifact:
        """Return models trained on random subsets of another size, to test how well estimators predict them."""
        n_train, seed = self.context.examples.n_train, self.context.config.seed
        subsets = RandomSubsets(n_train, alpha, seed, complementary=False, role="lds")
        members, job = self.context.config.pool.held_out, self._subset_job("lds", subsets)
        return self.trained("LDS models", f"{members:,} models on random subsets of {alpha:.0%}", members, job)

    def retrained(self, name: str, role: Role, excluded: Rows) -> Artifact:
        """Return N models trained on everything but some training rows."""
        job = replace(self.job(role), subsets=AllBut(excluded.n_train, tuple(excluded.tolist())))
        members = self.context.config.n_models
        return self.trained(name, f"{members:,} models without the forget set", members, job)

    @cached_property
    def retrained_on_held_out(self) -> Artifact:
        """The originals after fine-tuning on the validation points, for a score that uses these points."""
        config, examples = self.context.config, self.context.examples
        points = Only(range(examples.n_train, examples.n_points))
        job = replace(self.job("held_out"), subsets=points, training=plain(config.scores.held_out), keep=())
        detail = "originals fine-tuned on validation points"
        return self.trained("retraining", detail, config.n_models, job, self.originals)

    @cached_property
    def of_pool(self) -> SubsetModels:
        """Masks and logits of the whole pool; large ones stay on disk."""
        return self.answers(self.pool, self.subsets.block)

    def answers(self, artifact: Artifact, block: int = 1) -> SubsetModels:
        """Return the masks and logits of models trained on random subsets; large ones stay on disk."""
        return SubsetModels(
            artifact.lazy("masks"),
            artifact.lazy("logits"),
            block,
            self.context.examples.labels,
            margins=artifact.lazy("margins") if "margins" in artifact.stacked_names() else None,
        )

    def margins_of(self, models: SubsetModels, points: Tensor | slice) -> NDArray[np.float32]:
        """Return margins ``[members, points]`` of some points: stored ones, or computed from logits."""
        if models.margins is not None:
            return models.margins[:, points].numpy()
        return margins(models.logits[:, points], self.context.examples.labels[points])

    def job(self, role: Role) -> TrainJob:
        """Return the job of training on everything by the recipe; other jobs replace what differs."""
        config = self.context.config
        return TrainJob(
            examples=self.context.dataset.path,
            model=config.model.network,
            training=plain(config.training),
            trainer=config.trainer,
            seed=config.seed,
            role=role,
            subsets=AllBut(self.context.examples.n_train, ()),
        )

    def _subset_job(self, role: Role, subsets: RandomSubsets) -> TrainJob:
        """Return the job of training on random subsets, of which only the logits are stored."""
        dtype = self.context.config.pool.logits_dtype
        return replace(self.job(role), subsets=subsets, keep=(), logits_dtype=dtype)

    def trained(self, name: str, detail: str, members: int, job: TrainJob, initial: Artifact | None = None) -> Artifact:
        """Return the ensemble of a job, which starts from the members of ``initial`` if that is given."""
        config = {
            "role": job.role,
            "members": members,
            "seed": job.seed,
            "network": job.model,
            "training": without_defaults(job.training),
            "trainer": self.context.trainer_identity,
            "subsets": job.subsets.identity(),
            "keep": list(job.keep),
        }
        config |= {"logits_dtype": job.logits_dtype} if job.logits_dtype != "float32" else {}
        inputs = {"dataset": self.context.dataset.digest} | ({"initial": initial.digest} if initial else {})
        spec = Spec("ensemble", config, inputs, {"initial": initial.spec.family} if initial else {})

        def make(draft: Draft) -> None:
            ready = replace(job, initial=initial.path if initial else None, trainer=self.chunks.trainer)
            self.chunks.run(name, draft, train_chunk, ready, members)

        return self._obtain(name, detail, spec, make)


def without_defaults(training: Plain) -> Plain:
    """Return a recipe without options that are off, so that older artifacts keep their keys."""
    off = {"augmentation": {"flip": False, "crop_padding": 0, "cutout": 0}, "label_smoothing": 0.0}
    return {key: value for key, value in training.items() if key not in off or value != off[key]}
