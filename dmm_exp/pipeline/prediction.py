"""Who has to go, models that never saw them, and what their going is predicted to change."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dmm_exp.attribution import Estimator, Evidence, GradientEstimator, Gradients, Learned, SubsetModels
from dmm_exp.attribution.work import GradientJob, gradient_chunk
from dmm_exp.config.instantiate import instantiate
from dmm_exp.ensembles import AllBut, RandomSubsets, Role
from dmm_exp.errors import UserError
from dmm_exp.forget import Indices, Selector
from dmm_exp.metrics import lds, margins
from dmm_exp.pipeline.learning import LastLearned
from dmm_exp.pipeline.scoring import Scoring
from dmm_exp.pipeline.stages import content_hash
from dmm_exp.refinement import Refinement
from dmm_exp.scores import families_of
from dmm_exp.store import Artifact, Draft, Spec

if TYPE_CHECKING:
    import pandas as pd

FORGET, RETAIN, VALIDATION = 0, 1, 2
GROUPS = ("forget", "retain", "val")
LDS_POINTS = 100  # of each group
LEARNT_FORMAT = 1  # raised when an estimator that remembers learns, or keeps, something else


class Prediction(Scoring):
    """The forget set, its oracles, and its effect.

    Args:
        *parts: arguments of :class:`Stages`.
        learned: what the estimator learnt last, for pipelines that share it.

    Attributes:
        measures_lds: whether an effect comes with scores of how well held-out models are predicted.
    """

    measures_lds: ClassVar[bool] = True

    def __init__(self, *parts: Any, learned: LastLearned | None = None) -> None:
        super().__init__(*parts)
        self.learned = learned or LastLearned()
        self.selector: Selector = instantiate(self.config.forget)
        self.refinement: Refinement = instantiate({**self.config.refinement, "_recursive_": False})
        self.estimator: Estimator = instantiate(self.config.attribution)

    @property
    def needs_scores(self) -> bool:
        """Whether the forget set or its refinement depends on scores of examples."""
        return self.selector.needs_scores or self.refinement.needs_scores

    @property
    def families(self) -> list[str]:
        """The families of scores that the forget set or its refinement depends on."""
        users = (self.selector, self.refinement)
        return families_of([user.score for user in users if user.needs_scores])

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The scores of these families, one row a training example."""
        return self.score_table(self.families)

    @cached_property
    def forget(self) -> Tensor:
        """The sorted training indices that have to go."""
        scores = self.scores if self.selector.needs_scores else None
        rows = self.selector.rows(self.examples, scores)
        chosen = rows.indices
        if not 0 < len(chosen) < self.examples.n_train:
            raise UserError(
                f"forget: {type(self.selector).__name__} chose {len(chosen)} of {self.examples.n_train} training "
                "examples; something must be forgotten, and something retained"
            )
        read = f": {rows.read}" if isinstance(self.selector, Indices) else ""
        self.console.note(f"forget set: {len(chosen)} of {self.examples.n_train:,} training examples{read}")
        return chosen

    @cached_property
    def groups(self) -> Tensor:
        """What each point is: 0 forget, 1 retain, 2 validation; ``[points]``."""
        return self._groups(self.forget)

    def _groups(self, gone: Tensor) -> Tensor:
        groups = torch.full((self.examples.n_points,), RETAIN)
        groups[gone] = FORGET
        groups[self.examples.n_train :] = VALIDATION
        return groups

    @cached_property
    def oracles(self) -> Artifact:
        """N models retrained without the forget set; metrics compare with these."""
        return self._retrained("oracles", "oracle", self.forget)

    @cached_property
    def floor_oracles(self) -> Artifact:
        """N more, independent of the first: their distance is the noise floor."""
        return self._retrained("floor oracles", "floor_oracle", self.forget)

    def target_oracles(self, gone: Tensor) -> Artifact:
        """N more, without some points, which oracle matching may look at; metrics never do."""
        return self._retrained("target oracles", "target_oracle", gone)

    def _retrained(self, name: str, role: Role, excluded: Tensor) -> Artifact:
        job = replace(self._job(role), subsets=AllBut(self.examples.n_train, tuple(excluded.tolist())))
        members = self.config.n_models
        return self._trained(name, f"{members:,} models without the forget set", members, job)

    @cached_property
    def effect(self) -> Artifact:
        """What including the forget set does to every logit, and how well the estimator predicts held-out members."""
        return self.effect_of(self.forget)

    def effect_of(self, gone: Tensor) -> Artifact:
        """Return the effect of some training points, as :attr:`effect` is that of all of the forget set."""
        sources = self._sources_of_effect(gone)
        config = {"estimator": self.config.attribution}
        if "pool" in sources:
            config |= {"held_out": self.config.pool.held_out}
        config |= {} if self.measures_lds else {"lds": False}
        inputs = {name: artifact.digest for name, artifact in sources.items()} | {"forget": content_hash(gone)}
        what = "the forget set" if len(gone) == len(self.forget) else f"{len(gone)} forget points"
        detail = f"effect of {what} by {type(self.estimator).__name__}"
        return self.obtain("attribution", detail, Spec("effect", config, inputs), partial(self._make_effect, gone))

    def _sources_of_effect(self, gone: Tensor) -> dict[str, Artifact]:
        if self.estimator.source == "oracles":
            return {"originals": self.originals, "oracles": self.target_oracles(gone)}
        further = {f"lds/alpha_{alpha:g}": self.further_models(alpha) for alpha in self.config.pool.lds_alphas}
        gradients = {"gradients": self.gradients} if self.estimator.source == "gradients" else {}
        extrapolated = {"larger": self.larger, "originals": self.originals} if self.extrapolates else {}
        return {"pool": self.pool} | gradients | further | extrapolated

    @property
    def extrapolates(self) -> bool:
        """Whether the estimator looks at larger subset models, and there are any."""
        return self.estimator.extrapolates and self.config.pool.larger.size > 0

    def further_models(self, alpha: float) -> Artifact:
        """Models trained on random subsets of another size, to see how well estimators predict them."""
        subsets = RandomSubsets(self.examples.n_train, alpha, self.config.seed, complementary=False, role="lds")
        members, job = self.config.pool.held_out, self._subset_job("lds", subsets)
        return self._trained("LDS models", f"{members:,} models on random subsets of {alpha:.0%}", members, job)

    @cached_property
    def gradients(self) -> Artifact:
        """Features of gradients of some originals, which know no forget set."""
        estimator, settings = self.estimator, self.config.attribution
        assert isinstance(estimator, GradientEstimator)
        checkpoints = min(estimator.checkpoints, self.config.n_models)
        known = {key: value for key, value in settings.items() if key not in (*estimator.fitted_later, "checkpoints")}
        inputs = {"originals": self.originals.digest, "dataset": self.dataset.digest}
        spec = Spec("gradients", {"estimator": known, "checkpoints": checkpoints}, inputs)

        def make(draft: Draft) -> None:
            def job(shard: int, start: int, stop: int) -> GradientJob:
                return GradientJob(
                    estimator=settings,
                    examples=self.dataset.path,
                    originals=self.originals.path,
                    model=self.config.model.network,
                    trainer=self.trainer,
                    output=draft.path,
                    shard=shard,
                    start=start,
                    stop=stop,
                )

            self._run_shards("gradients", draft, gradient_chunk, job, checkpoints, chunk_size=1)

        return self.obtain("gradients", f"of every logit of {checkpoints} originals", spec, make)

    def _make_effect(self, gone: Tensor, draft: Draft) -> None:
        learned = self._learned(gone)
        effect = learned.effect(gone)
        tensors = {"effect": effect.mean}
        if effect.standard_error is not None:
            tensors["standard_error"] = effect.standard_error
        if self.measures_lds and self.estimator.source != "oracles":
            tensors |= self._lds_by_alpha(learned, self._evidence(gone))
        draft.write_tensors("effect", tensors)
        draft.write_json("facts", learned.facts())

    def _learned(self, gone: Tensor) -> Learned:
        """Return what the estimator learns from the evidence."""
        inputs = {name: artifact.digest for name, artifact in self._sources_of_effect(gone).items()}
        config = {"estimator": self.config.attribution, "held_out": self.config.pool.held_out}
        config |= {"format": LEARNT_FORMAT}
        inputs |= {"forget": content_hash(gone)} if self.estimator.tuned_by_group else {}
        spec = Spec("estimator", config, inputs)
        return self.learned.obtain(spec, partial(self._learn, gone, spec))

    def _learn(self, gone: Tensor, spec: Spec) -> Learned:
        """Let the estimator learn; one that remembers does so once, and takes up what was kept of it."""
        evidence = self._evidence(gone)
        if not self.estimator.remembers:
            return self.estimator.learn(evidence)

        def make(draft: Draft) -> None:
            draft.write_tensors("learnt", self.estimator.learn(evidence).tensors())

        return self.estimator.recall(evidence, self.store.obtain(spec, make).tensors("learnt"))

    def _evidence(self, gone: Tensor) -> Evidence:
        if self.estimator.source == "oracles":
            evidence = Evidence(self._groups(gone), self.examples.n_train)
            oracles = self.target_oracles(gone).stacked("logits")
            return replace(evidence, originals=self.originals.stacked("logits"), oracles=oracles)
        evidence = self._evidence_of_pool(gone)
        if not self.extrapolates:
            return evidence
        larger = self._subset_models(self.larger, self.larger_subsets.block)
        return replace(evidence, larger=larger, originals=self.originals.stacked("logits"))

    def _evidence_of_pool(self, gone: Tensor) -> Evidence:
        """Return what tells of effects at the size of the pool's subsets."""
        fitted = self.subset_models[: len(self.subset_models) - self.config.pool.held_out]
        evidence = Evidence(self._groups(gone), self.examples.n_train, pool=fitted)
        if self.estimator.source == "pool":
            return evidence
        parts = {name: self.gradients.stacked(name) for name in ("train", "weights", "targets")}
        return replace(evidence, gradients=Gradients(**parts))

    def _lds_by_alpha(self, learned: Learned, evidence: Evidence) -> dict[str, Tensor]:
        """Return scores on the pool's members that took no part (``lds``), and on models of further subset sizes."""
        if evidence.pool is None or self.config.pool.held_out < 2:
            return {}
        scores = {"lds": self._lds(learned, evidence, self.subset_models[len(evidence.pool) :])}
        for alpha in self.config.pool.lds_alphas:
            models = self._subset_models(self.further_models(alpha))
            scores[f"lds/alpha_{alpha:g}"] = self._lds(learned, evidence, models)
        return scores

    def _lds(self, learned: Learned, evidence: Evidence, models: SubsetModels) -> Tensor:
        """Return the linear datamodeling score of every point on some models, ``[points]``; NaN where not computed.

        At most ``LDS_POINTS`` points of each group are, evenly spaced.
        """
        fitted = evidence.pool
        assert fitted is not None
        groups = [(evidence.groups == group).nonzero().squeeze(1) for group in range(len(GROUPS))]
        points = torch.cat([where[:: max(1, -(-len(where) // LDS_POINTS))] for where in groups])
        directions = models.masks[:, :].float() - fitted.inclusion
        predicted = fitted.mean_logits(points) + learned.predict_at(directions, points)
        found = lds(margins(predicted, self.examples.labels[points]), self.margins_of(models, points))
        scores = torch.full((self.examples.n_points,), torch.nan)
        scores[points] = torch.from_numpy(found).float()
        return scores
