"""The figures of a run; each function returns ``None`` when the run holds nothing to draw.

Axes carry their units; what colours and shapes mean is said in ``palette``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmm_exp.metrics.tow import GROUPS
from dmm_exp.report.charts import (
    Axis,
    Chart,
    Mark,
    Panel,
    Ticks,
    axis,
    dots,
    floats,
    line,
    log10,
    log_axis,
    log_range,
    thinned,
    written,
)
from dmm_exp.runs.cost_figure import quality_against_cost
from dmm_exp.runs.labels import ENDS, GROUP_WORDS, KLOM, WORDS
from dmm_exp.runs.point_figures import SHOWN, forgotten_images, klom_against_memorization, margin_histograms
from dmm_exp.runs.result import RunResult

Draw = Callable[[RunResult], Chart | None]
STEPS = 300  # of a cumulative distribution


def draw_all(result: RunResult) -> list[Chart]:
    """Describe every figure that this run has something for, in reading order."""
    return [chart for draw in FIGURES if (chart := draw(result)) is not None]


def at_a_glance(result: RunResult) -> Chart | None:
    """Headline KLoM of every group between its floor and doing nothing."""
    names = {"floor": "klom_floor", "original": "klom_original", "unlearned": "klom"}
    groups = [group for group in GROUPS if f"klom/{group}/p95" in result.metrics]
    if not groups:
        return None
    heights = floats(range(len(groups)))[::-1]
    values = {
        role: floats([result.metrics.get(f"{name}/{group}/p95", np.nan) for group in groups])
        for role, name in names.items()
    }
    ends = floats([[result.metrics.get(f"klom/{group}/p95_{end}", np.nan) for group in groups] for end in ENDS])
    marks = [
        line("guide", [floor, nothing], [height, height])
        for height, floor, nothing in zip(heights, values["floor"], values["original"], strict=True)
    ]
    for role, found in values.items():
        if np.isfinite(found).any():
            own = ends if role == "unlearned" else None
            marks.append(dots(role, found, heights, WORDS[role], large=True, ends=own, across=True))
    x = axis("P95 " + KLOM, np.concatenate([*values.values(), *ends]), zero=True)
    ticks = [(height, GROUP_WORDS[group].split()[0]) for height, group in zip(heights, groups, strict=True)]
    y = Axis("", -0.6, len(groups) - 0.4, ticks)
    caption = (
        "The 95th percentile of KLoM over the points of each group: the nearer to the floor, the harder to tell from "
        "retraining. The bar is the 95 % interval over models."
    )
    return Chart("at_a_glance", "How far from retraining", caption, [Panel(x, y, marks)], height=0.36)


def klom_by_group(result: RunResult) -> Chart | None:
    """Cumulative distribution of KLoM over points, a panel a group, with the floor and doing nothing."""
    columns = {"floor": "klom_floor", "original": "klom_original", "unlearned": "klom"}
    panels = []
    for group in GROUPS:
        found = {
            role: values[rows]
            for role, column in columns.items()
            if (values := result.column(column)) is not None and len(rows := result.known(column, group=group))
        }
        if "unlearned" in found:
            x = axis(KLOM, np.concatenate(list(found.values())), zero=True)
            marks = [line("guide", [0, x.high], [0.95, 0.95])]
            marks += [_cumulative(role, values) for role, values in found.items()]
            title = f"{GROUP_WORDS[group]} (n = {len(result.rows(group)):,})"
            panels.append(Panel(x, _SHARES, marks, title))
    caption = (
        "Further to the left is better, and nothing can be expected to lie left of the noise floor. The grey line "
        "marks the 95th percentile, which is the headline."
    )
    return Chart("klom_by_group", "KLoM by group of points", caption, panels, across=3, height=0.74) if panels else None


_SHARES = Axis(
    "share of points at or below", 0, 1.02,
    [(0, "0"), (0.25, "25 %"), (0.5, "50 %"), (0.75, "75 %"), (0.95, "95 %")],
)  # fmt: skip


def _cumulative(role: str, values: NDArray[np.float64]) -> Mark:
    """Return the steps of a cumulative distribution; of very many values, evenly spaced quantiles."""
    share = np.arange(1, min(len(values), STEPS) + 1) / min(len(values), STEPS)
    at = np.quantile(values, share, method="inverted_cdf")
    return line(role, np.repeat(at, 2), np.concatenate([[0], np.repeat(share, 2)[:-1]]), WORDS[role])


def attack_roc(result: RunResult) -> Chart | None:
    """ROC of the likelihood-ratio attack on forget points, on a linear and on a logarithmic scale."""
    if result.roc is None or not len(result.roc):
        return None
    curves = {str(role): part for role, part in result.roc.groupby("ensemble", sort=False)}
    least = float(np.log10(min(part["fpr"][part["fpr"] > 0].min() for part in curves.values())))
    linear, logarithmic = [line("guide", [0, 1], [0, 1], "guessing")], []
    even = np.logspace(least, 0, 60)
    logarithmic.append(line("guide", np.log10(even), even))
    for role in (role for role in ("floor", "original", "unlearned") if role in curves):
        fpr, tpr = (curves[role][name].to_numpy() for name in ("fpr", "tpr"))
        linear.append(line(role, fpr, tpr, WORDS[role]))
        shown = fpr > 0
        logarithmic.append(line(role, np.log10(fpr[shown]), tpr[shown], WORDS[role]))
    quarters: Ticks = [(share / 4, f"{share / 4:g}") for share in range(5)]
    y = Axis("true-positive rate", 0, 1.02, quarters)
    x = Axis("false-positive rate", 0, 1.0, quarters)
    low = log_range("false-positive rate", min(least, -1.0), 0)
    accuracy = result.metrics.get("ulira/accuracy")
    rate = result.metrics.get("ulira/tpr_at_1fpr")
    panels = [
        Panel(x, y, linear, "all rates", "" if accuracy is None else f"accuracy {accuracy:.3f}; 0.5 is guessing"),
        Panel(low, y, logarithmic, "few false alarms", "" if rate is None else f"{rate:.3f} found at 1 % false alarms"),
    ]
    caption = (
        "U-LiRA fits a Gaussian to the margins of either side and decides by the likelihood ratio whether a model "
        "unlearned a forget point or never saw it. On the diagonal it can only guess. The same attack on the originals "
        "and on independent oracles shows what there was to find, and what cannot be."
    )
    return Chart("attack_roc", "ROC of the attack", caption, panels, across=2, height=0.8)


def effect_scatter(result: RunResult) -> Chart | None:
    """Predicted against true effect of the forget set on the true class's logit, a panel a group."""
    true, predicted = result.column("effect_true"), result.column("effect_predicted")
    known = {group: thinned(result.known("effect_true", "effect_predicted", group=group), SHOWN) for group in GROUPS}
    known = {group: rows for group, rows in known.items() if len(rows)}
    if true is None or predicted is None or not known:
        return None
    panels = []
    for group, rows in known.items():
        x, y = axis("true effect (logits)", true[rows], count=4), axis("predicted effect (logits)", predicted[rows])
        marks = [line("guide", [x.low, x.high], [x.low, x.high]), dots("unlearned", true[rows], predicted[rows])]
        share = result.metrics.get(f"effect/r2/{group}")
        panels.append(Panel(x, y, marks, GROUP_WORDS[group], "" if share is None else f"R² = {written(share, 2)}"))
    caption = (
        "Points on the line are predicted exactly. The effect is how much including the forget set raises the logit of "
        "the true class."
    )
    return Chart("effect_scatter", "Predicted against true effect", caption, panels, across=3, height=0.8)


def training_curves(result: RunResult) -> Chart | None:
    """Loss by epoch, a panel a stage, because stages minimise different losses."""
    if not len(result.history):
        return None
    stage, epoch, loss = (np.asarray(result.history[column]) for column in ("stage", "epoch", "loss"))
    finite = np.isfinite(loss.astype(np.float64))
    stages = list(dict.fromkeys(stage[finite]))[:8]
    if not stages:
        return None
    chosen = [(str(name), finite & (stage == name)) for name in stages]
    panels = [_curve(name, epoch[rows], loss[rows].astype(np.float64)) for name, rows in chosen]
    caption = "Mean loss over models by epoch, for the stages that trained in this run."
    return Chart("training_curves", "Training curves", caption, panels, across=3, height=0.6)


def _curve(name: str, epoch: NDArray[Any], loss: NDArray[np.float64]) -> Panel:
    """Draw one stage's mean loss by epoch; on a logarithmic scale where it falls far."""
    epochs, which = np.unique(epoch, return_inverse=True)
    mean = np.bincount(which, loss) / np.bincount(which)
    x = axis("epoch", epochs, count=5)
    x = replace(x, ticks=[tick for tick in x.ticks if float(tick[0]).is_integer()])
    falls = mean.min() > 0 and mean.max() > 20 * mean.min()
    mean = log10(mean) if falls else mean
    y = (log_axis if falls else axis)("mean loss", mean)
    marks = [line("ink", epochs, mean)] + ([dots("ink", epochs, mean)] if len(epochs) < 20 else [])
    return Panel(x, y, marks, textwrap.shorten(name, 30, placeholder="…"))


FIGURES: tuple[Draw, ...] = (
    at_a_glance, margin_histograms, klom_by_group, klom_against_memorization, quality_against_cost, forgotten_images,
    attack_roc, effect_scatter, training_curves,
)  # fmt: skip
