"""What unlearning costs: for one model, for one request, and what many requests share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dmm_exp.metrics import cost_ratio, retraining_cost
from dmm_exp.pipeline import Pipeline
from dmm_exp.scores import families_of
from dmm_exp.store import Artifact


class Costs:
    """Counts gradient evaluations of single examples.

    Args:
        pipeline: a finished one.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.config = pipeline.context.config

    def metrics(self, unlearning: float) -> dict[str, float]:
        """Return all costs: in gradient evaluations, and in multiples of one retraining.

        Args:
            unlearning: gradient evaluations for one model.
        """
        pipeline, amortised_over = self.pipeline, self.config.pool.amortised_over
        retraining = retraining_cost(
            self.config.training.epochs, pipeline.context.examples.n_train - len(pipeline.forget)
        )
        shared, own = self.shared(), gradients_of(unique(self.of_request()))
        values = {
            "cost/unlearning": unlearning,
            "cost/ratio": cost_ratio(unlearning, retraining),
            "cost/shared": cost_ratio(shared, retraining),
            "cost/own": cost_ratio(own, retraining),
            "cost/shared_per_request": cost_ratio(shared / amortised_over + own, retraining),
        }
        if pipeline.predicts and pipeline.effects.estimator.source != "oracles":
            values["cost/attribution"] = self._attribution()
        return values

    def shared(self) -> float:
        """Return gradient evaluations of all models that the method looks at and other requests can look at, too.

        These are the pool, models by design and on larger subsets, gradients, and the originals, as far as predictions
        or the scores of a refinement use them, or a method trains such ones itself.
        """
        artifacts, originals = list(unique(self._looked_at())), self.pipeline.models.originals
        trained = gradients_of(artifact for artifact in artifacts if artifact.digest != originals.digest)
        if any(unlearner.trains_originals for unlearner in self.pipeline.unlearners):
            trained += gradients_of([originals])
        return trained + gradients_of([originals]) * self._originals_used(artifacts) / self.config.n_models

    def _looked_at(self) -> Iterator[Artifact]:
        """Yield the models that predictions, the refinement's scores and methods that go back are made from."""
        pipeline, refinement = self.pipeline, self.pipeline.refinement
        if "predicted" in pipeline.targets:
            yield from pipeline.effects.source.shared()
        for place, unlearner in enumerate(pipeline.unlearners):
            if unlearner.starts_at and (early := pipeline.unlearning.early(place)) is not None:
                yield early
        for family in families_of([refinement.score]) if refinement.needs_scores else ():
            yield from pipeline.scores.sources(family).values()

    def _originals_used(self, artifacts: Iterable[Artifact]) -> int:
        """Return how many originals are looked at; scores look at all of them."""
        pipeline = self.pipeline
        if any(artifact.digest == pipeline.models.originals.digest for artifact in artifacts):
            return self.config.n_models
        return pipeline.effects.originals_used if "predicted" in pipeline.targets else 0

    def of_request(self) -> Iterator[Artifact]:
        """Yield the models that are retrained for this forget set alone, as targets or to correct predictions."""
        pipeline = self.pipeline
        for place, target in enumerate(pipeline.targets):
            gone = pipeline.unlearning.gone(place)
            if target == "predicted":
                yield from pipeline.effects.of_request(gone)
            elif target == "oracle":
                yield pipeline.unlearning.target_oracles(gone)

    def _attribution(self) -> float:
        """Return gradient evaluations of what the effect is estimated from, shared by several forget sets."""
        effects, unlearning = self.pipeline.effects, self.pipeline.unlearning
        predicted = [place for place, target in enumerate(self.pipeline.targets) if target == "predicted"]
        correcting = [effects.correcting(unlearning.gone(place)) for place in predicted]
        own = [artifacts["few_oracles"] for artifacts in correcting if artifacts]
        return gradients_of(effects.source.shared()) / self.config.pool.amortised_over + gradients_of(own)


def unique(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """Return every artifact once, in order of appearance."""
    return list({artifact.digest: artifact for artifact in artifacts}.values())


def gradients_of(artifacts: Iterable[Artifact]) -> int:
    """Return gradient evaluations of single examples that the members of some ensembles took."""
    return sum(
        facts["sample_gradients"] * facts["members"] for artifact in artifacts for facts in artifact.shard_facts()
    )
