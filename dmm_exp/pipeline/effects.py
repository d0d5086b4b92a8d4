"""Predicted effects of training rows: the evidence, what an estimator learns from it, and the effects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from dmm_exp.attribution import Estimator, Evidence, GradientEstimator, Gradients, Learned, SubsetModels
from dmm_exp.attribution.work import GradientJob, gradient_chunk
from dmm_exp.config.schema import Node
from dmm_exp.data import GROUPS, Rows
from dmm_exp.ensembles.memory import return_free_memory
from dmm_exp.errors import UserError
from dmm_exp.metrics import lds, margins
from dmm_exp.models import margin
from dmm_exp.pipeline.code import with_code
from dmm_exp.pipeline.models import Models
from dmm_exp.pipeline.shared import Last
from dmm_exp.store import Artifact, Draft, Spec

LDS_POINTS = 100  # of each group
LEARNED_FORMAT = 5  # increased when the stored result of an estimator that remembers changes


class EvidenceSource(ABC):
    """Provides the evidence for an estimator.

    Args:
        models: of the experiment.
        estimator: that uses the evidence.
    """

    def __init__(self, models: Models, estimator: Estimator) -> None:
        self.models = models
        self.context = models.context
        self.estimator = estimator

    @abstractmethod
    def artifacts(self, rows: Rows) -> dict[str, Artifact]:
        """Return the artifacts that the effect of some rows is computed from, by name."""

    @abstractmethod
    def evidence(self, rows: Rows) -> Evidence:
        """Return what the effect of some rows is estimated from."""

    def shared(self) -> list[Artifact]:
        """Return the artifacts that many forget sets share, without the originals."""
        return []

    def of_request(self, rows: Rows) -> list[Artifact]:
        """Return the models that are trained for these rows alone."""
        return []

    @property
    @abstractmethod
    def originals_used(self) -> int:
        """How many originals the evidence looks at."""

    @cached_property
    def gradients(self) -> Artifact:
        """Features of gradients of some originals; they do not depend on the forget set."""
        estimator, models, config = self.estimator, self.models, self.context.config
        assert isinstance(estimator, GradientEstimator)
        settings, checkpoints = config.attribution, min(estimator.checkpoints, config.n_models)
        known = {key: value for key, value in settings.items() if key not in (*estimator.fitted_later, "checkpoints")}
        inputs = {"originals": models.originals.digest, "dataset": self.context.dataset.digest}
        spec = Spec("gradients", with_code({"estimator": known, "checkpoints": checkpoints}), inputs)

        def make(draft: Draft) -> None:
            job = GradientJob(
                estimator=settings,
                examples=self.context.dataset.path,
                originals=models.originals.path,
                model=config.model.network,
                trainer=models.chunks.trainer,
            )
            models.chunks.run("gradients", draft, gradient_chunk, job, checkpoints, size=1)

        return self.context.obtain("gradients", f"of every logit of {checkpoints} originals", spec, make)

    def features(self) -> Gradients:
        """Return the features of gradients, read from disk."""
        return Gradients(**{name: self.gradients.stacked(name) for name in ("train", "weights", "targets")})


class FromPool(EvidenceSource):
    """Evidence from the pool and, for some estimators, gradients, larger subset models and the originals."""

    @property
    def extrapolates(self) -> bool:
        """Whether the estimator uses larger subset models, and there are any."""
        return self.estimator.extrapolates and self.context.config.pool.larger.size > 0

    @property
    def designs(self) -> list[str]:
        """Names of the parts of the pool that are trained by design, where the estimator looks at them."""
        return self.models.design_names if self.estimator.uses_designs else []

    def artifacts(self, rows: Rows) -> dict[str, Artifact]:
        """Return the pool, and what else the estimator uses; models by design are read where it learns, not here."""
        return self._artifacts

    @cached_property
    def _artifacts(self) -> dict[str, Artifact]:
        """They are the same for all rows."""
        models, alphas = self.models, self.context.config.pool.lds_alphas
        further = {f"lds/alpha_{alpha:g}": models.of_other_subsets(alpha) for alpha in alphas}
        gradients = {"gradients": self.gradients} if self.estimator.source == "gradients" else {}
        extrapolated = {"larger": models.larger, "originals": models.originals} if self.extrapolates else {}
        designed = {f"design/{name}": models.designed(name, to_read=False) for name in self.designs}
        designed |= {"originals": models.originals} if designed else {}
        return {"pool": models.pool} | gradients | further | extrapolated | designed

    def shared(self) -> list[Artifact]:
        """Return the pool, gradients, larger subset models and models by design, as far as the estimator uses them."""
        gradients = [self.gradients] if self.estimator.source == "gradients" else []
        designed = [self.models.designed(name) for name in self.designs]
        return [self.models.pool, *gradients, *([self.models.larger] if self.extrapolates else []), *designed]

    @property
    def originals_used(self) -> int:
        """All for estimators that also look at models on more than a half; those with gradients for the others."""
        all_of_them, estimator = self.context.config.n_models, self.estimator
        if self.extrapolates or self.designs:
            return all_of_them
        return min(estimator.checkpoints, all_of_them) if isinstance(estimator, GradientEstimator) else 0

    def evidence(self, rows: Rows) -> Evidence:
        """Return all that the estimator uses."""
        evidence, models = self.at_size_of_pool(rows), self.models
        if self.designs:
            evidence = replace(
                evidence,
                designs=lambda: models.of_designs,
                known=lambda: models.known,
                originals=models.originals.stacked("logits"),
            )
        if not self.extrapolates:
            return evidence
        larger = models.answers(models.larger, models.larger_subsets.block)
        return replace(evidence, larger=larger, originals=models.originals.stacked("logits"))

    def at_size_of_pool(self, rows: Rows) -> Evidence:
        """Return the evidence for effects on models trained on subsets as large as the pool's."""
        pool = self.models.of_pool
        fitted = pool[: len(pool) - self.context.config.pool.held_out]
        evidence = Evidence(rows.groups(self.context.examples.n_points), rows.n_train, pool=fitted)
        return evidence if self.estimator.source == "pool" else replace(evidence, gradients=self.features())


class FromOracles(EvidenceSource):
    """Originals, and models retrained without the rows; metrics compare with other retrained models."""

    def artifacts(self, rows: Rows) -> dict[str, Artifact]:
        """Return both ensembles."""
        (oracles,) = self.of_request(rows)
        return {"originals": self.models.originals, "oracles": oracles}

    def of_request(self, rows: Rows) -> list[Artifact]:
        """Return the models that are retrained without the rows."""
        return [self.models.retrained("target oracles", "target_oracle", rows)]

    @property
    def originals_used(self) -> int:
        """All of them."""
        return self.context.config.n_models

    def evidence(self, rows: Rows) -> Evidence:
        """Return the logits of both."""
        originals, oracles = (artifact.stacked("logits") for artifact in self.artifacts(rows).values())
        groups = rows.groups(self.context.examples.n_points)
        return Evidence(groups, rows.n_train, originals=originals, oracles=oracles)


class FromOriginals(EvidenceSource):
    """Evidence from gradients and logits of the originals alone."""

    def artifacts(self, rows: Rows) -> dict[str, Artifact]:
        """Return gradients and originals."""
        return {"gradients": self.gradients, "originals": self.models.originals}

    @property
    def originals_used(self) -> int:
        """All of them."""
        return self.context.config.n_models

    def evidence(self, rows: Rows) -> Evidence:
        """Return gradients, logits and labels."""
        examples = self.context.examples
        return Evidence(
            rows.groups(examples.n_points),
            rows.n_train,
            gradients=self.features(),
            originals=self.models.originals.stacked("logits"),
            labels=examples.labels,
        )


@dataclass(frozen=True)
class Effects:
    """Predicts effects of training points.

    Attributes:
        source: where evidence comes from.
        last: what the estimator learned last, for experiments that share it.
        measures_lds: whether it is also measured how well the estimator predicts held-out models.
        spreads: whether the spread of retrained models' margins is also predicted, where the estimator is to do so.
    """

    source: EvidenceSource
    last: Last[Learned]
    measures_lds: bool = True
    spreads: bool = True

    @classmethod
    def of_experiment(cls, models: Models) -> Effects:
        """Return the effects that a configuration's estimator predicts."""
        estimator: Estimator = models.context.made(models.context.config.attribution, "attribution")
        source = FromOracles if estimator.source == "oracles" else FromPool
        return cls(source(models, estimator), models.context.shared.learned)

    @property
    def estimator(self) -> Estimator:
        """The method."""
        return self.source.estimator

    def check(self) -> None:
        """Raise ``UserError`` if the pool lacks what the estimator looks at, or memory would not suffice for it."""
        if not self.estimator.uses_designs:
            return
        models, examples, name = self.source.models, self.source.context.examples, type(self.estimator).__name__
        members = sum(design.members for design in models.designs.values())
        if members < 2:
            raise UserError(
                f"pool.designs: {name} expects at least two members that are trained by design, and this pool has "
                f"{members or 'none'}; choose pool=groups, or attribution=empirical_bayes"
            )
        for part in models.design_names:
            models.column_of(part)
        self.estimator.check_memory(members, examples.n_points, examples.n_classes)

    def of(self, rows: Rows, name: str | None = None) -> Artifact:
        """Return how much including some training rows changes every logit.

        The artifact holds ``effect [points, classes]``, its ``standard_error`` where that is known, how well the
        estimator predicts held-out members (``lds…``) where that is measured, and where the estimator is to predict it
        the ``spread`` of retrained models' margins, with the means of ``margins`` before and after.

        Args:
            rows: to forget.
            name: of these rows in the output.
        """
        context, sources = self.source.context, self.source.artifacts(rows) | self.correcting(rows)
        config = {"estimator": self._settings("oracles", *([] if self.spreads else ["spread"]))}
        if "pool" in sources:
            config |= {"held_out": context.config.pool.held_out}
        config |= {} if self.measures_lds else {"lds": False}
        config |= {"format": LEARNED_FORMAT} if self.estimator.remembers else {}
        inputs = {name: artifact.digest for name, artifact in sources.items()} | {"forget": rows.digest}
        detail = f"effect of {name or f'{len(rows)} forget points'} by {type(self.estimator).__name__}"
        return context.obtain(
            "attribution", detail, Spec("effect", with_code(config), inputs), partial(self._write, rows)
        )

    def correcting(self, rows: Rows) -> dict[str, Artifact]:
        """Return the models retrained without some rows that correct what is predicted, and the originals."""
        models, count = self.source.models, self.estimator.oracles
        if not count:
            return {}
        few = models.retrained("few oracles", "few_oracle", rows, count)
        return {"originals": models.originals, "few_oracles": few}

    def of_request(self, rows: Rows) -> list[Artifact]:
        """Return the models that are trained to predict the effect of these rows, and of use for no others."""
        few = self.correcting(rows)
        return [*self.source.of_request(rows), *([few["few_oracles"]] if few else [])]

    @property
    def originals_used(self) -> int:
        """How many originals predictions look at, for evidence, for a correction or for the spread of margins."""
        if self.estimator.oracles or (self.spreads and self.estimator.spread):
            return self.source.context.config.n_models
        return self.source.originals_used

    def _settings(self, *without: str) -> Node:
        """Return the estimator's configuration without some keys, which change nothing of what is asked for."""
        return {key: value for key, value in self.source.context.config.attribution.items() if key not in without}

    def _write(self, rows: Rows, draft: Draft) -> None:
        learned = self.learned(rows)
        effect = learned.effect(rows.indices)
        if correcting := self.correcting(rows):
            effect = effect.corrected(*(artifact.stacked("logits") for artifact in correcting.values()))
        tensors = {"effect": effect.mean}
        if effect.standard_error is not None:
            tensors["standard_error"] = effect.standard_error
        if effect.spread is not None and self.spreads and self.estimator.spread:
            logits, labels = self.source.models.originals.stacked("logits"), self.source.context.examples.labels
            means = [margin(values, labels).mean(0) for values in (logits, logits - effect.mean)]
            tensors |= {"spread": effect.spread, "margins": torch.stack(means)}
        if self.measures_lds and self.estimator.source != "oracles":
            tensors |= self.lds(rows)
        draft.write_tensors("effect", tensors)
        draft.write_json("facts", learned.facts())
        if self.measures_lds:  # an effect alone takes little, and to get that again takes longer than to keep it
            return_free_memory()

    def learned(self, rows: Rows) -> Learned:
        """Return what the estimator learns from the evidence about some rows."""
        config = self.source.context.config
        facts = {
            "estimator": self._settings("oracles", "spread"),
            "held_out": config.pool.held_out,
            "format": LEARNED_FORMAT,
        }
        inputs = {name: artifact.digest for name, artifact in self.source.artifacts(rows).items()}
        inputs |= {"forget": rows.digest} if self.estimator.tuned_by_group else {}
        spec = Spec("estimator", with_code(facts), inputs)
        return self.last.obtain(spec.digest, partial(self._learn, rows, spec))

    def _learn(self, rows: Rows, spec: Spec) -> Learned:
        """Let the estimator learn; one that remembers learns once, and its result is stored and read back."""
        if not self.estimator.remembers:
            return self.estimator.learn(self.source.evidence(rows))
        store = self.source.context.store
        with ThreadPoolExecutor(1) as threads:  # what was learnt is verified while evidence is read
            verified = threads.submit(store.find, spec)
            evidence = self.source.evidence(rows)
            verified.result()

        def make(draft: Draft) -> None:
            draft.write_tensors("learnt", self.estimator.learn(evidence).tensors())

        return self.estimator.recall(evidence, store.obtain(spec, make).tensors("learnt"))

    def lds(self, rows: Rows) -> dict[str, Tensor]:
        """Return linear datamodeling scores ``[points]``, NaN where they are not computed.

        ``lds`` is measured on the members of the pool that are held out, ``lds/alpha_…`` on models trained on subsets
        of other sizes.
        """
        models, pool = self.source.models, self.source.context.config.pool
        evidence, learned = self.source.evidence(rows), self.learned(rows)
        if evidence.pool is None or pool.held_out < 2:
            return {}
        scores = {"lds": self._lds(learned, evidence, models.of_pool[len(evidence.pool) :])}
        for alpha in pool.lds_alphas:
            others = models.answers(models.of_other_subsets(alpha))
            scores[f"lds/alpha_{alpha:g}"] = self._lds(learned, evidence, others)
        return scores

    def _lds(self, learned: Learned, evidence: Evidence, models: SubsetModels) -> Tensor:
        """Return the score of every point on some models; at most ``LDS_POINTS`` of each group, evenly spaced."""
        fitted, examples = evidence.pool, self.source.context.examples
        assert fitted is not None
        groups = [(evidence.groups == group).nonzero().squeeze(1) for group in range(len(GROUPS))]
        points = torch.cat([where[:: max(1, -(-len(where) // LDS_POINTS))] for where in groups])
        directions = models.masks[:, :].float() - fitted.inclusion
        predicted = fitted.mean_logits(points) + learned.predict_at(directions, points)
        found = lds(margins(predicted, examples.labels[points]), self.source.models.margins_of(models, points))
        scores = torch.full((examples.n_points,), torch.nan)
        scores[points] = torch.from_numpy(found).float()
        return scores
