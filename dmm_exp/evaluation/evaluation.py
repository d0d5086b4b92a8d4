"""From ensembles to numbers: ``metrics.json`` and the table of points."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmm_exp import __version__
from dmm_exp.data import FORGET, GROUPS
from dmm_exp.evaluation import single
from dmm_exp.evaluation.by_member import Columns, accuracy_columns, attack_columns, intervals, means
from dmm_exp.evaluation.competition import competition_metrics
from dmm_exp.evaluation.costs import Costs
from dmm_exp.evaluation.lds import lds_metrics
from dmm_exp.evaluation.likelihood import LikelihoodAttack
from dmm_exp.evaluation.outputs import ENDS, FEWEST_FOR_INTERVALS, Outputs
from dmm_exp.metrics import (
    accuracy,
    doubt,
    effect_quality,
    expected_error,
    klom_both,
    klom_intervals,
    margins,
    mia,
)
from dmm_exp.pipeline import Pipeline
from dmm_exp.store import Artifact, Draft, Spec

PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
EVALUATION_FORMAT = 5  # increased when the same models get other numbers; 5: the competition's score


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
        given = self.config.evaluation.klom
        self.klom_options = {name: value for name, value in given.items() if value is not None}
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
        draft.write_table("members", self._members())
        draft.write_table("roc", self._likelihood.curves())

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
        logits = self._logits(name, artifact)
        return Outputs(margins(logits, self.labels), accuracy(logits, self.labels), logits.mean(0))

    def _logits(self, name: str, artifact: Artifact) -> NDArray[np.float32]:
        """Return an ensemble's logits ``[members, points, classes]``."""
        at = f"epoch={self.epoch}/" if name == "unlearned" and self.epoch is not None else ""
        return artifact.stacked(f"{at}logits").numpy()

    @cached_property
    def klom(self) -> dict[str, NDArray[np.float64]]:
        """KLoM of every point ``[points]``, for the unlearned models, the floor and doing nothing, in both directions.

        ``klom`` is the direction that the configuration names, ``klom_reverse`` the other one.
        """
        oracle, values = self.outputs["oracle"].margins, {}
        for name, end in ENDS.items():
            both = klom_both(self.outputs[name].margins, oracle, **self.klom_options)
            values |= {f"klom{end}": both[0], f"klom_reverse{end}": both[1]}
        return values

    def _metrics(self) -> dict[str, float]:
        members = {**self._accuracy_columns, **self._attack_columns}
        attack = self._likelihood
        parts = (self.quick_metrics(), self._intervals(), means(self._attack_columns), intervals(members))
        parts += (attack.metrics(), attack.intervals(), self._effect())
        parts += (single.metrics(self._single, self._points_of),)
        parts += (competition_metrics(attack.margins, means(self._accuracy_columns)),)
        return {name: float(value) for part in parts for name, value in part.items()}

    def quick_metrics(self) -> dict[str, float]:
        """Return the metrics for a search (KLoM, accuracies, ToW, cost), without intervals; nothing is stored."""
        parts = (self._klom(), means(self._accuracy_columns), self._cost())
        return {name: float(value) for part in parts for name, value in part.items()}

    def _of(self, group: int) -> NDArray[np.intp]:
        return np.flatnonzero(self.groups == group)

    @cached_property
    def _points_of(self) -> dict[str, NDArray[np.intp]]:
        """The points of every group that has any, by its name."""
        found = {name: self._of(group) for group, name in enumerate(GROUPS)}
        return {name: points for name, points in found.items() if len(points)}

    @cached_property
    def _single(self) -> single.Columns:
        """What every network looks like alone among the oracles."""
        return single.columns({name: outputs.margins for name, outputs in self.outputs.items()}, self._points_of)

    def _klom(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for group, name in enumerate(GROUPS):
            points = self._of(group)
            own = self.klom["klom"][points]
            values |= {f"klom/{name}/{p}": np.quantile(own, q) for p, q in PERCENTILES.items()}
            values[f"klom/{name}/mean"] = own.mean()
            for end in ENDS.values():
                one, other = (self.klom[f"{direction}{end}"][points] for direction in ("klom", "klom_reverse"))
                found = {"klom": one, "klom_reverse": other, "klom_sum": one + other}
                for measure, each in found.items():
                    values[f"{measure}{end}/{name}/p95"] = np.quantile(each, 0.95)
        return values

    def _intervals(self) -> dict[str, float]:
        """Return the 95 % interval over members of every group's 95th percentile."""
        values: dict[str, float] = {}
        for group, name in enumerate(GROUPS if self.config.n_models >= FEWEST_FOR_INTERVALS else ()):
            points = self._of(group)
            unlearned, oracle = (self.outputs[ensemble].margins[:, points] for ensemble in ("unlearned", "oracle"))
            low, high = klom_intervals(unlearned, oracle, quantiles=(0.95,), **self.klom_options)[0.95]
            values |= {f"klom/{name}/p95_low": low, f"klom/{name}/p95_high": high}
        return values

    @cached_property
    def _accuracies(self) -> dict[str, dict[str, NDArray[np.float64]]]:
        """The accuracy of every member ``[members]``, by ensemble and group."""
        return {
            ensemble: {name: outputs.correct[:, self._of(group)].mean(1) for group, name in enumerate(GROUPS)}
            for ensemble, outputs in self.outputs.items()
        }

    @cached_property
    def _accuracy_columns(self) -> Columns:
        return accuracy_columns(self._accuracies)

    @cached_property
    def _attack_columns(self) -> Columns:
        return attack_columns(self._accuracies, self._attack_scores)

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

    def _attack(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return each member's score ``[members]``."""
        return mia(logits, self.labels, self.groups, seed=self.config.seed, **self.config.evaluation.mia)

    @cached_property
    def _likelihood(self) -> LikelihoodAttack:
        points = self._of(FORGET)
        return LikelihoodAttack({name: outputs.margins[:, points] for name, outputs in self.outputs.items()})

    @property
    def _ulira_by_point(self) -> NDArray[np.float64]:
        """Accuracy of the likelihood-ratio attack on every point ``[points]``; NaN but on forget points."""
        accuracy = np.full(len(self.labels), np.nan)
        accuracy[self._of(FORGET)] = self._likelihood.by_point()
        return accuracy

    @cached_property
    def effects(self) -> dict[str, NDArray[np.float32]]:
        """True and, where a predictor was used, predicted effect of the forget set: ``[points, classes]``."""
        effects = {"true": self.outputs["original"].mean_logits - self.outputs["oracle"].mean_logits}
        if self.pipeline.predicts:
            effects["predicted"] = self.pipeline.effect.tensors("effect")["effect"].numpy()
        return effects

    def _effect(self) -> dict[str, float]:
        if "predicted" not in self.effects:
            return {}
        values: dict[str, float] = {}
        for group, name in enumerate(GROUPS):
            points = self._of(group)
            quality = effect_quality(self.effects["predicted"][points], self.effects["true"][points])
            values |= {f"effect/{measure}/{name}": value for measure, value in quality.items()}
            values |= {f"effect/{measure}/{name}": value for measure, value in self._doubt(points).items()}
        for name, scores in self.pipeline.effect.tensors("effect").items():
            if name.startswith("lds"):
                values |= lds_metrics(name, scores.numpy(), self._points_of)
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
        if posterior:
            deviation = self.pipeline.models.originals.stacked("logits")[:, points].std(0, correction=0).numpy()
            values["doubt"] = doubt(errors, deviation, self.context.examples.labels.numpy()[points])
        return values

    def _cost(self) -> dict[str, float]:
        facts = self.pipeline.unlearned.shard_facts()[0]
        unlearning = facts["sample_gradients"] if self.epoch is None else facts["gradients_by_epoch"][str(self.epoch)]
        return Costs(self.pipeline).metrics(unlearning)

    def _points(self) -> pd.DataFrame:
        table = pd.DataFrame(
            {
                "point": np.arange(len(self.labels)),
                "group": [GROUPS[group] for group in self.groups],
                "label": self.labels,
                "corrupted": self.context.examples.corrupted.numpy(),
                **self.klom,
                "ulira": self._ulira_by_point,
            }
        )
        for name in ("original", "unlearned", "oracle"):
            table[f"margin_{name}"] = self.outputs[name].margins.mean(0)
            table[f"accuracy_{name}"] = self.outputs[name].correct.mean(0)
        for name, effect in self.effects.items():
            table[f"effect_{name}"] = effect[table["point"], self.labels]
        if self.pipeline.families:
            table = table.merge(self.pipeline.needed_scores, on="point", how="left")
        return table

    def _members(self) -> pd.DataFrame:
        columns = {**self._accuracy_columns, **self._attack_columns}
        return pd.DataFrame({"member": np.arange(len(columns["tow"])), **columns, **self._single})
