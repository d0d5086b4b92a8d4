"""Quality against cost: a run, the runs beside it, and the frontier over all; boards draw theirs with it, too."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmm_exp.console.words import further, number
from dmm_exp.report.charts import (
    LOG,
    Axis,
    Chart,
    Hover,
    Mark,
    Panel,
    axis,
    decades,
    dots,
    floats,
    line,
    within_decades,
)
from dmm_exp.runs.labels import ENDS, KLOM
from dmm_exp.runs.result import OtherRun, RunResult

Scale = Callable[[Any], NDArray[np.float64]]  # where values lie on an axis
QUALITY, COST = "klom/forget/p95", "cost/ratio"


def quality_against_cost(result: RunResult) -> Chart | None:
    """Forget P95 KLoM against cost, with other runs on the same question and the frontier over all."""
    own = list(result.checkpoints.values()) or [result.metrics]
    if any(name not in metrics for metrics in own for name in (QUALITY, COST)):
        return None
    others = [run for run in result.others if QUALITY in run.metrics and COST in run.metrics]
    costs, values = (floats([metrics[name] for metrics in own]) for name in (COST, QUALITY))
    place = cost_scale([*costs, *(run.metrics[COST] for run in others)])
    beside = [run.metrics[QUALITY] for run in others], [run.metrics[COST] for run in others]
    marks = _others(others, place) + _method(result, own, place(costs), values) + _ends(result, place)
    everything = [*zip(costs, values, strict=True), *zip(beside[1], beside[0], strict=True), *_known_ends(result)]
    x = cost_axis(place, floats([cost for cost, _ in everything]))
    marks = frontier_line([cost for cost, _ in everything], [value for _, value in everything], place, floats) + marks
    y = axis("forget P95 " + KLOM, np.concatenate([mark.y for mark in marks]), zero=True)
    panel = Panel(x, y, marks, hover=_runs_hover(result, own, others, place))
    words, table = _cost_caption(others), _runs_table(result, others)
    return Chart("quality_against_cost", "Quality against cost", words, [panel], table=table, height=0.62)


def _cost_caption(others: Sequence[Any]) -> str:
    met = (
        f" Beside this run {'stands' if len(others) == 1 else 'stand'} {len(others)} other finished "
        f"run{'s' * (len(others) > 1)} on the same data, model and forget set, with as many models."
        if others
        else " No other run on the same data, model and forget set was found beside this one."
    )
    return (
        "Down and to the left is better: as close as retraining, for less. On the frontier nothing is closer without "
        "costing more. The bar is the 95 % interval over models; numbers beside points count epochs, where the method "
        "was evaluated on its way. Models that a method shares between requests are not in this cost; "
        "what they cost, in retrainings, is given with each run." + met
    )


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (cost, value) pairs, by increasing cost, that no cheaper or equally cheap one matches or beats."""
    best: list[tuple[float, float]] = []
    for cost, value in sorted(points):
        if not best or value < best[-1][1]:
            best.append((cost, value))
    return best


def frontier_line(costs: Iterable[float], values: Iterable[float], place: Scale, height: Scale) -> list[Mark]:
    """Return the frontier as steps on two scales; nothing where it is a single point."""
    best = floats(frontier(list(zip(costs, values, strict=True))))
    if len(best) < 2:
        return []
    return [line("guide", np.repeat(place(best[:, 0]), 2)[1:], np.repeat(height(best[:, 1]), 2)[:-1], "frontier")]


def cost_scale(costs: Sequence[float]) -> Scale:
    """Return where costs lie: their logarithm, and zero half a decade left of the smallest other cost."""
    least = np.log10(min([1.0, *(cost for cost in costs if cost > 0)]))

    def place(values: Any) -> NDArray[np.float64]:
        found = floats(values)
        return np.where(found > 0, np.log10(np.maximum(found, 1e-300)), least - 0.5)

    return place


def cost_axis(place: Scale, costs: NDArray[np.float64]) -> Axis:
    """Return the axis that costs lie on at ``place``."""
    zero, most = float(place(0)[0]), max(0.0, float(place(costs).max()))
    powers = [tick for tick in decades(zero + 0.25, most) if tick[0] < -0.01]
    ticks = [(zero, "0"), *powers, (0.0, "1")]
    wide, fine = 0.06 * (most - zero), within_decades(zero + 0.25, most)
    return Axis(f"cost of unlearning ÷ cost of retraining{LOG}", zero - wide, most + 1.5 * wide, ticks, fine=fine)


def _method(
    result: RunResult, own: Sequence[Mapping[str, float]], x: NDArray[np.float64], y: NDArray[np.float64]
) -> list[Mark]:
    """Return the method with its intervals, as a line when it was evaluated after several numbers of epochs."""
    ends = floats([[metrics.get(f"{QUALITY}_{end}", np.nan) for metrics in own] for end in ENDS])
    notes = [str(epoch) for epoch in result.checkpoints]
    path = [line("unlearned", x, y)] if len(x) > 1 else []
    return [*path, dots("unlearned", x, y, f"{result.method} (this run)", ends=ends, notes=notes, large=True)]


def _others(others: Sequence[Any], place: Scale) -> list[Mark]:
    if not others:
        return []
    x, y = place([run.metrics[COST] for run in others]), [run.metrics[QUALITY] for run in others]
    few = len(others) <= 12
    notes = [textwrap.shorten(run.method, 24, placeholder="…") if few else "" for run in others]
    return [dots("other", x, y, "other runs", notes=notes, large=True)]


def _known_ends(result: RunResult) -> list[tuple[float, float]]:
    """Return cost and value of doing nothing and of retraining, as far as they were measured."""
    ends = [(0.0, result.metrics.get("klom_original/forget/p95")), (1.0, result.metrics.get("klom_floor/forget/p95"))]
    return [(cost, value) for cost, value in ends if value is not None]


def _ends(result: RunResult, place: Scale) -> list[Mark]:
    """Mark doing nothing, and retraining at the floor."""
    looks = {0.0: ("original", "doing nothing"), 1.0: ("oracle", "retraining (at the floor)")}
    return [dots(looks[cost][0], place(cost), value, looks[cost][1], large=True) for cost, value in _known_ends(result)]


def _runs_hover(
    result: RunResult,
    own: Sequence[Mapping[str, float]],
    others: Sequence[Any],
    place: Scale,
) -> Hover:
    """Return what a page shows of runs under the pointer."""
    epochs = [f" after {epoch} epochs" for epoch in result.checkpoints] or [""]
    found = [(f"{result.method} (this run){after}", metrics) for after, metrics in zip(epochs, own, strict=True)]
    found += [(run.method, run.metrics) for run in others]
    values = {
        QUALITY: "KLoM P95, forget",
        "klom/retain/p95": "KLoM P95, retain",
        "tow": "ToW",
        COST: "cost",
        "cost/shared": "cost of shared models",
        "cost/own": "cost of models for this request",
    }
    fields = {
        words: [f"{metrics[name]:.3g}" if name in metrics else "–" for _, metrics in found]
        for name, words in values.items()
    }
    x, y = (floats([metrics[name] for _, metrics in found]) for name in (COST, QUALITY))
    return Hover(place(x), y, [method for method, _ in found], fields)


def _runs_table(result: RunResult, others: Sequence[Any]) -> list[list[str]]:
    """Return the runs beside this one as a table, the closest to retraining first."""
    if not others:
        return []
    everyone = [*others, OtherRun(result.name, f"{result.method} (this run)", result.metrics)]
    rows = [[run.method, f"{run.metrics[QUALITY]:.2f}", *_costs(run.metrics), run.name] for run in everyone]
    return [
        ["method", "KLoM P95, forget", "cost", "further models", "run"],
        *sorted(rows, key=lambda row: float(row[1])),
    ]


def _costs(metrics: Mapping[str, float]) -> list[str]:
    """Return the cost of one model, and of the further models that its method looks at, in retrainings."""
    return [f"{metrics[COST]:.2g}", further(metrics) or number(metrics.get("cost/shared"), ".0f")]
