"""The ensembles of an experiment that are trained by its recipe, each at most once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmm_exp.attribution import SubsetModels
from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.schema import Node, Plain, plain
from dmm_exp.data import Rows, group_values
from dmm_exp.ensembles import AllBut, Designed, Only, RandomSubsets, Role
from dmm_exp.ensembles.work import TrainJob, train_chunk
from dmm_exp.errors import UserError
from dmm_exp.files.digests import digest_of
from dmm_exp.metrics import margins
from dmm_exp.pipeline.chunks import Chunks
from dmm_exp.pools import Design, Known, answers_alike, role_of
from dmm_exp.scores import memorization
from dmm_exp.store import Artifact, Draft, Spec

PART = "dmm_exp.ensembles.schedules.Part"
KNOWN_FROM = 1000  # models on random halves that designs look at, so that larger pools grow without new designs


class Obtain(Protocol):
    """What :meth:`Context.obtain` does."""

    def __call__(self, name: str, detail: str, spec: Spec, make: Callable[[Draft], None], *, to_read: bool) -> Artifact:
        """Return an artifact, whose files are verified if they are to be read."""
        ...


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

    @cached_property
    def member_bytes(self) -> int:
        """Bytes of a member on disk: its parameters, and its answers on all points."""
        network = self.context.network()
        stored = [*network.parameters(), *network.buffers()]
        return sum(tensor.nbytes for tensor in stored) + self._answers_bytes("float32")

    @property
    def pool_member_bytes(self) -> int:
        """Bytes of a member of the pool on disk: its answers, and which training rows it was trained on."""
        return self._answers_bytes(self.context.config.pool.logits_dtype) + self.context.examples.n_train

    def _answers_bytes(self, dtype: str) -> int:
        examples = self.context.examples
        width = 4 * examples.n_classes if dtype == "float32" else 2 * examples.n_classes + 4  # rounded: margins, too
        return examples.n_points * width

    def early(self, epoch: int) -> Artifact:
        """Return the originals as they were after some epochs: the beginning of their training, carried out again.

        Raises:
            UserError: it cannot be.
        """
        if self._given is not None:
            raise UserError(f"no earlier epoch ({epoch}) of the training of given networks is kept")
        members, job = self.context.config.n_models, self.job("original")
        if epoch == job.training["epochs"]:
            return self.originals
        schedule = {"_target_": PART, "whole": job.training["schedule"], "begin": 0, "epochs": job.training["epochs"]}
        job = replace(job, training={**job.training, "epochs": epoch, "schedule": schedule})
        return self.trained("early originals", f"{members:,} models after epoch {epoch}", members, job)

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

    @cached_property
    def design_names(self) -> list[str]:
        """Names of the parts of the pool that are trained by design, those that have members."""
        return [name for name, design in self.designs.items() if design.members]

    @cached_property
    def designs(self) -> dict[str, Design]:
        """Name → rule of every part of the pool that is trained by design."""
        return {name: instantiate(node) for name, node in self._design_settings.items()}

    @property
    def _design_settings(self) -> dict[str, Node]:
        return self.context.config.pool.designs or {}

    @cached_property
    def known(self) -> Known:
        """What designs look at: the training rows, and what the first models on random halves answer."""
        examples, halves = self.context.examples, self.of_pool[:KNOWN_FROM]
        scores, _ = memorization(halves.logits, halves.masks, examples.labels, "probability", halves.margins)
        return Known(
            examples.n_train,
            examples.labels,
            scores.float().nan_to_num().clamp(0, 1),
            answers_alike(torch.from_numpy(self.margins_of(halves, slice(None))), halves.masks[:, :]),
            examples.inputs,
            examples.columns,
            examples.words,
        )

    def designed(self, name: str, *, to_read: bool = True) -> Artifact:
        """Return the models of one part of the pool that is trained by design; ``to_read``: see :meth:`trained`."""
        masks, role, members = self._design(name), role_of(name), self.designs[name].members
        job = self._subset_job(role, Designed(masks.path))
        detail = f"{members:,} models by design"
        return self.trained(f"pool: {name}", detail, members, job, to_read=to_read, masks=masks)

    def _design(self, name: str) -> Artifact:
        """Return what the members of a part of the pool are trained on."""
        design, context = self.designs[name], self.context
        settings = dict(self._design_settings[name])
        config = {"role": role_of(name), "design": settings | {"members": None}, "seed": context.config.seed}
        inputs = {"dataset": context.dataset.digest, "pool": self.pool.digest}
        if design.column is not None:  # which the dataset's artifact does not hold
            inputs["column"] = digest_of(self.column_of(name))
        looked_at = digest_of([self.pool.spec.family, min(context.config.pool.size, KNOWN_FROM)])
        spec = Spec("design", config | {"members": design.members}, inputs, {"pool": looked_at})

        def make(draft: Draft) -> None:
            draft.write_tensors("masks", {"masks": design.masks(name, context.config.seed, self.known)})
            draft.write_json("facts", {"members": design.members})

        return context.store.obtain(spec, make)

    def column_of(self, name: str) -> list[str] | None:
        """Return what a design groups training rows by, one value a row; None where it looks at no column.

        Raises:
            UserError: the dataset has no such column.
        """
        column, columns = self.designs[name].column, self.context.examples.columns
        return None if column is None else list(group_values(columns, column, f"pool.designs.{name}.column"))

    @property
    def of_designs(self) -> SubsetModels:
        """Masks and logits of all parts of the pool that are trained by design."""
        parts = [self.answers(self.designed(name)) for name in self.design_names]
        return SubsetModels(
            torch.cat([part.masks[:, :] for part in parts]),
            torch.cat([part.logits[:, :] for part in parts]),
            labels=self.context.examples.labels,
        )

    def of_other_subsets(self, alpha: float) -> Artifact:
        """Return models trained on random subsets of another size, to test how well estimators predict them."""
        n_train, seed = self.context.examples.n_train, self.context.config.seed
        subsets = RandomSubsets(n_train, alpha, seed, complementary=False, role="lds")
        members, job = self.context.config.pool.held_out, self._subset_job("lds", subsets)
        return self.trained("LDS models", f"{members:,} models on random subsets of {alpha:.0%}", members, job)

    def retrained(self, name: str, role: Role, excluded: Rows, members: int | None = None) -> Artifact:
        """Return models (N by default) trained on everything but some training rows."""
        job = replace(self.job(role), subsets=AllBut(excluded.n_train, tuple(excluded.tolist())))
        members = self.context.config.n_models if members is None else members
        return self.trained(name, f"{members:,} models without the forget set", members, job)

    @cached_property
    def retrained_on_held_out(self) -> Artifact:
        """The originals after fine-tuning on the validation points, for a score that uses these points."""
        config, examples = self.context.config, self.context.examples
        points = Only(range(examples.n_train, examples.n_points))
        job = replace(self.job("held_out"), subsets=points, training=plain(config.scores.held_out), keep=())
        detail = "originals fine-tuned on validation points"
        return self.trained("retraining", detail, config.n_models, job, initial=self.originals)

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

    def _subset_job(self, role: Role, subsets: RandomSubsets | Designed) -> TrainJob:
        """Return the job of training on random subsets, of whose models only the answers are kept."""
        dtype = self.context.config.pool.logits_dtype
        return replace(self.job(role), subsets=subsets, keep=(), logits_dtype=dtype)

    def trained(
        self, name: str, detail: str, members: int, job: TrainJob, *, to_read: bool = True, **sources: Artifact
    ) -> Artifact:
        """Return the ensemble that a job makes.

        Args:
            name: of the stage.
            detail: of its line.
            members: how many.
            job: trains them.
            to_read: whether the files will be read; where the address is all that counts, they are not verified.
            sources: what member m is made from beside the dataset: ``initial``, the ensemble whose member m is trained
                further, or ``masks``, what members are trained on.
        """
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
        inputs = {"dataset": self.context.dataset.digest} | {name: used.digest for name, used in sources.items()}
        spec = Spec("ensemble", config, inputs, {name: used.spec.family for name, used in sources.items()})
        initial = sources.get("initial")

        def make(draft: Draft) -> None:
            ready = replace(job, initial=initial.path if initial else None, trainer=self.chunks.trainer)
            self.chunks.run(name, draft, train_chunk, ready, members)

        return self._obtain(name, detail, spec, make, to_read=to_read)


def without_defaults(training: Plain) -> Plain:
    """Return a recipe without options that are off, so that older artifacts keep their keys."""
    off = {"augmentation": {"flip": False, "crop_padding": 0, "cutout": 0}, "label_smoothing": 0.0}
    return {key: value for key, value in training.items() if key not in off or value != off[key]}
