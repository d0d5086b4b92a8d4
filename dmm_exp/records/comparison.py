"""What a comparison with retrained networks can tell, of one network and of the networks that a method unlearns.

Everything rests on one number for each network: its **distance**, the root mean square over some points of the
difference between its margin and the mean margin of N retrained networks, in their standard deviations. Two questions
are asked of it, each against networks that took no part in that mean:

* Can it be told from *retraining*? N other retrained networks show which distances retraining itself has.
* Can it be told from *doing nothing*? N networks that were trained on everything show the distances of those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEVEL = 0.95  # of all intervals
LEAST_SPREAD = 0.1  # of the root mean square spread over points: what a point's own spread is raised to
TINY = 1e-6  # nats: where retrained networks all answer alike

Margins = NDArray[np.floating]


def distances(networks: Margins, retrained: Margins) -> NDArray[np.float64]:
    """Return the distance of each network from retrained ones, ``[networks]``, in their standard deviations.

    Args:
        networks: margins ``[networks, points]``.
        retrained: margins ``[retrained networks, points]`` of others, at least two.
    """
    centre, spread = retrained.mean(0, dtype=np.float64), retrained.std(0, ddof=1, dtype=np.float64)
    spread = np.maximum(spread, max(LEAST_SPREAD * sqrt(float(np.mean(spread**2))), TINY))
    return np.sqrt(np.mean(((networks - centre) / spread) ** 2, axis=1))


def compared(margins: Mapping[str, Margins], retrained: Margins) -> dict[str, float]:
    """Return distances on some points, and the intervals by which they are judged.

    Args:
        margins: ``[networks, points]`` of ``given`` (the network as it was handed over) and ``unlearned`` (what became
            of it), one network each, and of ``method`` (networks that were unlearned in the same way), ``others``
            (further retrained networks) and ``alone`` (networks trained on everything and left as they are), N each.
            ``method`` and ``alone`` belong together row by row.
        retrained: ``[N, points]`` of the retrained networks that distances are measured from.

    Returns:
        ``given`` and ``unlearned``; of ``others`` and ``alone`` the mean, and with ``_low`` and ``_high`` the range in
        which one more such network is expected with 95 % probability (distances taken as log-normal); of ``method``
        the mean; ``method_from_others`` and ``method_from_alone``, differences of means, with 95 % intervals over
        networks (Welch's and the paired t).
    """
    found = {name: distances(values, retrained) for name, values in margins.items()}
    numbers = {name: float(values.mean()) for name, values in found.items()}
    for name in ("others", "alone"):
        numbers[f"{name}_low"], numbers[f"{name}_high"] = _range_of_one_more(found[name])
    method, others, alone = (found[name] for name in ("method", "others", "alone"))
    for name, (value, error, freedom) in {
        "method_from_others": _difference(method, others),
        "method_from_alone": _mean(method - alone),
    }.items():
        reach = error * _t(freedom)
        numbers |= {name: value, f"{name}_low": value - reach, f"{name}_high": value + reach}
    return numbers


def distances_of(verification: Mapping[str, float], group: str) -> dict[str, float]:
    """Return what :func:`compared` found on a group of points, from metrics named ``distance/NAME/GROUP``."""
    start, end = "distance/", f"/{group}"
    return {
        name.removeprefix(start).removesuffix(end): value
        for name, value in verification.items()
        if name.startswith(start) and name.endswith(end)
    }


def _range_of_one_more(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return where one more value of the same kind is expected, from logarithms that are taken as normal."""
    logs = [log(max(value, TINY)) for value in values]
    centre, count = float(np.mean(logs)), len(logs)
    reach = float(np.std(logs, ddof=1)) * sqrt(1 + 1 / count) * _t(count - 1)
    return exp(centre - reach), exp(centre + reach)


def _mean(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return a mean, its standard error, and its degrees of freedom."""
    return float(values.mean()), float(values.std(ddof=1)) / sqrt(len(values)), len(values) - 1


def _difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the same for the difference of two means of unequal variances (Welch)."""
    (a, error_a, freedom_a), (b, error_b, freedom_b) = _mean(one), _mean(other)
    total = error_a**2 + error_b**2
    share = error_a**4 / freedom_a + error_b**4 / freedom_b
    return a - b, sqrt(total), total**2 / share if share > 0 else freedom_a + freedom_b


def _t(freedom: float) -> float:
    return float(stdtrit(freedom, (1 + LEVEL) / 2))


@dataclass(frozen=True)
class Verdict:
    """Whether something can be told from retraining, and from doing nothing; see :func:`compared`.

    Attributes:
        from_retraining: it can be told from retrained networks.
        from_doing_nothing: it can be told from networks that were left alone.
        worse: it is even farther from retrained networks than those are.
        apart: networks that were left alone can be told from retrained ones, so that there is something to unlearn.
    """

    from_retraining: bool
    from_doing_nothing: bool
    worse: bool
    apart: bool


def verdict_on_network(found: Mapping[str, float]) -> Verdict:
    """Return what can be said of this one network, from what :func:`compared` returned."""
    value = found["unlearned"]
    return Verdict(
        from_retraining=value > found["others_high"],
        from_doing_nothing=not found["alone_low"] <= value <= found["alone_high"],
        worse=value > found["alone_high"],
        apart=found["alone_low"] > found["others_high"],
    )


def verdict_on_method(found: Mapping[str, float]) -> Verdict:
    """Return what can be said of the mean over networks that were unlearned in the same way."""
    return Verdict(
        from_retraining=not found["method_from_others_low"] <= 0 <= found["method_from_others_high"],
        from_doing_nothing=not found["method_from_alone_low"] <= 0 <= found["method_from_alone_high"],
        worse=found["method_from_alone_low"] > 0,
        apart=found["alone"] > found["others"],
    )
