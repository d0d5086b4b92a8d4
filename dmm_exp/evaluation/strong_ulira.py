"""The strong form of U-LiRA on a pipeline's unlearner: metrics, a table of attacked examples, and the ROC."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from dmm_exp import __version__
from dmm_exp.evaluation.attack import Attack
from dmm_exp.metrics import auc, margins, roc, tpr_at_fpr, ulira_strong, ulira_strong_scores
from dmm_exp.scores import memorization
from dmm_exp.store import Artifact, Draft, Spec

HARDEST = 0.1  # share of the attacked examples that counts as hardest


class StrongUlira:
    """Attacks base models after they forgot many small sets, and the same models before.

    Args:
        attack: the models.
    """

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.context = attack.context

    @cached_property
    def artifact(self) -> Artifact:
        """Numbers and tables as an artifact."""
        attack = self.attack
        inputs = {"bases": attack.base_models.digest, "attacked": attack.attacked.digest}
        spec = Spec("ulira", {"package": __version__}, inputs)
        return self.context.obtain("strong ulira", "attack on models that forgot small sets", spec, self._write)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics for ``metrics.json``: ``ulira_strong/…``, and ``ulira_strong_original/…`` for doing nothing."""
        return self.artifact.json("metrics")

    @property
    def examples(self) -> pd.DataFrame:
        """One row for each example of a set: ``ulira.parquet``."""
        return self.artifact.table("examples")

    @property
    def roc(self) -> pd.DataFrame:
        """The ROC over all models and examples, one row for each threshold: ``ulira_roc.parquet``."""
        return self.artifact.table("roc")

    @property
    def sentence(self) -> str:
        """The result in one line."""

        def of(name: str) -> str:
            values = (self.metrics[f"{kind}/{name}"] for kind in ("ulira_strong", "ulira_strong_original"))
            return "{:.3f} ({:.3f})".format(*values)

        return (
            f"strong U-LiRA (in brackets: doing nothing): accuracy {of('accuracy')}, on the most memorized tenth "
            f"{of('accuracy_hardest')}, TPR at 1 % FPR {of('tpr_at_1fpr')}"
        )

    def _write(self, draft: Draft) -> None:
        attack, points = self.attack, self.attack.forget_sets.flatten()
        seen = attack.base_models.stacked("masks")[:, points].numpy()
        labels = self.context.examples.labels[points].numpy()
        before, after = (margins(logits.flatten(1, 2).numpy(), labels) for logits in attack.attacked_answers())
        score = self._memorization[points].numpy()
        hardest, block = _most(points.numpy(), score), attack.base_subsets.block
        scores, scores_before = (ulira_strong_scores(values, seen, block=block) for values in (after, before))
        named = {"ulira_strong": scores, "ulira_strong_original": scores_before}
        summaries = {name: _summary(values, seen, hardest) for name, values in named.items()}
        metrics = {f"{name}/{key}": value for name, found in summaries.items() for key, value in found.items()}
        draft.write_json("metrics", metrics)
        columns = {
            "point": points.numpy(),
            "forget_set": np.arange(len(points)) // attack.settings.size,
            "label": labels,
            "n_in": seen.sum(axis=0),
            "n_out": (~seen).sum(axis=0),
            "accuracy": ulira_strong(scores, seen),
            "margin_in": after.mean(axis=0, where=seen),
            "margin_out": after.mean(axis=0, where=~seen),
            "memorization": score,
        }
        draft.write_table("examples", pd.DataFrame(columns))
        rates = roc(scores[seen], scores[~seen])
        draft.write_table("roc", pd.DataFrame(dict(zip(("fpr", "tpr", "threshold"), rates, strict=True))))

    @property
    def _memorization(self) -> Tensor:
        """How much base models memorize each training example ``[n_train]``."""
        bases = self.attack.base_models
        labels = self.context.examples.labels
        return memorization(bases.stacked("logits"), bases.stacked("masks"), labels, "probability")[0]


def _most(points: NDArray[np.intp], score: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which rows ``[points]`` belong to the tenth of distinct examples with the highest scores."""
    distinct, first = np.unique(points, return_index=True)
    wanted = max(1, round(HARDEST * len(distinct)))
    return np.isin(points, distinct[np.argsort(-score[first], kind="stable")[:wanted]])


def _summary(scores: NDArray[np.float64], seen: NDArray[np.bool_], hardest: NDArray[np.bool_]) -> dict[str, float]:
    """Return the numbers of one attack, over all models and examples."""
    accuracy = ulira_strong(scores, seen)
    positive, negative = scores[seen], scores[~seen]
    return {
        "accuracy": float(accuracy.mean()),
        "accuracy_hardest": float(accuracy[hardest].mean()),
        "auc": auc(positive, negative),
        "tpr_at_1fpr": tpr_at_fpr(positive, negative, 0.01),
        "tpr_at_0.1fpr": tpr_at_fpr(positive, negative, 0.001),
    }
