"""The figures of a run; each function returns ``None`` when the run holds nothing to draw.

An ensemble keeps one colour and one line style in all figures; axes carry their units.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from dmm_exp.report.canvas import COLOURS, LINES, WORDS, Draw, Drawn, legend_above, literal, panels, png, styled
from dmm_exp.report.result import GROUPS, RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROUP_WORDS = {"forget": "forget points", "retain": "retain points", "val": "validation points"}
MARGIN = "margin (nats)"
KLOM = "KLoM (nats)"
MOST_SHOWN = 5_000  # a scatter of more is a blob that takes seconds to draw


def draw_all(result: RunResult) -> list[Drawn]:
    """Draw every figure that this run has something for, in reading order."""
    figures = []
    for draw, title, caption in FIGURES:
        figure = draw(result)
        if figure is not None:
            figures.append(Drawn(draw.__name__, title, caption, figure, png(figure)))
    return figures


def _most_changed(result: RunResult) -> np.ndarray:
    """Return the forget points' rows, the ones whose mean margin retraining changes most first."""
    rows = result.rows("forget")
    before, after = result.column("margin_original"), result.column("margin_oracle")
    if before is None or after is None:
        return rows[:0]
    return rows[np.argsort(-np.abs(after - before)[rows], kind="stable")]


def shown_points(result: RunResult, count: int = 8) -> list[int]:
    """Choose forget points by rule: the five that retraining changes most, then evenly down the ranking.

    Only showing the extremes would hide how the method treats an ordinary point.
    """
    ranked = [int(row) for row in _most_changed(result)]
    most, rest = ranked[:5], ranked[5:]
    steps = min(count - 5, len(rest))
    return most + [rest[round((step + 1) * len(rest) / (steps + 1)) - 1] for step in range(steps)]


@styled
def margin_histograms(result: RunResult) -> Figure | None:
    """Margins of the original, unlearned and oracle ensembles on single forget points."""
    rows = shown_points(result)
    roles = [role for role in ("original", "oracle", "unlearned") if role in result.margins]
    if not rows or "unlearned" not in roles:
        return None
    figure, axes = panels(len(rows), 4, 2.4)
    for panel, row in zip(axes, rows, strict=True):
        _histograms(panel, {role: result.margins[role][:, row] for role in roles})
        panel.set_title(_point_title(result, row))
        panel.set_xlabel(MARGIN)
    for panel in axes[::4]:
        panel.set_ylabel("models")
    legend_above(figure, axes[0])
    return figure


def _histograms(panel: Axes, samples: dict[str, np.ndarray]) -> None:
    """Overlay histograms on one range, the oracles filled because they are the target."""
    values = np.concatenate(list(samples.values())).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    pad = max(0.02 * (high - low), 1e-3)
    edges = np.linspace(low - pad, high + pad, 31)
    for role, sample in samples.items():
        counts, _ = np.histogram(sample, edges)
        if role == "oracle":
            panel.stairs(counts, edges, fill=True, alpha=0.4, color=COLOURS[role], label=WORDS[role])
        else:
            panel.stairs(counts, edges, lw=1.8, color=COLOURS[role], linestyle=LINES[role], label=WORDS[role])
    panel.grid(axis="x", visible=False)
    panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.yaxis.set_major_locator(MaxNLocator(3, integer=True))


def _name(result: RunResult, row: int) -> str:
    """Name a point by its number and class."""
    point = result.points.iloc[row]
    name = textwrap.shorten(result.class_name(int(point["label"])), 18, placeholder="…")
    return f"#{int(point['point'])} · {literal(name)}"


def _point_title(result: RunResult, row: int) -> str:
    """Name a point, with its KLoM and floor on a second line."""
    value, floor = result.column("klom"), result.column("klom_floor")
    numbers = "" if value is None else f"KLoM {value[row]:.1f}"
    return f"{_name(result, row)}\n{numbers}" + ("" if floor is None else f" (floor {floor[row]:.1f})")


@styled
def klom_by_group(result: RunResult) -> Figure | None:
    """Cumulative distribution of KLoM over points, a panel a group, with the floor and doing nothing."""
    groups = [group for group in GROUPS if len(result.known("klom", group=group))]
    if not groups:
        return None
    figure, axes = panels(len(groups), 3, 3.3, sharey=True)
    for panel, group in zip(axes, groups, strict=True):
        for role, column in (("floor", "klom_floor"), ("original", "klom_original"), ("unlearned", "klom")):
            rows, values = result.known(column, group=group), result.column(column)
            if values is not None and len(rows):
                panel.ecdf(values[rows], color=COLOURS[role], linestyle=LINES[role], label=WORDS[role])
        panel.axhline(0.95, color="#9a9a9a", linewidth=0.9)
        panel.set_title(f"{GROUP_WORDS[group]} (n = {len(result.rows(group)):,})")
        panel.set_xlabel(KLOM)
        panel.set_xlim(left=0)
        panel.set_yticks([0, 0.25, 0.5, 0.75, 0.95], ["0", "25 %", "50 %", "75 %", "95 %"])
    axes[0].set_ylabel("share of points at or below")
    legend_above(figure, axes[0])
    return figure


@styled
def quality_against_cost(result: RunResult) -> Figure | None:
    """Forget P95 KLoM against cost, between the two ends: doing nothing (cost 0) and retraining (cost 1)."""
    found = list(result.checkpoints.values()) or [result.metrics]
    if any(name not in metrics for metrics in found for name in ("klom/forget/p95", "cost/ratio")):
        return None
    figure, (panel,) = panels(1, 1, 3.4, width=7.5)
    _ends(panel, result)
    _method(panel, result, found)
    widest = max(1.0, found[-1]["cost/ratio"])
    panel.set_xlabel("cost of unlearning ÷ cost of retraining")
    panel.set_ylabel("forget P95 " + KLOM)
    panel.set_xlim(-0.05 * widest, 1.08 * widest)
    panel.set_ylim(bottom=0)
    legend_above(figure, panel)
    return figure


def _method(panel: Axes, result: RunResult, found: list[dict[str, float]]) -> None:
    """Draw the method with its intervals, as a line when it was evaluated after several numbers of epochs."""
    values = np.array([metrics["klom/forget/p95"] for metrics in found])
    low, high = (
        np.array([metrics.get(f"klom/forget/p95_{end}", metrics["klom/forget/p95"]) for metrics in found])
        for end in ("low", "high")
    )
    ratios = [metrics["cost/ratio"] for metrics in found]
    spread = np.maximum(0.0, [values - low, high - values])
    label = f"{literal(result.method)} (this run)"
    panel.errorbar(ratios, values, yerr=spread, fmt="o-", color=COLOURS["unlearned"], ms=8, capsize=6, label=label)
    for epoch, ratio, value in zip(result.checkpoints, ratios, values, strict=False):
        panel.annotate(f"{epoch}", (ratio, value), (7, 7), textcoords="offset points", fontsize=9)


def _ends(panel: Axes, result: RunResult) -> None:
    """Mark retraining at the floor, and doing nothing."""
    floor, nothing = (result.metrics.get(f"{name}/forget/p95") for name in ("klom_floor", "klom_original"))
    if floor is not None:
        panel.axhline(floor, color=COLOURS["floor"], linestyle=LINES["floor"])
        panel.plot(1, floor, "s", color=COLOURS["oracle"], markersize=10, label="retraining (at the floor)")
    if nothing is not None:
        panel.plot(0, nothing, "D", color=COLOURS["original"], markersize=9, label="doing nothing")


@styled
def klom_against_memorization(result: RunResult) -> Figure | None:
    """KLoM of forget points against how strongly the original models memorize them."""
    rows = _thinned(result.known("klom", "memorization"))
    memorization, floor = result.column("memorization"), result.column("klom_floor")
    if memorization is None or not len(rows):
        return None
    figure, (panel,) = panels(1, 1, 3.6, width=7.5)
    for role, column, face in (("original", "klom_original", "none"), ("unlearned", "klom", COLOURS["unlearned"])):
        values = result.column(column)
        if values is not None:
            panel.scatter(memorization[rows], values[rows], s=22, facecolors=face, edgecolors=COLOURS[role],
                          alpha=0.7, label=WORDS[role])  # fmt: skip
    if floor is not None:
        height = float(np.nanquantile(floor[rows], 0.95))
        panel.axhline(height, color=COLOURS["floor"], linestyle=LINES["floor"], label="P95 of the noise floor")
    panel.set_xlabel("memorization (gain in the chance of being right when included)")
    panel.set_ylabel(KLOM)
    legend_above(figure, panel)
    return figure


def _thinned(rows: np.ndarray) -> np.ndarray:
    """Keep an evenly spaced selection of very many points."""
    return rows[:: max(1, -(-len(rows) // MOST_SHOWN))]


@styled
def effect_scatter(result: RunResult) -> Figure | None:
    """Predicted against true effect of the forget set on the true class's logit, a panel a group."""
    true, predicted = result.column("effect_true"), result.column("effect_predicted")
    known = {group: _thinned(result.known("effect_true", "effect_predicted", group=group)) for group in GROUPS}
    known = {group: rows for group, rows in known.items() if len(rows)}
    if true is None or predicted is None or not known:
        return None
    figure, axes = panels(len(known), 3, 3.4)
    for panel, (group, rows) in zip(axes, known.items(), strict=True):
        panel.axline((0, 0), slope=1, color="#7a7a7a", linewidth=1.0)
        panel.scatter(true[rows], predicted[rows], s=12, color=COLOURS["unlearned"], alpha=0.45, lw=0, rasterized=True)
        share = result.metrics.get(f"effect/r2/{group}")
        panel.set_title(GROUP_WORDS[group] + (f"\nR² = {share:.2f}" if share is not None else ""))
        panel.set_xlabel("true effect (logits)")
    axes[0].set_ylabel("predicted effect (logits)")
    return figure


@styled
def most_affected_images(result: RunResult) -> Figure | None:
    """The twelve forget points that retraining changes most, as pictures with their margins."""
    rows = _most_changed(result)[:12]
    if not is_picture(result.images) or not len(rows):
        return None
    figure, axes = panels(len(rows), 6, 2.15)
    for panel, row, picture in zip(axes, rows, as_pictures(result.images[rows]), strict=True):
        panel.imshow(picture, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        panel.set_axis_off()
        panel.set_title(_picture_title(result, int(row)), fontsize=9.5)
    return figure


def _picture_title(result: RunResult, row: int) -> str:
    """Number, class, and mean margins original -> unlearned -> oracle."""
    point = result.points.iloc[row].to_dict()
    wrong = "\n(label corrupted)" if point.get("corrupted") is True else ""
    columns = [f"margin_{role}" for role in ("original", "unlearned", "oracle")]
    margins = " → ".join(f"{point[column]:.1f}" for column in columns if column in point)
    return f"{_name(result, row)}{wrong}\n{margins}"


def is_picture(images: np.ndarray) -> bool:
    """Tell whether inputs are images ``[points, 1 or 3, height, width]`` or grey ones ``[points, height, width]``."""
    return images.ndim == 3 or (images.ndim == 4 and images.shape[1] in (1, 3))


def as_pictures(images: np.ndarray) -> np.ndarray:
    """Turn images into floats in [0, 1], ``[points, height, width]`` or ``[points, height, width, 3]``.

    Floats outside [0, 1] were normalised; their own range is then the only scale left.
    """
    values = images.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if images.dtype == np.uint8 and high > 16:  # scikit-learn's digits are bytes, but from 0 to 16
        low, high = 0.0, 255.0
    elif images.dtype != np.uint8 and low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    values = (values - low) / max(high - low, 1e-12)
    if values.ndim == 3:
        return values
    return values[:, 0] if values.shape[1] == 1 else np.moveaxis(values, 1, -1)


@styled
def training_curves(result: RunResult) -> Figure | None:
    """Loss by epoch, a panel a stage, because stages minimise different losses."""
    if not len(result.history):
        return None
    stage, epoch, loss = (np.asarray(result.history[column]) for column in ("stage", "epoch", "loss"))
    finite = np.isfinite(loss.astype(np.float64))
    stages = list(dict.fromkeys(stage[finite]))[:8]
    if not stages:
        return None
    figure, axes = panels(len(stages), 4, 2.4)
    for panel, name in zip(axes, stages, strict=True):
        chosen = finite & (stage == name)
        _curve(panel, epoch[chosen], loss[chosen].astype(np.float64))
        panel.set_title(literal(textwrap.shorten(str(name), 30, placeholder="…")))
    for panel in axes[::4]:
        panel.set_ylabel("mean loss")
    return figure


def _curve(panel: Axes, epoch: np.ndarray, loss: np.ndarray) -> None:
    """Draw one stage's mean loss by epoch."""
    epochs, which = np.unique(epoch, return_inverse=True)
    mean = np.bincount(which, loss) / np.bincount(which)
    style: dict[str, Any] = {"marker": "o", "markersize": 4} if len(epochs) < 20 else {}
    panel.plot(epochs, mean, color="#1c1c1c", **style)
    if mean.min() > 0 and mean.max() > 20 * mean.min():
        panel.set_yscale("log")
        panel.yaxis.set_minor_locator(NullLocator())
    else:
        panel.yaxis.set_major_locator(MaxNLocator(4))
    panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    panel.set_xlabel("epoch")


FIGURES: tuple[tuple[Draw, str, str], ...] = (
    (
        margin_histograms,
        "Margins on single forget points",
        "Each panel is one forget point. Unlearning succeeds where the blue outline matches the green area. The first "
        "five points are those whose mean margin retraining changes most; the others are spread evenly down that "
        "ranking.",
    ),
    (
        klom_by_group,
        "KLoM by group of points",
        "Further to the left is better, and nothing can be expected to lie left of the noise floor. The grey line "
        "marks the 95th percentile, which is the headline.",
    ),
    (
        quality_against_cost,
        "Quality against cost",
        "Down and to the left is better: as close as retraining, for less. The bar is the 95 % interval over models; "
        "numbers beside points count epochs, where the method was evaluated on its way.",
    ),
    (
        klom_against_memorization,
        "KLoM against memorization",
        "Strongly memorized points are the ones that retraining changes, and the hardest to unlearn.",
    ),
    (
        effect_scatter,
        "Predicted against true effect of the forget set",
        "Points on the line are predicted exactly. The effect is how much including the forget set raises the logit of "
        "the true class.",
    ),
    (
        most_affected_images,
        "The most affected forget points",
        "Above each picture: the point's number and label, and its mean margin in original → unlearned → oracle "
        "models.",
    ),
    (training_curves, "Training curves", "Mean loss over models by epoch, for the stages that trained in this run."),
)
