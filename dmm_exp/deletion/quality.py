"""How well a deletion went: what can be told without retrained networks, and what some of them tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmm_exp.config.schema import Node, TrainingByFunction
from dmm_exp.data import GROUPS, Examples, Rows
from dmm_exp.deletion.comparison import compared
from dmm_exp.deletion.deletion import Deletion
from dmm_exp.evaluation import Evaluation
from dmm_exp.metrics import accuracy, margins, mia
from dmm_exp.pipeline import Pipeline


def groups_of(deletion: Deletion, gone: Tensor) -> dict[str, NDArray[np.intp]]:
    """Return the points of every group that has any, by ``forget``, ``retain``, ``val``, not rows that are zeros."""
    groups, there = groups_of_points(deletion.examples, gone).numpy(), _there(deletion)
    found = {name: np.flatnonzero((groups == number) & there) for number, name in enumerate(GROUPS)}
    return {name: points for name, points in found.items() if len(points)}


def groups_of_points(examples: Examples, gone: Tensor) -> Tensor:
    """Return the group of each point ``[points]``; see :meth:`Rows.groups`."""
    return Rows(gone, examples.n_train).groups(examples.n_points)


def _there(deletion: Deletion) -> NDArray[np.bool_]:
    """Return which points have inputs, ``[points]``; rows that were deleted before may have none any more."""
    there = np.ones(len(deletion.examples.labels), np.bool_)
    there[list(deletion.given.blank)] = False
    return there


def quality(
    deletion: Deletion, gone: Tensor, given: Tensor, unlearned: Tensor, targets: Tensor | None
) -> dict[str, float]:
    """Return what can be told without retrained networks.

    Args:
        deletion: the pipeline.
        gone: sorted training indices that are gone.
        given: logits ``[1, points, classes]`` before.
        unlearned: logits afterwards.
        targets: logits that were to be matched, if any.

    Returns:
        ``accuracy/{given,unlearned}/{forget,retain,val}`` and ``margin/…`` (means); with unseen points
        ``mia/{given,unlearned}``, the share of forget points that a membership attack takes for unseen; with targets
        also ``accuracy/predicted/…``, ``margin/predicted/…`` and ``matched/…``: the share of the way to the targets
        that was gone, 1 minus the ratio of root mean square distances of logits, after to before.
    """
    labels = deletion.examples.labels.numpy()
    groups, found = groups_of(deletion, gone), {}
    for name, logits in _answers(given, unlearned, targets).items():
        sure, right = margins(logits, labels)[0], accuracy(logits, labels)[0]
        for group, points in groups.items():
            found[f"margin/{name}/{group}"] = sure[points].mean()
            found[f"accuracy/{name}/{group}"] = right[points].mean()
    if "val" in groups:
        numbers, there = groups_of_points(deletion.examples, gone).numpy(), _there(deletion)
        both = torch.cat([given, unlearned])[:, torch.from_numpy(there)]
        attacked = mia(both, labels[there], numbers[there], **deletion.config.evaluation.mia)
        found |= dict(zip(("mia/given", "mia/unlearned"), attacked, strict=True))
    if targets is None:
        return {name: float(value) for name, value in sorted(found.items())}
    for group, points in groups.items():
        before, after = (float((logits - targets)[:, points].square().mean().sqrt()) for logits in (given, unlearned))
        if before > 0:
            found[f"matched/{group}"] = 1 - after / before
    return {name: float(value) for name, value in sorted(found.items())}


def points_table(
    deletion: Deletion, gone: Tensor, given: Tensor, unlearned: Tensor, targets: Tensor | None, retrained: Tensor | None
) -> pd.DataFrame:
    """Return what became of every point that has an input, a row each.

    Args:
        deletion, gone, given, unlearned, targets: as for :func:`quality`.
        retrained: logits ``[networks, points, classes]`` of retrained networks, if there are any.

    Returns:
        ``point`` (training points first, then unseen ones), ``group`` (``forget``, ``retain``, ``val``), ``label``,
        ``class_name``; margins in nats, ``margin_given``, ``margin_unlearned``, with targets ``margin_predicted``, and
        with retrained networks ``margin_retrained``, their mean, and ``margin_retrained_std``, their standard
        deviation.
    """
    labels = deletion.examples.labels.numpy()
    table = {
        "point": np.arange(len(labels)),
        "group": np.array(GROUPS)[groups_of_points(deletion.examples, gone).numpy()],
        "label": labels,
        "class_name": np.array(deletion.examples.class_names)[labels],
    }
    table |= {
        f"margin_{name}": margins(logits, labels)[0] for name, logits in _answers(given, unlearned, targets).items()
    }
    if retrained is not None:
        found = margins(retrained, labels)
        table |= {"margin_retrained": found.mean(0), "margin_retrained_std": found.std(0, ddof=1)}
    return pd.DataFrame({name: values[_there(deletion)] for name, values in table.items()})


def _answers(given: Tensor, unlearned: Tensor, targets: Tensor | None) -> dict[str, Tensor]:
    """Return logits by the names that metrics and columns have for them."""
    return {"given": given, "unlearned": unlearned} | ({} if targets is None else {"predicted": targets})


class Verification:
    """The same deletion carried out on networks trained by the recipe, which retrained ones can be compared with.

    Args:
        deletion: predicts effects.
        gone: sorted training indices that are gone.
        unlearner: configuration of the method.
        oracles: how many networks are retrained; as many originals are unlearned, and as many more retrained ones show
            how far independent ones are apart.
    """

    def __init__(self, deletion: Deletion, gone: Tensor, unlearner: Node, oracles: int) -> None:
        self.deletion = deletion
        config = replace(
            deletion.config,
            n_models=oracles,
            unlearner=unlearner,
            forget={"_target_": "dmm_exp.forget.Points", "points": gone.tolist()},
        )
        models = deletion.models_by(config)
        self.pipeline = Pipeline(models.context, models, deletion.effects, Rows(gone, deletion.examples.n_train))

    @property
    def retrained(self) -> Tensor:
        """Logits ``[oracles, points, classes]`` of the retrained networks."""
        return self.pipeline.oracles.stacked("logits")

    def metrics(self, given: Tensor, unlearned: Tensor) -> dict[str, float]:
        """Return what retrained networks tell.

        Args:
            given: logits ``[1, points, classes]`` of the given network.
            unlearned: logits of what became of it.

        Returns:
            The metrics of an experiment (``metrics.json``) of the method on networks trained by the recipe; the number
            of ``oracles``; and ``distance/{name}/{forget,retain,val}`` for every number that
            :func:`dmm_exp.deletion.comparison.compared` returns.
        """
        pipeline, config = self.pipeline, self.pipeline.context.config
        pipeline.make()
        found = dict(Evaluation(pipeline).metrics) | {"oracles": float(config.n_models)}
        if isinstance(config.training, TrainingByFunction):
            found = {name: value for name, value in found.items() if not name.startswith("cost/")}
        labels = self.deletion.examples.labels.numpy()
        answers = {
            "given": given,
            "unlearned": unlearned,
            "method": pipeline.unlearned.stacked("logits"),
            "others": pipeline.floor_oracles.stacked("logits"),
            "alone": pipeline.models.originals.stacked("logits"),
        }
        sure = {name: margins(logits, labels) for name, logits in answers.items()}
        retrained = margins(self.retrained, labels)
        for group, points in groups_of(self.deletion, pipeline.forget.indices).items():
            numbers = compared({name: values[:, points] for name, values in sure.items()}, retrained[:, points])
            found |= {f"distance/{name}/{group}": value for name, value in numbers.items()}
        return found
