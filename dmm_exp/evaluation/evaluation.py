"""From ensembles to numbers: ``metrics.json`` and the table of points."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmm_exp import __version__
from dmm_exp.evaluation.costs import Costs
from dmm_exp.evaluation.lds import lds_metrics
from dmm_exp.evaluation.outputs import Outputs
from dmm_exp.evaluation.scored import Scored
from dmm_exp.metrics import doubt, effect_quality, error_ratio, expected_error, mia
from dmm_exp.metrics.settings import klom_options_of
from dmm_exp.pipeline import Pipeline
from dmm_exp.store import Artifact, Draft, Spec

EVALUATION_FORMAT = (
    5  # increased when the same models get other numbers; 5: the competition's score, KLoM's floor has intervals
)


class Evaluation:
    """Compares the unlearned models of a finished pipeline with its oracles.

    Args:
        pipeline: whose models are compared.
        epoch: of a checkpoint of the unlearner; None for its end.
    """

    def __init__(self, pipeline: Pipeline, epoch: int | None = None) -> None:
        self.pipeline = pipeline
        self.epoch = epoch
        self.context = pipeline.context
        self.config = pipeline.context.config
        self.klom_options = klom_options_of(self.config.evaluation)
        self.labels = pipeline.context.examples.labels.numpy()
        self.groups = pipeline.groups.numpy()

    @cached_property
    def artifact(self) -> Artifact:
        """Metrics and points as an artifact: evaluating the same models again takes no time."""
        pipeline = self.pipeline
        used = [pipeline.models.originals, pipeline.unlearned, pipeline.oracles, pipeline.floor_oracles]
        used += [pipeline.effect] if pipeline.predicts else []
        used += [pipeline.scores.family(family) for family in pipeline.families]
        config = {
            "klom": self.klom_options,
            "mia": self.config.evaluation.mia,
            "epochs": self.config.training.epochs,
            "amortised_over": self.config.pool.amortised_over,
            "package": __version__,
            "tables": ["points", "members", "roc"],
            "format": EVALUATION_FORMAT,
        }
        config |= {} if self.epoch is None else {"epoch": self.epoch}
        inputs = {str(place): artifact.digest for place, artifact in enumerate(used)}
        inputs["forget"] = pipeline.forget.digest
        spec = Spec("evaluation", config, inputs)
        after = "" if self.epoch is None else f" after {self.epoch} epoch{'s' * (self.epoch > 1)}"
        return self.context.obtain("evaluation", f"unlearned models{after} against oracles", spec, self._write)

    def _write(self, draft: Draft) -> None:
        draft.write_json("metrics", self._metrics())
        draft.write_table("points", self._points())
        draft.write_table("members", self.scored.table_of_members())
        draft.write_table("roc", self.scored.curves())

    @property
    def metrics(self) -> dict[str, float]:
        """All of ``metrics.json`` except the seconds; metrics that do not apply are absent."""
        return self.artifact.json("metrics")

    @property
    def points(self) -> pd.DataFrame:
        """One row for each point: ``points.parquet``."""
        return self.artifact.table("points")

    @property
    def members(self) -> pd.DataFrame:
        """One row for each member: ``members.parquet``. The mean of a column is the metric of this name.

        Of ``single/…``, one network among retrained ones, the median is.
        """
        return self.artifact.table("members")

    @property
    def roc(self) -> pd.DataFrame:
        """Curves of the attack on forget points: ``ensemble``, ``fpr``, ``tpr``; empty where there was no attack."""
        return self.artifact.table("roc")

    @cached_property
    def outputs(self) -> dict[str, Outputs]:
        """The outputs of each ensemble, by ``original``, ``unlearned``, ``oracle``, ``floor``."""
        artifacts = {
            "original": self.pipeline.models.originals,
            "unlearned": self.pipeline.unlearned,
            "oracle": self.pipeline.oracles,
            "floor": self.pipeline.floor_oracles,
        }
        return {name: self._outputs(name, artifact) for name, artifact in artifacts.items()}

    def _outputs(self, name: str, artifact: Artifact) -> Outputs:
        return Outputs.of(self._logits(name, artifact), self.labels)

    def _logits(self, name: str, artifact: Artifact) -> NDArray[np.float32]:
        """Return an ensemble's logits ``[members, points, classes]``."""
        at = f"epoch={self.epoch}/" if name == "unlearned" and self.epoch is not None else ""
        return artifact.stacked(f"{at}logits").numpy()

    @cached_property
    def scored(self) -> Scored:
        """The scores that need nothing but outputs."""
        known = {"label": self.labels, "corrupted": self.context.examples.corrupted.numpy()}
        return Scored(
            self.outputs,
            self.groups,
            known,
            self.klom_options,
            lambda: self._attack_scores,
            lambda: self._floor_intervals,
        )

    def _metrics(self) -> dict[str, float]:
        parts = (self.scored.metrics(), self._certified(), self._cost(), self._effect())
        return {name: float(value) for part in parts for name, value in part.items()}

    def quick_metrics(self) -> dict[str, float]:
        """Return the metrics for a search (KLoM, accuracies, ToW, cost), without intervals; nothing is stored."""
        parts = (self.scored.quick_metrics(), self._cost())
        return {name: float(value) for part in parts for name, value in part.items()}

    @cached_property
    def _attack_scores(self) -> dict[str, NDArray[np.float64]]:
        """Score of the membership inference attack on every member ``[members]``, by ensemble."""
        pipeline = self.pipeline
        attacked = {
            "oracle": ("oracles", pipeline.oracles),
            "original": ("originals", pipeline.models.originals),
            "floor": ("floor oracles", pipeline.floor_oracles),
        }
        scores = {name: self._attack_artifact(name, *models) for name, models in attacked.items()}
        return {**scores, "unlearned": self._attack(self._logits("unlearned", pipeline.unlearned))}

    def _attack_artifact(self, name: str, called: str, models: Artifact) -> NDArray[np.float64]:
        """Return the stored attack on an ensemble that is the same for many unlearners."""
        pipeline = self.pipeline
        config = {**self.config.evaluation.mia, "seed": self.config.seed}
        inputs = {
            "models": models.digest,
            "forget": pipeline.forget.digest,
            "dataset": self.context.dataset.digest,
        }

        def make(draft: Draft) -> None:
            draft.write_json("scores", self._attack(self._logits(name, models)).tolist())

        found = self.context.obtain("attack", f"membership inference on {called}", Spec("attack", config, inputs), make)
        return np.asarray(found.json("scores"))

    @property
    def _floor_intervals(self) -> dict[str, float]:
        """Intervals of KLoM's floor, stored: they are the same for many unlearners."""
        pipeline = self.pipeline
        inputs = {"oracles": pipeline.oracles.digest, "floor": pipeline.floor_oracles.digest}
        spec = Spec("floor", {"klom": self.klom_options, "package": __version__}, inputs)

        def make(draft: Draft) -> None:
            draft.write_json("intervals", self.scored.klom_intervals_of("floor"))

        return self.context.obtain("floor", "intervals of the noise floor", spec, make).json("intervals")

    def _attack(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return each member's score ``[members]``."""
        return mia(logits, self.labels, self.groups, seed=self.config.seed, **self.config.evaluation.mia)

    @cached_property
    def effects(self) -> dict[str, NDArray[np.float32]]:
        """True and, where a predictor was used, predicted effect of the forget set: ``[points, classes]``."""
        assert self.scored.true_effect is not None  # there are originals, and their logits
        effects = {"true": self.scored.true_effect}
        if self.pipeline.predicts:
            effects["predicted"] = self.pipeline.effect.tensors("effect")["effect"].numpy()
        return effects

    def _effect(self) -> dict[str, float]:
        if "predicted" not in self.effects:
            return {}
        values: dict[str, float] = {}
        for name, points in self.scored.points_of.items():
            quality = effect_quality(self.effects["predicted"][points], self.effects["true"][points])
            values |= {f"effect/{measure}/{name}": value for measure, value in quality.items()}
            values |= {f"effect/{measure}/{name}": value for measure, value in self._doubt(points).items()}
        for name, scores in self.pipeline.effect.tensors("effect").items():
            if name.startswith("lds"):
                values |= lds_metrics(name, scores.numpy(), self.scored.points_of)
        return values

    def _doubt(self, points: NDArray[np.intp]) -> dict[str, float]:
        """Return the uncertainty of the prediction, if it has one."""
        error = self.pipeline.effect.tensors("effect").get("standard_error")
        if error is None:
            return {}
        predicted, errors = self.effects["predicted"][points], error.numpy()[points]
        posterior = self.pipeline.effects.estimator.posterior
        values = {
            "standard_error": float(np.sqrt((errors**2).mean())),
            "expected_error": expected_error(predicted, errors, posterior=posterior),
        }
        if errors.any():
            again = self.scored.effect_by("floor")
            assert again is not None
            values["error_ratio"] = error_ratio(predicted, errors, self.effects["true"][points], again[points])
        if posterior:
            deviation = self.pipeline.models.originals.stacked("logits")[:, points].std(0, correction=0).numpy()
            values["doubt"] = doubt(errors, deviation, self.context.examples.labels.numpy()[points])
        return values

    def _certified(self) -> dict[str, float]:
        """Return ε and δ that the last part's method certifies: its steps know nothing of the other parts, either."""
        return {f"certified/{name}": value for name, value in self.pipeline.unlearners[-1].certified.items()}

    def _cost(self) -> dict[str, float]:
        facts = self.pipeline.unlearned.shard_facts()[0]
        unlearning = facts["sample_gradients"] if self.epoch is None else facts["gradients_by_epoch"][str(self.epoch)]
        return Costs(self.pipeline).metrics(unlearning)

    def _points(self) -> pd.DataFrame:
        table = self.scored.table_of_points()
        if "predicted" in self.effects:
            table["effect_predicted"] = self.effects["predicted"][table["point"], self.labels]
        if self.pipeline.families:
            table = table.merge(self.pipeline.needed_scores, on="point", how="left")
        return table
