"""How far a network is from what is known of a retrained one, and when retraining is due."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from dmm_exp.deletion.quality import Change


@dataclass(frozen=True)
class Limits:
    """What a network may be off before retraining is due; each is compared with the attribute of :class:`Drift`.

    Attributes:
        doubt: of predictions.
        drift: of the network from them.
        accuracy: lost on unseen points.
        share: of the training set that is gone.
    """

    doubt: float = 1.0
    drift: float = 1.0
    accuracy: float = 0.02
    share: float = 0.2


@dataclass(frozen=True)
class Drift:
    """How far a network is from what is known of a retrained one; None where that is not known.

    Logits are measured in the spread of retraining: the root mean square, over retained and unseen points and classes,
    of the standard deviation of logits over networks trained alike (the pool's originals).

    Attributes:
        doubt: root mean square standard error of predicted logits.
        drift: root mean square distance of the network's logits to the predicted ones.
        accuracy: accuracy on unseen points that was lost since the network was given.
        share: of the training set that is gone.
    """

    doubt: float | None
    drift: float | None
    accuracy: float | None
    share: float

    def due(self, limits: Limits) -> list[str]:
        """Return why retraining is due, in sentences; nothing if it is not.

        >>> Drift(doubt=0.2, drift=0.1, accuracy=0.0, share=0.3).due(Limits(share=0.25))
        ['30.0% of the training set are gone (limit 0.25)']
        """
        reasons = {
            "doubt": "predictions are as uncertain as {value:.2f} times the spread of retraining",
            "drift": "the network is {value:.2f} times the spread of retraining away from what is predicted",
            "accuracy": "accuracy on unseen points fell by {value:.3f}",
            "share": "{value:.1%} of the training set are gone",
        }
        found = []
        for name, limit in asdict(limits).items():
            value = getattr(self, name)
            if value is not None and value > limit:
                found.append(f"{reasons[name].format(value=value)} (limit {limit:g})")
        return found


def drift_of(change: Change) -> Drift:
    """Return how far a network is from what is known of retrained ones, now that all of ``change.gone`` is gone."""
    deletion, gone, examples = change.deletion, change.gone, change.deletion.examples
    others = torch.ones(examples.n_points, dtype=torch.bool).index_fill_(0, gone.indices, False)
    doubt = drift = accuracy = None
    if change.targets is not None and deletion.pooled:
        logits = deletion.models.originals.stacked("logits")[:, others]
        spread = float(logits.var(0).mean().sqrt())
        drift = float((change.after - change.targets)[:, others].square().mean().sqrt()) / spread
        error = deletion.predicted(gone).get("standard_error")
        doubt = None if error is None else float(error[others].square().mean().sqrt()) / spread
    if examples.n_points > examples.n_train:
        labels, answers = examples.labels[examples.n_train :], (change.before, change.after)
        before, after = ((logits[:, examples.n_train :].argmax(-1) == labels).float().mean() for logits in answers)
        accuracy = float(before - after)
    return Drift(doubt, drift, accuracy, len(gone) / examples.n_train)
