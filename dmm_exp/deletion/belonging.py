"""Whether a network belongs to its data and to a pool; the wrong one is refused before anything is deleted from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dmm_exp.data import Examples
from dmm_exp.errors import UserError
from dmm_exp.metrics import accuracy, margins
from dmm_exp.records.pool import FARTHEST
from dmm_exp.records.words import NAMES

LEAST_AGREEMENT = 0.1  # with the labels, beyond chance: 0 is chance, 1 is always right
CLEAR_AGREEMENT = 0.5  # is enough, however few the rows are
ERRORS = 3.0  # standard errors that accuracy has to be above chance
BETTER_ORDER = 0.05  # accuracy that another order of the classes may add, beside these standard errors
FAR = 2.5  # from a pool's full models, where these are about 1 from each other; more is a warning
SPREAD_FLOOR = 0.01  # nats, and share of the margins: full models that differ by less count as alike
WORSE, DEVIATIONS = 0.1, 5.0  # accuracy below that of the full models, and the same in their standard deviations


@dataclass(frozen=True)
class Answers:
    """What networks answer.

    Attributes:
        margins: ``[members, points]``, in nats.
        right: whether the label has the largest logit, ``[members, points]``.
    """

    margins: NDArray[np.float32]
    right: NDArray[np.bool_]

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> Answers:
        """Return the answers that logits ``[members, points, classes]`` amount to."""
        return cls(margins(logits, labels), accuracy(logits, labels))


def check_answers(logits: Tensor, examples: Examples, blank: Sequence[int] = ()) -> None:
    """Check that a network's answers have to do with the labels that it was trained on.

    Accuracy on the training rows is compared with chance: what the same answers would get if they were given to the
    rows in a random order. Cohen's kappa, ``(accuracy - chance) / (1 - chance)``, has to be at least
    ``LEAST_AGREEMENT``; below ``CLEAR_AGREEMENT``, accuracy also has to be ``ERRORS`` standard errors above chance.
    Another order of the classes must not be clearly better. Where all rows are of one class, nothing can be checked.

    Args:
        logits: ``[1, points, classes]`` on all points.
        examples: the data.
        blank: training rows whose inputs are gone, and which are passed over.

    Raises:
        UserError: the network is near chance, or its classes are in another order.
    """
    readable = torch.ones(examples.n_train, dtype=torch.bool)
    readable[list(blank)] = False
    rows = int(readable.sum())
    confused = _confusion(logits[0, : examples.n_train][readable], examples.labels[: examples.n_train][readable])
    answered, labelled = confused.sum(1), confused.sum(0)
    if np.count_nonzero(labelled) < 2:
        return
    right, chance = float(np.trace(confused)) / rows, float(answered @ labelled) / rows**2
    agreement = (right - chance) / (1 - chance)
    clear = agreement >= CLEAR_AGREEMENT or right - chance > ERRORS * _error_of_chance(answered, labelled)
    if agreement < LEAST_AGREEMENT or not clear:
        raise UserError(
            f"model: answers {right:.1%} of the {rows:,} training rows as they are labelled, where chance gives "
            f"{chance:.1%}; expected the network that was trained on these rows, with the same order of classes and "
            "channels and the same normalisation"
        )
    reordered = float(confused[linear_sum_assignment(-confused)].sum()) / rows
    if reordered - right > BETTER_ORDER + ERRORS * (reordered * (1 - reordered) / rows) ** 0.5:
        raise UserError(
            f"model: answers {right:.1%} of the {rows:,} training rows as they are labelled, but {reordered:.1%} if "
            "the classes stood in another order; expected labels that number the classes as the network does"
        )


def _confusion(logits: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """Return how many rows are answered as one class and labelled as another, ``[classes, classes]``."""
    classes = logits.shape[1]
    pairs = logits.argmax(1) * classes + labels
    return pairs.bincount(minlength=classes**2).view(classes, classes).double().numpy()


def _error_of_chance(answered: NDArray[np.float64], labelled: NDArray[np.float64]) -> float:
    """Return the standard deviation of accuracy when these answers are given to the rows in a random order.

    That of ``sum(a[i, order(i)])`` is ``sqrt(sum((a - row means - column means + mean)²) / (rows - 1))``.

    Args:
        answered: number of rows that are answered as each class.
        labelled: number of rows that are labelled as each class.
    """
    rows = answered.sum()
    centred = np.eye(len(answered)) - (labelled[:, None] + answered[None, :]) / rows
    centred += answered @ labelled / rows**2
    spread = (np.outer(answered, labelled) * centred**2).sum() / max(rows - 1, 1)
    return float(spread**0.5 / rows)


def distance(own: NDArray[np.float32], full: NDArray[np.float32]) -> float:
    """Return how far a network is from a pool's full models, where these are about 1 from each other.

    Far is the median over points of the distance between a margin and the mean of the full models' margins. The unit is
    that of the full models, each compared with the mean of the others: the root mean square over them. It is at least
    ``SPREAD_FLOOR``, so that networks that all answer alike are not told apart by rounding.

    Args:
        own: margins of the network, ``[points]``.
        full: margins of the full models, ``[members, points]``, two or more.

    >>> full = np.random.default_rng(0).normal(3, 1, (100, 500))
    >>> round(distance(full[0], full[1:]), 1), round(distance(full[0] + 5, full[1:]), 1)
    (1.0, 7.2)
    """
    mean, members = full.mean(0), len(full)
    theirs = np.median(np.abs(full - mean), axis=1) * members / (members - 1)
    floor = SPREAD_FLOOR * max(1.0, float(np.median(np.abs(mean))))
    return float(np.median(np.abs(own - mean))) / max(float(np.square(theirs).mean()) ** 0.5, floor)


def check_pool(
    pool: str, own: Answers, full: Answers, groups: Mapping[str, NDArray[np.intp]]
) -> tuple[dict[str, float], list[str]]:
    """Compare a network with a pool's full models, on points that are not to be forgotten.

    Args:
        pool: the key and the folder, for messages.
        own: answers of the network, one member.
        full: answers of the pool's full models.
        groups: points of ``retain`` and ``val``, as far as there are any; others are passed over.

    Returns:
        ``pool_distance/{retain,val}`` (see :func:`distance`), and what to warn of.

    Raises:
        UserError: the network is farther away than ``FARTHEST``, or far less accurate on the kept rows.
    """
    points = {name: groups[name] for name in ("retain", "val") if name in groups}
    found = {name: distance(own.margins[0, rows], full.margins[:, rows]) for name, rows in points.items()}
    worst = max(found, key=lambda name: found[name])
    theirs = full.right[:, points["retain"]].mean(1)
    accurate, usual = float(own.right[0, points["retain"]].mean()), float(theirs.mean())
    spread = float(theirs.std(ddof=1)) * (1 + 1 / len(theirs)) ** 0.5
    if found[worst] > FARTHEST or usual - accurate > max(WORSE, DEVIATIONS * spread):
        raise UserError(
            f"{pool}: the network does not belong to it: on {NAMES[worst]} it is {found[worst]:.1f} times as far "
            f"from the mean margins of the pool's {len(theirs)} full models as these are themselves (about 1 is "
            f"expected, at most {FARTHEST:g}), and it answers {accurate:.1%} of the kept rows right, these "
            f"{usual:.1%}; probably it was trained by another recipe or on inputs that were prepared otherwise, or it "
            "is another checkpoint"
        )
    warnings = []
    if found[worst] > FAR:
        warnings.append(
            f"the network may have been trained by another recipe than the pool: on {NAMES[worst]} it is "
            f"{found[worst]:.1f} times as far from the pool's full models as these are from each other (1 is expected, "
            f"more than {FARTHEST:g} is refused)"
        )
    return {f"pool_distance/{name}": value for name, value in found.items()}, warnings
