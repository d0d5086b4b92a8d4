"""The figures of a run; each function returns ``None`` when the run holds nothing to draw.

Axes carry their units; what colours and shapes mean is said in ``palette``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmm_exp.metrics.tow import GROUPS
from dmm_exp.report.charts import (
    Axis,
    Chart,
    Hover,
    Mark,
    Panel,
    Picture,
    Ticks,
    axis,
    decades,
    dots,
    floats,
    histograms,
    line,
    log10,
    log_axis,
    thinned,
    written,
)
from dmm_exp.report.pictures import as_pictures, is_picture
from dmm_exp.runs.result import OtherRun, RunResult

Draw = Callable[[RunResult], Chart | None]
Scale = Callable[[Any], NDArray[np.float64]]  # where values lie on an axis

WORDS = {
    "original": "original (doing nothing)",
    "unlearned": "unlearned (this run)",
    "oracle": "oracle (retrained)",
    "floor": "noise floor",
}
GROUP_WORDS = {"forget": "forget points", "retain": "retain points", "val": "validation points"}
MARGIN = "margin (nats)"
KLOM = "KLoM (nats)"
SHOWN = 1_500  # of the points of a group in a scatter; more is a blob, and makes the page large
STEPS = 300  # of a cumulative distribution
PIXELS = 1_200_000  # numbers in all pictures that a page can show beside points
EXTREMES = 6  # pictures of each kind


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
    ends = floats([[result.metrics.get(f"klom/{group}/p95_{end}", np.nan) for group in groups] for end in _ENDS])
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


_ENDS = ("low", "high")


def chosen_points(result: RunResult) -> list[tuple[str, int]]:
    """Choose points by rule, each with the reason; rows of ``points``, none twice.

    Extremes alone would hide how the method treats an ordinary point, and forget points alone what it does to others.
    """
    forget = result.known("klom")
    value = result.column("klom")
    if value is None:
        return []
    before, after = (result.column(f"margin_{role}") for role in ("original", "oracle"))
    memorization = result.column("memorization")
    ranked: list[tuple[str, NDArray[Any]]] = []
    if memorization is not None:
        known = result.known("memorization", "klom")
        ranked.append(("most memorized", _largest(known, memorization)))
    if before is not None and after is not None:
        ranked.append(("most changed by retraining", _largest(forget, np.abs(after - before))))
    ranked.append(("largest KLoM", _largest(forget, value)))
    for group, words in GROUP_WORDS.items():
        rows = result.known("klom", group=group)
        distance = np.abs(value[rows] - np.median(value[rows])) if len(rows) else value[rows]
        ranked.append((f"typical {words[:-1]}", rows[np.argsort(distance, kind="stable")]))
    chosen: dict[int, str] = {}
    for words, rows in ranked:
        fresh = next((int(row) for row in rows if int(row) not in chosen), None)
        if fresh is not None:
            chosen[fresh] = words
    return [(words, row) for row, words in chosen.items()]


def _largest(rows: NDArray[Any], values: NDArray[np.float64]) -> NDArray[Any]:
    """Order rows by their values, the largest first."""
    return rows[np.argsort(-values[rows], kind="stable")]


def margin_histograms(result: RunResult) -> Chart | None:
    """Margins of the original, unlearned and oracle ensembles on single points."""
    roles = [role for role in ("oracle", "original", "unlearned") if role in result.margins]
    points = chosen_points(result)
    if not points or "unlearned" not in roles:
        return None
    panels = [_histograms(result, words, row, roles) for words, row in points]
    caption = (
        "Each panel is one point and counts models. Unlearning succeeds where the blue outline covers the green area. "
        "Points are chosen by rule; a typical point has the median KLoM of its group."
    )
    return Chart("margin_histograms", "Margins on single points", caption, panels, across=3, height=0.58)


def _histograms(result: RunResult, words: str, row: int, roles: Sequence[str]) -> Panel:
    """Overlay histograms on one range, the oracles filled because they are the target."""
    samples = {role: result.margins[role][:, row].astype(np.float64) for role in roles}
    panel = histograms(samples, WORDS, "oracle", MARGIN, "models")
    return replace(panel, title=words, note=_point_note(result, row), thumb=_thumb(result, row))


def _thumb(result: RunResult, row: int) -> NDArray[np.float32] | None:
    return as_pictures(result.images, np.array([row]))[0] if is_picture(result.images) else None


def _name(result: RunResult, row: int) -> str:
    """Name a point by its number and class."""
    point = result.points.iloc[row]
    name = textwrap.shorten(result.class_name(int(point["label"])), 18, placeholder="…")
    return f"#{int(point['point'])} · {name}"


def _point_note(result: RunResult, row: int) -> str:
    """Name a point, with its KLoM and floor."""
    value, floor = result.column("klom"), result.column("klom_floor")
    numbers = "" if value is None else f" · KLoM {value[row]:.2f}"
    return _name(result, row) + numbers + ("" if floor is None else f" (floor {floor[row]:.2f})")


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


def klom_against_memorization(result: RunResult) -> Chart | None:
    """KLoM of single points against memorization; without such scores, against how much retraining changes them."""
    position, value, nothing = _position(result), result.column("klom"), result.column("klom_original")
    if position is None or value is None:
        return None
    name, label, title, at = position
    forget, others = (
        np.flatnonzero(np.isfinite(at + value) & (result.groups == group)) for group in ("forget", "retain")
    )
    if not len(forget):
        return None
    others = thinned(others, SHOWN)
    shown = np.concatenate([_largest(forget, value), others])
    marks = [dots("other", at[others], value[others], "retain points (this run)")] if len(others) else []
    marks += [dots("original", at[forget], nothing[forget], WORDS["original"])] if nothing is not None else []
    marks.append(dots("unlearned", at[forget], value[forget], WORDS["unlearned"]))
    x = axis(label, at[shown])
    y = axis(KLOM, np.concatenate([mark.y for mark in marks]), zero=True)
    floor = result.known("klom_floor")
    if len(floor) and (column := result.column("klom_floor")) is not None:
        height = float(np.quantile(column[floor], 0.95))
        marks.append(line("floor", [x.low, x.high], [height, height], "P95 of the noise floor"))
    panel = Panel(x, y, marks, hover=_hover(result, shown, at, value))
    caption = (
        f"All {len(forget):,} forget points as the run left them and as they were before"
        + (f", and {len(others):,} retain points" if len(others) else "")
        + ". Memorization is how much more often models are right about a point when they were trained on it. Strongly "
        "memorized points are the ones that retraining changes, and the hardest to unlearn."
    )
    return Chart(name, title, caption, [panel], height=0.62)


def _position(result: RunResult) -> tuple[str, str, str, NDArray[np.float64]] | None:
    """Return where points lie across: name, label and title of the figure, and a number a point."""
    memorization = result.column("memorization")
    if memorization is not None:
        return "klom_against_memorization", "memorization", "KLoM against memorization", memorization
    before, after = (result.column(f"margin_{role}") for role in ("original", "oracle"))
    if before is None or after is None:
        return None
    label = "change of the margin by retraining (nats)"
    return "klom_against_change", label, "KLoM against the change that retraining makes", after - before


_TOLD = {
    "klom": "KLoM", "klom_floor": "floor", "klom_original": "doing nothing", "memorization": "memorization",
    "margin_original": "margin, original", "margin_unlearned": "margin, unlearned", "margin_oracle": "margin, oracle",
    "ulira": "U-LiRA accuracy",
}  # fmt: skip


def _hover(result: RunResult, rows: NDArray[Any], x: NDArray[np.float64], y: NDArray[np.float64]) -> Hover:
    """Return what a page tells of points."""
    fields: dict[str, Sequence[Any]] = {"group": [GROUP_WORDS[g][:-1] for g in result.groups[rows]]}
    fields |= {words: _told(result, column, rows) for column, words in _TOLD.items() if column in result.points}
    corrupted = result.points.get("corrupted")
    if corrupted is not None and bool(np.asarray(corrupted).any()):
        fields["label"] = ["corrupted" if wrong else "as given" for wrong in np.asarray(corrupted)[rows]]
    pictures = None
    if is_picture(result.images):
        room = max(1, PIXELS // int(np.prod(result.images.shape[1:])))
        pictures = as_pictures(result.images, rows[:room])
    return Hover(x[rows], y[rows], _names(result, rows), fields, pictures)


def _names(result: RunResult, rows: NDArray[Any]) -> list[str]:
    """Name many points at once."""
    numbers, labels = (result.points[column].to_numpy()[rows] for column in ("point", "label"))
    return [f"#{number} · {result.class_name(int(label))}" for number, label in zip(numbers, labels, strict=True)]


def _told(result: RunResult, column: str, rows: NDArray[Any]) -> list[float | None]:
    values = result.column(column)
    assert values is not None
    return [value if value == value else None for value in np.round(values[rows], 3).tolist()]


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


QUALITY, COST = "klom/forget/p95", "cost/ratio"


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
        "was evaluated on its way." + met
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
    wide = 0.06 * (most - zero)
    return Axis("cost of unlearning ÷ cost of retraining", zero - wide, most + 1.5 * wide, ticks)


def _method(
    result: RunResult, own: Sequence[Mapping[str, float]], x: NDArray[np.float64], y: NDArray[np.float64]
) -> list[Mark]:
    """Return the method with its intervals, as a line when it was evaluated after several numbers of epochs."""
    ends = floats([[metrics.get(f"{QUALITY}_{end}", np.nan) for metrics in own] for end in _ENDS])
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
    """Return what a page tells of runs."""
    epochs = [f" after {epoch} epochs" for epoch in result.checkpoints] or [""]
    found = [(f"{result.method} (this run){after}", metrics) for after, metrics in zip(epochs, own, strict=True)]
    found += [(run.method, run.metrics) for run in others]
    values = {QUALITY: "KLoM P95, forget", "klom/retain/p95": "KLoM P95, retain", "tow": "ToW", COST: "cost"}
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
    rows = [[run.method, f"{run.metrics[QUALITY]:.2f}", f"{run.metrics[COST]:.2g}", run.name] for run in everyone]
    return [["method", "KLoM P95, forget", "cost", "run"], *sorted(rows, key=lambda row: float(row[1]))]


def forgotten_images(result: RunResult) -> Chart | None:
    """The forget points with the highest and the lowest KLoM, as pictures, or as a table where inputs are none."""
    rows, value = result.known("klom"), result.column("klom")
    if value is None or not len(rows):
        return None
    ranked = _largest(rows, value)
    count = min(EXTREMES, len(ranked) // 2) or 1
    extremes = list(dict.fromkeys([*ranked[:count].tolist(), *ranked[-count:].tolist()]))
    title = "Least and most forgotten examples"
    caption = (
        f"Least forgotten are the {count} forget points with the largest KLoM, most forgotten the {count} with the "
        "smallest. Margins are means over models: original → unlearned → oracle; forgetting is complete where the last "
        "two agree."
    )
    if not is_picture(result.images):
        head = ["point", "class", "KLoM", "margin: original → unlearned → oracle"]
        points = [_name(result, row).split(" · ", 1) for row in extremes]
        table = [
            [*point, f"{value[row]:.2f}", _margins(result, row)] for point, row in zip(points, extremes, strict=True)
        ]
        return Chart("forgotten_examples", title, caption, [], table=[head, *table])
    pictures = as_pictures(result.images, np.array(extremes))
    panels = []
    for place, (pixels, row) in enumerate(zip(pictures, extremes, strict=True)):
        group = "most forgotten" if place >= count else "least forgotten"
        panels.append(Picture(pixels, _name(result, row), _picture_lines(result, row, float(value[row])), group))
    return Chart("forgotten_examples", title, caption, panels, across=count)


def _picture_lines(result: RunResult, row: int, value: float) -> list[str]:
    wrong = ["label corrupted"] if result.points.iloc[row].to_dict().get("corrupted") is True else []
    return [line for line in (f"KLoM {value:.2f}", _margins(result, row), *wrong) if line]


def _margins(result: RunResult, row: int) -> str:
    """Return mean margins original → unlearned → oracle."""
    columns = (result.column(f"margin_{role}") for role in ("original", "unlearned", "oracle"))
    return " → ".join(written(values[row], 1) for values in columns if values is not None)


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
    low = Axis("false-positive rate, logarithmic", min(least, -1.0), 0, decades(min(least, -1.0), 0))
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
