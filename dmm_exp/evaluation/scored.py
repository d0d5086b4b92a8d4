"""From outputs of ensembles to numbers: metrics, and tables of points, members and curves.

Here are neither models nor a pipeline, and nothing needs torch: runs are scored here, and models made elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmm_exp.evaluation import single
from dmm_exp.evaluation.by_member import Columns, accuracy_columns, attack_columns, intervals, means
from dmm_exp.evaluation.competition import competition_metrics
from dmm_exp.evaluation.likelihood import LikelihoodAttack
from dmm_exp.evaluation.outputs import ENDS, FEWEST_FOR_INTERVALS, Outputs
from dmm_exp.metrics import klom_both, klom_intervals
from dmm_exp.metrics.tow import GROUPS

PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Scored:
    """Compares ensembles with oracles by their outputs. What the outputs do not allow is absent.

    Attributes:
        outputs: of the ensembles ``unlearned`` and ``oracle``, and of ``floor`` and ``original`` where there are any;
            all have as many members and the same points.
        groups: the group of every point ``[points]``: 0 forget, 1 retain, 2 validation.
        known: columns of the table of points that stand in it before all scores; with logits, ``label`` is one of them.
        klom_options: those of :func:`dmm_exp.metrics.klom`.
        attacks: returns the score of membership inference on every member ``[members]``, by ensemble; None without one.
        floor_intervals: returns what :meth:`klom_intervals_of` does for ``floor``; None computes it.
    """

    outputs: Mapping[str, Outputs]
    groups: NDArray[np.integer]
    known: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    klom_options: Mapping[str, Any] = field(default_factory=dict)
    attacks: Callable[[], Mapping[str, NDArray[np.float64]]] | None = None
    floor_intervals: Callable[[], Mapping[str, float]] | None = None

    @cached_property
    def points_of(self) -> dict[str, NDArray[np.intp]]:
        """The points of every group that has any, by its name."""
        found = {name: np.flatnonzero(self.groups == group) for group, name in enumerate(GROUPS)}
        return {name: points for name, points in found.items() if len(points)}

    @property
    def members(self) -> int:
        """How many members every ensemble has."""
        return len(self.outputs["unlearned"].margins)

    @property
    def ends(self) -> dict[str, str]:
        """Ensembles that are compared with the oracles → the end of their metrics' names."""
        return {name: end for name, end in ENDS.items() if name in self.outputs}

    @cached_property
    def klom(self) -> dict[str, NDArray[np.float64]]:
        """KLoM of every point ``[points]``, for the unlearned models, the floor and doing nothing, in both directions.

        ``klom`` is the direction that the options name, ``klom_reverse`` the other one.
        """
        oracle, values = self.outputs["oracle"].margins, {}
        for name, end in self.ends.items():
            both = klom_both(self.outputs[name].margins, oracle, **self.klom_options)
            values |= {f"klom{end}": both[0], f"klom_reverse{end}": both[1]}
        return values

    def quick_metrics(self) -> dict[str, float]:
        """Return KLoM, accuracies and tug-of-war, without intervals."""
        return {**self._klom(), **means(self._accuracy_columns)}

    def accuracy_intervals(self) -> dict[str, float]:
        """Return the 95 % intervals of accuracies and tug-of-war; nothing for few members."""
        return intervals(self._accuracy_columns)

    def metrics(self) -> dict[str, float]:
        """Return all metrics, with intervals; the names are those of ``metrics.json``."""
        attack = self._likelihood
        parts = (self.quick_metrics(), self._intervals(), means(self._attack_columns), intervals(self._columns))
        parts += (attack.metrics(), attack.intervals(), single.metrics(self._single, self.points_of))
        parts += (competition_metrics(attack.margins, means(self._accuracy_columns)),)
        return {name: float(value) for part in parts for name, value in part.items()}

    def table_of_points(self) -> pd.DataFrame:
        """Return one row for each point; the columns are those of ``points.parquet``."""
        columns: dict[str, Any] = {"point": np.arange(len(self.groups)), "group": [GROUPS[one] for one in self.groups]}
        columns |= {**self.known, **self.klom, "ulira": self._ulira_by_point}
        for name in ("original", "unlearned", "oracle"):
            if (outputs := self.outputs.get(name)) is not None:
                columns[f"margin_{name}"] = outputs.margins.mean(0)
                if outputs.correct is not None:
                    columns[f"accuracy_{name}"] = outputs.correct.mean(0)
        if self.true_effect is not None:
            columns["effect_true"] = self.true_effect[columns["point"], self.known["label"]]
        return pd.DataFrame(columns)

    def table_of_members(self) -> pd.DataFrame:
        """Return one row for each member; the columns are those of ``members.parquet``."""
        return pd.DataFrame({"member": np.arange(self.members), **self._columns, **self._single})

    def curves(self) -> pd.DataFrame:
        """Return the curves of the attack on forget points: ``ensemble``, ``fpr``, ``tpr``; empty without an attack."""
        return self._likelihood.curves()

    @cached_property
    def true_effect(self) -> NDArray[np.floating] | None:
        """What the forget set does to mean logits ``[points, classes]``: originals minus oracles.

        None where there are no originals, or only margins.
        """
        return self.effect_by("oracle")

    def effect_by(self, retrained: str) -> NDArray[np.floating] | None:
        """Return the true effect by another ensemble of retrained models."""
        sides = [self.outputs[name].mean_logits for name in ("original", retrained) if name in self.outputs]
        before, after = sides if len(sides) == 2 else (None, None)
        return None if before is None or after is None else before - after

    def _klom(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for name, points in self.points_of.items():
            own = self.klom["klom"][points]
            values |= {f"klom/{name}/{p}": float(np.quantile(own, q)) for p, q in PERCENTILES.items()}
            values[f"klom/{name}/mean"] = float(own.mean())
            for end in self.ends.values():
                one, other = (self.klom[f"{direction}{end}"][points] for direction in ("klom", "klom_reverse"))
                found = {"klom": one, "klom_reverse": other, "klom_sum": one + other}
                for measure, each in found.items():
                    values[f"{measure}{end}/{name}/p95"] = float(np.quantile(each, 0.95))
        return values

    def _intervals(self) -> dict[str, float]:
        own = self.klom_intervals_of("unlearned")
        if "floor" not in self.outputs:
            return own
        return {**own, **(self.klom_intervals_of("floor") if self.floor_intervals is None else self.floor_intervals())}

    def klom_intervals_of(self, ensemble: str) -> dict[str, float]:
        """Return the 95 % interval over members of every group's 95th percentile; nothing for few members."""
        values: dict[str, float] = {}
        for name, points in self.points_of.items() if self.members >= FEWEST_FOR_INTERVALS else ():
            own, oracle = (self.outputs[one].margins[:, points] for one in (ensemble, "oracle"))
            low, high = klom_intervals(own, oracle, quantiles=(0.95,), **self.klom_options)[0.95]
            metric = f"klom{ENDS[ensemble]}/{name}/p95"
            values |= {f"{metric}_low": float(low), f"{metric}_high": float(high)}
        return values

    @cached_property
    def _accuracies(self) -> dict[str, dict[str, NDArray[np.float64]]]:
        """The accuracy of every member ``[members]``, by ensemble and group; empty where only margins are known."""
        known = {name: outputs.correct for name, outputs in self.outputs.items() if outputs.correct is not None}
        return {
            ensemble: {name: correct[:, points].mean(1) for name, points in self.points_of.items()}
            for ensemble, correct in known.items()
        }

    @cached_property
    def _accuracy_columns(self) -> Columns:
        return accuracy_columns(self._accuracies) if self._accuracies else {}

    @cached_property
    def _attack_columns(self) -> Columns:
        return {} if self.attacks is None else attack_columns(self._accuracies, self.attacks())

    @property
    def _columns(self) -> Columns:
        return {**self._accuracy_columns, **self._attack_columns}

    @cached_property
    def _single(self) -> Columns:
        """What every network looks like alone among the oracles."""
        return single.columns({name: outputs.margins for name, outputs in self.outputs.items()}, self.points_of)

    @cached_property
    def _likelihood(self) -> LikelihoodAttack:
        points = self.points_of["forget"]
        return LikelihoodAttack({name: outputs.margins[:, points] for name, outputs in self.outputs.items()})

    @property
    def _ulira_by_point(self) -> NDArray[np.float64]:
        """Accuracy of the likelihood-ratio attack on every point ``[points]``; NaN but on forget points."""
        accuracy = np.full(len(self.groups), np.nan)
        accuracy[self.points_of["forget"]] = self._likelihood.by_point()
        return accuracy
