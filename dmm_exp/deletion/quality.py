"""How well a deletion went: metrics without retrained networks, and a comparison with some of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmm_exp.config.schema import Node, TrainingByFunction
from dmm_exp.data import GROUPS, Rows
from dmm_exp.deletion.deletion import Deletion
from dmm_exp.evaluation import Evaluation
from dmm_exp.metrics import accuracy, margins, mia
from dmm_exp.pipeline import Pipeline
from dmm_exp.records.comparison import compared


def groups_of(deletion: Deletion, gone: Rows) -> dict[str, NDArray[np.intp]]:
    """Return the points of every group that has any, by ``forget``, ``retain``, ``val``, not rows that are zeros."""
    groups = gone.groups(deletion.examples.n_points).numpy()
    groups[list(deletion.given.blank)] = -1
    found = {name: np.flatnonzero(groups == number) for number, name in enumerate(GROUPS)}
    return {name: points for name, points in found.items() if len(points)}


@dataclass(frozen=True)
class Change:
    """What a deletion changed: the answers of the network before and after.

    Attributes:
        deletion: the pipeline.
        gone: the rows that are gone.
        before: logits ``[1, points, classes]`` of the network as it was first given.
        after: logits afterwards.
        targets: logits that were to be matched, if any.
    """

    deletion: Deletion
    gone: Rows
    before: Tensor
    after: Tensor
    targets: Tensor | None

    @cached_property
    def groups(self) -> dict[str, NDArray[np.intp]]:
        """The points of every group that has any; see :func:`groups_of`."""
        return groups_of(self.deletion, self.gone)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Labels ``[points]``."""
        return self.deletion.examples.labels.numpy()

    @cached_property
    def _points(self) -> NDArray[np.intp]:
        """All points that have inputs, sorted."""
        return np.sort(np.concatenate(list(self.groups.values())))

    @property
    def _answers(self) -> dict[str, Tensor]:
        """Logits by the names that metrics and columns have for them."""
        known = {"given": self.before, "unlearned": self.after}
        return known if self.targets is None else {**known, "predicted": self.targets}

    def metrics(self) -> dict[str, float]:
        """Return the metrics that need no retrained networks.

        Returns:
            ``accuracy/{given,unlearned}/{forget,retain,val}`` and ``margin/…`` (means); with unseen points
            ``mia/{given,unlearned}``, the share of forget points that a membership attack takes for unseen; with
            targets also ``accuracy/predicted/…``, ``margin/predicted/…`` and ``matched/…``: the covered share of the
            way to the targets, 1 minus the ratio of root mean square distances of logits, after to before.
        """
        found = self._attacked()
        for name, logits in self._answers.items():
            sure, right = margins(logits, self.labels)[0], accuracy(logits, self.labels)[0]
            for group, points in self.groups.items():
                found[f"margin/{name}/{group}"] = sure[points].mean()
                found[f"accuracy/{name}/{group}"] = right[points].mean()
        if self.targets is not None:
            off = [logits - self.targets for logits in (self.before, self.after)]
            for group, points in self.groups.items():
                before, after = (float(logits[:, points].square().mean().sqrt()) for logits in off)
                if before > 0:
                    found[f"matched/{group}"] = 1 - after / before
        return {name: float(value) for name, value in sorted(found.items())}

    def _attacked(self) -> dict[str, float]:
        """Return what a membership attack finds, where there are unseen points."""
        if "val" not in self.groups:
            return {}
        groups = self.gone.groups(self.deletion.examples.n_points).numpy()[self._points]
        both = torch.cat([self.before, self.after])[:, torch.from_numpy(self._points)]
        shares = mia(both, self.labels[self._points], groups, **self.deletion.config.evaluation.mia)
        return dict(zip(("mia/given", "mia/unlearned"), shares, strict=True))

    def table(self, retrained: Tensor | None) -> pd.DataFrame:
        """Return what became of every point that has an input, a row each.

        Args:
            retrained: logits ``[networks, points, classes]`` of retrained networks, if there are any.

        Returns:
            ``point`` (training points first, then unseen ones), ``group`` (``forget``, ``retain``, ``val``), ``label``,
            ``class_name``; margins in nats, ``margin_given``, ``margin_unlearned``, with targets ``margin_predicted``,
            and with retrained networks ``margin_retrained``, their mean, and ``margin_retrained_std``, their standard
            deviation.
        """
        examples, labels = self.deletion.examples, self.labels
        table = {
            "point": np.arange(len(labels)),
            "group": np.array(GROUPS)[self.gone.groups(len(labels)).numpy()],
            "label": labels,
            "class_name": np.array(examples.class_names)[labels],
        }
        table |= {f"margin_{name}": margins(logits, labels)[0] for name, logits in self._answers.items()}
        if retrained is not None:
            found = margins(retrained, labels)
            table |= {"margin_retrained": found.mean(0), "margin_retrained_std": found.std(0, ddof=1)}
        return pd.DataFrame({name: values[self._points] for name, values in table.items()})


def verify(change: Change, unlearner: Node, oracles: int) -> tuple[dict[str, float], Tensor]:
    """Carry the same deletion out on networks trained by the recipe, and compare with retrained ones.

    Args:
        change: what became of the given network.
        unlearner: configuration of the method.
        oracles: how many networks are retrained; as many originals are unlearned, and as many more retrained ones show
            how far independent ones are apart.

    Returns:
        The metrics of an experiment (``metrics.json``) of the method on networks trained by the recipe; the number of
        ``oracles``; and ``distance/{name}/{forget,retain,val}`` for every number that
        :func:`dmm_exp.records.comparison.compared` returns. Then the logits ``[oracles, points, classes]`` of the
        retrained networks.
    """
    deletion, gone = change.deletion, change.gone
    points = {"_target_": "dmm_exp.forget.Points", "points": gone.tolist()}
    config = replace(deletion.config, n_models=oracles, unlearner=unlearner, forget=points)
    models = deletion.models_by(config)
    pipeline = Pipeline(models.context, models, replace(deletion.effects, spreads=True), gone)
    pipeline.make()
    found = dict(Evaluation(pipeline).metrics) | {"oracles": float(oracles)}
    if isinstance(config.training, TrainingByFunction):
        found = {name: value for name, value in found.items() if not name.startswith("cost/")}
    retrained = pipeline.oracles.stacked("logits")
    answers = {
        "given": change.before,
        "unlearned": change.after,
        "method": pipeline.unlearned.stacked("logits"),
        "others": pipeline.floor_oracles.stacked("logits"),
        "alone": models.originals.stacked("logits"),
    }
    sure = {name: margins(logits, change.labels) for name, logits in answers.items()}
    goal = margins(retrained, change.labels)
    for group, points in change.groups.items():
        numbers = compared({name: values[:, points] for name, values in sure.items()}, goal[:, points])
        found |= {f"distance/{name}/{group}": value for name, value in numbers.items()}
    return found, retrained
