"""Scores of single examples, from the pool or from the originals, each family an artifact of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmm_exp.attribution import SubsetModels
from dmm_exp.config.schema import plain
from dmm_exp.ensembles import Ensemble, Only
from dmm_exp.ensembles.memory import require_memory
from dmm_exp.ensembles.trajectory import PROXIES
from dmm_exp.ensembles.work import TRAJECTORY, evaluation_copy, model_factory, stored_ensemble
from dmm_exp.metrics import margins
from dmm_exp.pipeline.stages import Stages, told
from dmm_exp.scores import (
    FAMILIES,
    FROM_POOL,
    entanglement_columns,
    loss_curvature,
    memorization_columns,
    principal_projections,
    symmetric_kl,
)
from dmm_exp.store import Artifact, Draft, Spec, blocks, points_at_once

if TYPE_CHECKING:
    import pandas as pd

PRINCIPAL_BYTES = 45  # for each member and training example, at the peak of principal components


class Scoring(Stages):
    """How hard each example is, in every sense there is a score for."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._score_families: dict[str, Artifact] = {}

    def check_scores(self, families: Iterable[str]) -> None:
        """Raise ``UserError`` when the network lacks what scores of some families are made from."""
        if "entanglement" in families:
            model_factory(self.config.model.network, self.examples)().check_features()

    def score_table(self, families: list[str] | None = None) -> pd.DataFrame:
        """Return the scores of some families (of all by default), one row a training example."""
        table, *others = (self.score_family(family).table("scores") for family in families or FAMILIES)
        for other in others:
            table = table.merge(other, on="point")
        return table

    def score_family(self, family: str) -> Artifact:
        """Return the scores of one family, made if need be."""
        if family not in self._score_families:
            self._score_families[family] = self._obtain_scores(family)
        return self._score_families[family]

    def _obtain_scores(self, family: str) -> Artifact:
        sources = {"source": self.pool if family in FROM_POOL else self.originals}
        if family == "held_out":
            sources["retrained"] = self.retrained_on_held_out
        found = getattr(self.config.scores, family, None)
        settings = None if found is None else told(plain(found))
        inputs = {name: artifact.digest for name, artifact in sources.items()}
        spec = Spec("scores", {"score": family, "settings": settings}, {**inputs, "dataset": self.dataset.digest})

        def write(draft: Draft) -> None:
            import pandas as pd

            columns = getattr(self, f"_{family}_scores")()
            draft.write_table("scores", pd.DataFrame({"point": range(self.examples.n_train), **columns}))

        return self.obtain("scores", f"{family.replace('_', ' ')} of every training example", spec, write)

    def _memorization_scores(self) -> dict[str, Any]:
        pool = self.subset_models
        return memorization_columns(pool.logits, pool.masks, self.examples.labels, pool.margins)

    def _principal_scores(self) -> dict[str, Any]:
        n_train, pool = self.examples.n_train, self.subset_models
        require_memory(
            PRINCIPAL_BYTES * len(pool) * n_train,
            f"pool.size: principal components of {len(pool):,} members and {n_train:,} training examples",
            "fewer members, or another score",
        )
        parts = blocks(n_train, points_at_once(pool.logits))
        outputs = torch.cat([torch.from_numpy(self.margins_of(pool, part)) for part in parts], 1)
        first, second = principal_projections(outputs, pool.masks[:, :]).unbind(1)
        return {"pc1": first.numpy(), "pc2": second.numpy()}

    def _entanglement_scores(self) -> dict[str, Any]:
        features = self._original_models().features(self.examples.inputs[: self.examples.n_train])
        return entanglement_columns(features, **plain(self.config.scores.entanglement))

    def _trajectory_scores(self) -> dict[str, Any]:
        return {name: self.originals.stacked(f"{TRAJECTORY}{name}").double().mean(0).numpy() for name in PROXIES}

    def _curvature_scores(self) -> dict[str, Any]:
        inputs, labels = (values[: self.examples.n_train] for values in (self.examples.inputs, self.examples.labels))
        generator = torch.Generator().manual_seed(self.config.seed)
        settings = plain(self.config.scores.curvature)
        values = loss_curvature(self._original_models(), inputs, labels, generator=generator, **settings)
        return {"loss_curvature": values.double().numpy()}

    def _held_out_scores(self) -> dict[str, Any]:
        n_train = self.examples.n_train
        before, after = (made.stacked("logits")[:, :n_train] for made in (self.originals, self.retrained_on_held_out))
        return {"held_out_retraining": symmetric_kl(before, after).double().numpy()}

    @cached_property
    def retrained_on_held_out(self) -> Artifact:
        """The originals after fine-tuning on the validation points, which a score then depends on."""
        points = Only(range(self.examples.n_train, self.examples.n_points))
        job = replace(self._job("held_out"), subsets=points, training=plain(self.config.scores.held_out), keep=())
        detail = "originals fine-tuned on validation points"
        return self._trained("retraining", detail, self.config.n_models, job, self.originals)

    def _original_models(self) -> Ensemble:
        """Return the originals, on the device that the trainer uses."""
        build = model_factory(self.config.model.network, self.examples)
        originals = stored_ensemble(self.originals.path, build, range(self.config.n_models))
        return evaluation_copy(originals, self.trainer)

    @cached_property
    def subset_models(self) -> SubsetModels:
        """Masks and logits of the whole pool, on disk where they are large."""
        return self._subset_models(self.pool, self.subsets.block)

    def _subset_models(self, artifact: Artifact, block: int = 1) -> SubsetModels:
        """Return the masks and logits of models trained on random subsets."""
        return SubsetModels(
            artifact.opened("masks"),
            artifact.opened("logits"),
            block,
            self.examples.labels,
            margins=artifact.opened("margins") if "margins" in artifact.stacked_names() else None,
        )

    def margins_of(self, models: SubsetModels, points: Tensor | slice) -> NDArray[np.float32]:
        """Return margins ``[members, points]`` of some points: those that were kept, else from logits."""
        if models.margins is not None:
            return models.margins[:, points].numpy()
        return margins(models.logits[:, points], self.examples.labels[points])
