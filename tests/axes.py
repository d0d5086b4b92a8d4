"""What axes of charts say of their scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dmm_exp.report.charts import Axis, Chart, Panel


def misleading(charts: Sequence[Chart]) -> list[str]:
    """Return the axes that are logarithmic without a word of it, or lack one between decades where they need it."""
    return [f"{chart.name}: {axis.label}" for chart in charts for axis in _axes(chart) if _misleads(axis)]


def _axes(chart: Chart) -> Iterator[Axis]:
    for panel in chart.panels:
        if isinstance(panel, Panel):
            yield from (panel.x, panel.y)


def _misleads(axis: Axis) -> bool:
    known = []
    for at, word in axis.ticks:
        try:
            known.append((at, float(word.replace("−", "-").removesuffix("%").replace(",", ""))))
        except ValueError:
            return False  # words, not numbers
    places, values = np.array([one for one in known if one[1] > 0]).reshape(-1, 2).T
    if len(places) < 2 or not np.allclose(places, np.log10(values), atol=1e-6):
        return False
    span, between = axis.high - axis.low, any(abs(at - round(at)) > 0.01 for at in places)
    lacking = (span <= 6 and not len(axis.fine)) or (span < 2 and not between)
    return lacking or not axis.label.endswith(", log scale")
