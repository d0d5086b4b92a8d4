"""KLoM: the Kullback-Leibler divergence of margins (Georgiev et al., ICLR 2025, arXiv 2410.23232).

For each point, the margins of N unlearned models and of N oracles make two histograms over their joint range; KLoM is
the divergence of one from the other. It is not 0 for equal distributions, so it is read next to its floor.
"""

from __future__ import annotations

from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmm_exp.errors import UserError
from dmm_exp.metrics._inputs import member_matrix, same_shape
from dmm_exp.metrics._klom_counts import Floats, MarginPair, Options

FEWEST_MODELS = 80
"""With fewer models than this an ensemble's KLoM is mostly sampling noise."""


class KlomOptions(TypedDict, total=False):
    """The keyword options of ``klom``, for functions that pass them on."""

    bins: int
    clip: float
    eps: float
    direction: str
    drop_maximum: bool
    renormalise: bool
    floor_everywhere: bool | None


def klom(
    unlearned: ArrayLike,
    oracle: ArrayLike,
    *,
    bins: int = 20,
    clip: float = 100.0,
    eps: float = 1e-5,
    direction: str = "unlearned_oracle",
    drop_maximum: bool = False,
    renormalise: bool = False,
    floor_everywhere: bool | None = None,
) -> NDArray[np.float64]:
    """Return KLoM ``[points]`` in nats: 0 for equal histograms, at most ``-ln(eps)`` unless ``renormalise`` is set.

    Bin edges are float64, evenly spaced over the joint range of a point's clipped margins; a value on an inner edge
    belongs to the bin on its right, and the last bin is closed. The counts are those of a plain loop over points.
    Where all 2N margins of a point are equal its KLoM is 0. With ``floor_everywhere`` both are a hair above 0.

    Args:
        unlearned: margins ``[members, points]``.
        oracle: margins ``[members, points]``, with as many members.
        bins: number of equal bins.
        clip: margins are first clipped to ``[-clip, clip]``.
        eps: floor of the second distribution's probability in bins where the first has any.
        direction: ``unlearned_oracle`` is KL(unlearned ‖ oracle), ``oracle_unlearned`` the reverse.
        drop_maximum: leave out the samples equal to a point's joint maximum, as binning by ``numpy.digitize`` does, to
            reproduce published numbers. Each side is then divided by the number of samples it keeps, as in the public
            code. Where a side would keep none, that point's last bin stays closed.
        renormalise: scale the second distribution back to 1 after flooring, as ``scipy.stats.entropy`` does.
        floor_everywhere: floor the second distribution in all bins before it is scaled back to 1, and count one empty
            bin below the range with them, which ``numpy.digitize`` numbers 0: so the code of the DMM paper does. It
            adds at most ``eps * (bins + 1)`` nats, also to equal histograms. None is False. Only with ``renormalise``.

    Raises:
        UserError: when the shapes differ (unequal N included), a margin is NaN or infinite, or an option is no good.
    """
    options = Options(bins, clip, eps, direction, drop_maximum, renormalise, floor_everywhere)
    return checked_pair(unlearned, oracle, options).values()


def klom_both(unlearned: ArrayLike, oracle: ArrayLike, **options: Unpack[KlomOptions]) -> NDArray[np.float64]:
    """Return KLoM in the direction that ``options`` name, and in the other one, ``[2, points]`` in nats.

    KL(unlearned ‖ oracle) forgives unlearned models that vary too little: where they have no samples it does not look.
    KL(oracle ‖ unlearned) does not.

    Args:
        unlearned: margins ``[members, points]``.
        oracle: margins ``[members, points]``, with as many members.
        **options: as for ``klom``.

    Raises:
        UserError: as ``klom`` does.
    """
    return checked_pair(unlearned, oracle, Options(**options)).both()


def check_options(**options: Unpack[KlomOptions]) -> None:
    """Raise ``UserError`` for options that ``klom`` would refuse."""
    Options(**options)


def checked_pair(unlearned: ArrayLike, oracle: ArrayLike, options: Options, fewest_members: int = 1) -> MarginPair:
    """Return both sides in the order of the divergence: the first argument of KL first."""
    first = member_matrix("unlearned", unlearned, fewest_members=fewest_members)
    second = member_matrix("oracle", oracle, fewest_members=fewest_members)
    if len(first) != len(second):
        raise UserError(
            f"unlearned has {len(first)} members and oracle has {len(second)}; KLoM depends on their number, "
            "so both sides need the same number of members."
        )
    same_shape("unlearned", first, "oracle", second)
    sides = (first, second) if options.direction == "unlearned_oracle" else (second, first)
    return MarginPair(*_alike(*sides), options)


def _alike(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Return both sides as rows of one type, float32 or float64."""
    dtype = np.float32 if first.dtype == second.dtype == np.float32 else np.float64
    return np.ascontiguousarray(first, dtype=dtype), np.ascontiguousarray(second, dtype=dtype)
