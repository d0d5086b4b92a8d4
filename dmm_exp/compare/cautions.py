"""What to beware of in tables of many runs."""

from __future__ import annotations

import math
from collections.abc import Iterable

from dmm_exp.metrics.klom import FEWEST_MODELS


def few_models(models: Iterable[int | None], floors: Iterable[float]) -> list[str]:
    """Return a warning where ensembles are too small for KLoM, and nothing where none is.

    Args:
        models: in each ensemble; None where it is not known.
        floors: P95 KLoM of forget points between retrained models, in nats; NaN where it was not measured.
    """
    known = sorted({count for count in models if count is not None})
    if not known or known[0] >= FEWEST_MODELS:
        return []
    return [
        f"Only {known[0]} models in an ensemble. With fewer than {FEWEST_MODELS}, KLoM is mostly sampling noise"
        f"{_measured(floors)}, so small differences, and any ranks that follow from them, mean nothing."
    ]


def _measured(floors: Iterable[float]) -> str:
    found = [floor for floor in floors if not math.isnan(floor)]
    ends = f"{min(found):.2f} to {max(found):.2f}" if len(found) > 1 else "".join(f"{one:.2f}" for one in found)
    return f"; here the floor alone is {ends} on forget points" if ends else ""
