"""The unlearned models: the parts of the forget set are unlearned one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from dmm_exp.config.schema import plain
from dmm_exp.data import Rows
from dmm_exp.pipeline.code import with_code
from dmm_exp.pipeline.effects import Effects
from dmm_exp.pipeline.models import Models
from dmm_exp.refinement import Part
from dmm_exp.store import Artifact, Draft, Spec
from dmm_exp.unlearners import Unlearner
from dmm_exp.unlearners.work import PartJob, UnlearnJob, unlearn_chunk


@dataclass(frozen=True)
class Unlearning:
    """Unlearns the parts of a forget set in order.

    Attributes:
        models: of the experiment, with retrained ones for methods that match them.
        effects: predictions, for methods that match them.
        parts: of the forget set, each with the configuration of its unlearner.
        unlearners: the methods, in the order of parts.
    """

    models: Models
    effects: Effects
    parts: Sequence[Part]
    unlearners: Sequence[Unlearner]

    def models_of(self, subject: Artifact) -> Artifact:
        """Return the unlearned models of an ensemble, one for each member."""
        context, chunks = self.models.context, self.models.chunks
        jobs = [self.job(place) for place in range(len(self.parts))]
        config = {
            "parts": [part.unlearner for part in self.parts],
            "seed": context.config.seed,
            "trainer": context.trainer_identity,
        }
        inputs, families = {"originals": subject.digest}, {"originals": subject.spec.family}
        for place, (part, target) in enumerate(jobs):
            inputs[f"points {place}"] = self.parts[place].rows.digest
            inputs |= {f"target {place}": target.digest} if target else {}
            families |= {f"target {place}": target.spec.family} if target and part.oracles else {}
            if (early := self.early(place)) is not None:
                inputs[f"early {place}"], families[f"early {place}"] = early.digest, early.spec.family

        def make(draft: Draft) -> None:
            job = UnlearnJob(
                parts=tuple(part for part, _ in jobs),
                examples=context.dataset.path,
                originals=subject.path,
                model=context.config.model.network,
                training=plain(context.config.training),
                trainer=chunks.trainer,
                seed=context.config.seed,
            )
            chunks.run("unlearning", draft, unlearn_chunk, job, context.config.n_models)

        detail = f"{context.config.n_models:,} models by {self._methods}"
        return context.obtain("unlearning", detail, Spec("unlearned", with_code(config), inputs, families), make)

    @property
    def _methods(self) -> str:
        """The classes of the parts' unlearners, in their order."""
        names = [str(part.unlearner["_target_"]).rpartition(".")[2] for part in self.parts if part.unlearner]
        return names[0] if len(set(names)) == 1 else ", then ".join(names)

    def gone(self, place: int) -> Rows:
        """Return the rows of a part and of all parts before it."""
        return reduce(or_, (part.rows for part in self.parts[: place + 1]))

    def target_oracles(self, gone: Rows) -> Artifact:
        """Return the models retrained without some rows whose logits are matched; metrics compare with others."""
        return self.models.retrained("target oracles", "target_oracle", gone)

    def early(self, place: int) -> Artifact | None:
        """Return the originals at the epoch that a part's unlearner goes back to; None if it does not."""
        epoch = self.unlearners[place].starts_at
        return None if epoch is None else self.models.early(epoch)

    def job(self, place: int) -> tuple[PartJob, Artifact | None]:
        """Return the job of one part, and the artifact of its targets.

        The targets of a part are those of models without this part *and* without the parts before it.
        """
        part, target = self.parts[place], self.unlearners[place].target
        gone = self.gone(place)
        oracles = self.target_oracles(gone) if target == "oracle" else None
        whole = "the forget set" if place == len(self.parts) - 1 else None
        effect = self.effects.of(gone, whole) if target == "predicted" else None
        early = self.early(place)
        assert part.unlearner is not None
        return PartJob(
            unlearner=part.unlearner,
            points=tuple(part.rows.tolist()),
            oracles=oracles.path if oracles else None,
            effect=effect.path if effect else None,
            early=early.path if early else None,
        ), oracles or effect
