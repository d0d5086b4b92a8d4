"""Scores of single examples, from the pool or from the originals; each family is an artifact."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch

from dmm_exp.config.schema import plain
from dmm_exp.ensembles import Ensemble
from dmm_exp.ensembles.memory import require_memory
from dmm_exp.ensembles.trajectory import PROXIES
from dmm_exp.ensembles.work import TRAJECTORY, evaluation_copy, stored_ensemble
from dmm_exp.errors import UserError
from dmm_exp.pipeline.models import Models, without_defaults
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

PRINCIPAL_BYTES = 45  # largest memory of principal components for each member and training example


class Scores:
    """Scores of how difficult each example is.

    Args:
        models: from which the scores are computed.
    """

    def __init__(self, models: Models) -> None:
        self.models = models
        self.context = models.context
        self._families: dict[str, Artifact] = {}

    def check(self, families: Iterable[str]) -> None:
        """Raise ``UserError`` when the network lacks something that scores of some families need."""
        if "curvature" in families and self.context.examples.words is not None:
            raise UserError(
                "scores of curvature move inputs by small amounts, and inputs of this dataset are words; expected "
                "another score, such as memorization"
            )
        if "entanglement" in families:
            self.context.network().check_features()

    def table(self, families: Iterable[str] = tuple(FAMILIES)) -> pd.DataFrame:
        """Return the scores of some families (of all by default), one row for each training example."""
        table, *others = (self.family(family).table("scores") for family in families)
        for other in others:
            table = table.merge(other, on="point")
        return table

    def family(self, family: str) -> Artifact:
        """Return the scores of one family, computed if they do not exist."""
        if family not in self._families:
            self._families[family] = self._obtained(family)
        return self._families[family]

    def sources(self, family: str) -> dict[str, Artifact]:
        """Return the models that a family of scores is computed from, by name."""
        models = self.models
        sources = {"source": models.pool if family in FROM_POOL else models.originals}
        return sources | ({"retrained": models.retrained_on_held_out} if family == "held_out" else {})

    def _obtained(self, family: str) -> Artifact:
        context, sources = self.context, self.sources(family)
        found = getattr(context.config.scores, family, None)
        settings = None if found is None else without_defaults(plain(found))
        inputs = {name: artifact.digest for name, artifact in sources.items()}
        spec = Spec("scores", {"score": family, "settings": settings}, {**inputs, "dataset": context.dataset.digest})

        def write(draft: Draft) -> None:
            import pandas as pd

            columns = getattr(self, f"_{family}")()
            draft.write_table("scores", pd.DataFrame({"point": range(context.examples.n_train), **columns}))

        return context.obtain("scores", f"{family.replace('_', ' ')} of every training example", spec, write)

    def _memorization(self) -> dict[str, np.ndarray]:
        pool = self.models.of_pool
        return memorization_columns(pool.logits, pool.masks, self.context.examples.labels, pool.margins)

    def _principal(self) -> dict[str, np.ndarray]:
        n_train, pool = self.context.examples.n_train, self.models.of_pool
        require_memory(
            PRINCIPAL_BYTES * len(pool) * n_train,
            f"pool.size: principal components of {len(pool):,} members and {n_train:,} training examples",
            "fewer members, or another score",
        )
        parts = blocks(n_train, points_at_once(pool.logits))
        outputs = torch.cat([torch.from_numpy(self.models.margins_of(pool, part)) for part in parts], 1)
        first, second = principal_projections(outputs, pool.masks[:, :]).unbind(1)
        return {"pc1": first.numpy(), "pc2": second.numpy()}

    def _entanglement(self) -> dict[str, np.ndarray]:
        examples = self.context.examples
        features = self._originals().features(examples.inputs[: examples.n_train])
        return entanglement_columns(features, **plain(self.context.config.scores.entanglement))

    def _trajectory(self) -> dict[str, np.ndarray]:
        originals = self.models.originals
        return {name: originals.stacked(f"{TRAJECTORY}{name}").double().mean(0).numpy() for name in PROXIES}

    def _curvature(self) -> dict[str, np.ndarray]:
        examples, config = self.context.examples, self.context.config
        inputs, labels = (values[: examples.n_train] for values in (examples.inputs, examples.labels))
        generator = torch.Generator().manual_seed(config.seed)
        settings = plain(config.scores.curvature)
        values = loss_curvature(self._originals(), inputs, labels, generator=generator, **settings)
        return {"loss_curvature": values.double().numpy()}

    def _held_out(self) -> dict[str, np.ndarray]:
        n_train, models = self.context.examples.n_train, self.models
        before, after = (
            artifact.stacked("logits")[:, :n_train] for artifact in (models.originals, models.retrained_on_held_out)
        )
        return {"held_out_retraining": symmetric_kl(before, after).double().numpy()}

    def _originals(self) -> Ensemble:
        """Return the originals, on the device that the trainer uses."""
        build = self.context.network
        originals = stored_ensemble(self.models.originals.path, build, range(self.context.config.n_models))
        return evaluation_copy(originals, self.models.chunks.trainer)
