"""Audits: what unlearned models answer after a probe, beside retrained models after the same probe.

Margins show what a model answers. Whether what was to be forgotten is still somewhere in its weights shows when it is
trained further, when its inputs are perturbed, or when its weights are rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray

from dmm_exp import __version__
from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.schema import Node, plain
from dmm_exp.data import FORGET, Rows
from dmm_exp.ensembles import member_generator, member_seed
from dmm_exp.errors import UserError
from dmm_exp.evaluation.outputs import Outputs
from dmm_exp.evaluation.scored import Scored
from dmm_exp.metrics.settings import klom_options_of
from dmm_exp.pipeline import Pipeline
from dmm_exp.pipeline.code import with_code
from dmm_exp.pipeline.plan import Stage
from dmm_exp.store import Artifact, Draft, Spec
from dmm_exp.unlearners import Unlearner
from dmm_exp.unlearners.probes import Relearn
from dmm_exp.unlearners.work import PartJob, UnlearnJob, unlearn_chunk

KEY = "evaluation.audits"
AUDITED = ("unlearned", "oracle", "floor", "original")
AUDIT_FORMAT = 1  # increased when the same models get other numbers


class Audits:
    """Applies every probe of ``evaluation.audits`` to the unlearned models, two sets of oracles and the originals.

    Args:
        pipeline: whose models are audited.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.context, self.config = pipeline.context, pipeline.context.config
        self.labels = self.context.examples.labels.numpy()

    @property
    def nodes(self) -> dict[str, Node]:
        """Name → probe as configured."""
        return self.config.evaluation.audits or {}

    @cached_property
    def probes(self) -> dict[str, Unlearner]:
        """Name → probe."""
        return {name: instantiate(node, f"{KEY}.{name}") for name, node in self.nodes.items()}

    def check(self) -> None:
        """Raise ``UserError`` for audits that cannot work."""
        for name, probe in self.probes.items():
            if not isinstance(probe, Unlearner) or probe.target != "none":
                raise UserError(
                    f"{KEY}.{name}: {type(probe).__name__} is no probe; expected one of "
                    "dmm_exp.unlearners.probes, or an unlearner that matches no targets"
                )
            probe.check_inputs(self.pipeline.context.examples, f"{KEY}.{name}")
        method = self.pipeline.unlearners[-1]
        if self.nodes and not method.returns_models:
            raise UserError(f"{KEY}: {type(method).__name__} returns predictions and no models; expected no audits")

    def unseen(self, name: str) -> Rows:
        """Return the forgotten rows that a probe does not show to the models; these are what it looks at.

        Raises:
            UserError: all of them would be shown.
        """
        probe, forget = self.probes[name], self.pipeline.forget
        if not isinstance(probe, Relearn) or not probe.shown:
            return forget
        shown = max(1, round(probe.shown * len(forget)))
        if shown >= len(forget):
            raise UserError(f"{KEY}.{name}.shown={probe.shown}: shows all {len(forget)} forgotten rows; expected fewer")
        generator = member_generator(self.config.seed, "audit", 0, "subset")
        hidden = torch.randperm(len(forget), generator=generator)[shown:]
        return Rows(forget.indices[hidden].sort().values, forget.n_train)

    def answers(self, name: str, ensemble: str) -> Artifact:
        """Return the answers of an ensemble after a probe: ``logits [members, points, classes]``."""
        context, chunks, unseen = self.context, self.pipeline.models.chunks, self.unseen(name)
        models = self._models(ensemble)
        config = {"probe": self.nodes[name], "seed": self._seed(ensemble), "trainer": context.trainer_identity}
        inputs = {"models": models.digest, "unseen": unseen.digest, "dataset": context.dataset.digest}

        def make(draft: Draft) -> None:
            job = UnlearnJob(
                parts=(PartJob(self.nodes[name], tuple(unseen.tolist()), oracles=None, effect=None),),
                examples=context.dataset.path,
                originals=models.path,
                model=self.config.model.network,
                training=plain(self.config.training),
                trainer=chunks.trainer,
                seed=self._seed(ensemble),
            )
            chunks.run("audit", draft, unlearn_chunk, job, self.config.n_models)

        return context.obtain("audit", f"{name} of {ensemble} models", Spec("audited", with_code(config), inputs), make)

    def _models(self, ensemble: str) -> Artifact:
        pipeline = self.pipeline
        return {
            "unlearned": lambda: pipeline.unlearned,
            "oracle": lambda: pipeline.oracles,
            "floor": lambda: pipeline.floor_oracles,
            "original": lambda: pipeline.models.originals,
        }[ensemble]()

    def _seed(self, ensemble: str) -> int:
        """Return the seed of a probe's own randomness: ensembles are audited independently of each other."""
        return member_seed(self.config.seed, "audit", AUDITED.index(ensemble), "order")

    def stages(self) -> Iterator[Stage]:
        """Yield the stages that audits need besides those of the run."""
        members, n_train = self.config.n_models, self.context.examples.n_train
        for name, probe in self.probes.items():
            for ensemble in AUDITED:
                make, size = partial(self.answers, name, ensemble), members * self.pipeline.models.member_bytes
                yield Stage(f"audit {name}", make, members, members * probe.epochs * n_train, size)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of all audits, ``audit/NAME/…``; of Relearn, forget points are those that it did not show."""
        return {
            f"audit/{name}/{metric}": value
            for name in self.nodes
            for metric, value in self._artifact(name).json("metrics").items()
        }

    def _artifact(self, name: str) -> Artifact:
        answers = {ensemble: self.answers(name, ensemble) for ensemble in AUDITED}
        config = {"klom": klom_options_of(self.config.evaluation), "package": __version__, "format": AUDIT_FORMAT}
        inputs = {ensemble: artifact.digest for ensemble, artifact in answers.items()}
        inputs["unseen"] = self.unseen(name).digest

        def make(draft: Draft) -> None:
            draft.write_json("metrics", self._measured(self.unseen(name), answers))

        return self.context.obtain("audit", f"numbers of {name}", Spec("audit", config, inputs), make)

    def _measured(self, unseen: Rows, answers: dict[str, Artifact]) -> dict[str, float]:
        """Return KLoM, accuracies and tug-of-war with floors, and the intervals of the last two."""
        logits = {name: artifact.stacked("logits").numpy() for name, artifact in answers.items()}
        outputs = {name: Outputs.of(values, self.labels) for name, values in logits.items()}
        scored = Scored(outputs, self._groups(unseen), {"label": self.labels}, klom_options_of(self.config.evaluation))
        found = {**scored.quick_metrics(), **scored.accuracy_intervals()}
        return {name: float(value) for name, value in found.items()}

    def _groups(self, unseen: Rows) -> NDArray[np.int64]:
        """Return the group of every point; -1 for forgotten rows that were shown, which belong to none."""
        groups = self.pipeline.groups.numpy().copy()
        groups[np.setdiff1d(np.flatnonzero(groups == FORGET), unseen.indices.numpy())] = -1
        return groups
