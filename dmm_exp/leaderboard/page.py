"""The page of a leaderboard, ``leaderboard.html``, and the files beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmm_exp.compare.looks import roles_beside
from dmm_exp.files.writing import write_text
from dmm_exp.leaderboard.blocks import Ranking, ranked_table
from dmm_exp.leaderboard.ranking import (
    COST,
    FLOOR,
    Outcome,
    few_models,
    floors,
    gaps,
    grid,
    paths,
    refusals,
    standing,
    tidy,
)
from dmm_exp.leaderboard.tables import block_data, has_first, leaderboard_latex, leaderboard_markdown, plain
from dmm_exp.report.charts import Chart, Mark, Panel, dots, line, log10, log_axis
from dmm_exp.report.html import Page, Section, write_sections
from dmm_exp.runs.cost_figure import cost_axis, cost_scale, frontier_line

CAPTION = (
    "One panel a kind of forget set, mean over its draws. Down and to the left is better: as close as retraining, for "
    "less. A line joins the checkpoints of one method, and ends in a large marker where its ranked result is. On the "
    "grey frontier no method is better without costing more. What methods share between requests is not in this cost. "
    "References are grey."
)
RULE = (
    "On every forget set, methods are ranked by the mean of their P95 KLoM on forget, retain and validation points, in "
    "nats. Ranks are averaged over the draws of one kind of forget set, then over kinds. References have no rank (they "
    "mark an end of the scale, look at retrained models, or predict answers without making a model), nor has a method "
    "that did not finish everywhere."
)
RANKS_RULE = (
    "Below a mean rank is its 95 % interval, for which forget sets and their kinds are drawn with replacement. ToW: "
    "tug-of-war against retraining, 1 is perfect. Cost: gradient evaluations of unlearning ÷ those of retraining. "
    "Further models: those that a method looks at, in retrainings. All are means over draws and kinds; a dash means "
    "that a number does not apply."
)
KIND_RULE = (
    "P95 of KLoM(unlearned ‖ oracle), then of its sum over both directions, on forget, retain and validation points in "
    "nats, means over draws; lower is better. Below KLoM is its 95 % interval over models, of which both ends are "
    "means over draws. Ranks are those of the mean of the first three numbers."
)
REFUSAL_RULE = "These methods say that they cannot do these forget sets. They have no mean rank."
FLOOR_RULE = (
    "The first row is the noise floor: the KLoM between two ensembles that were both retrained without the forget set, "
    "which is the best to hope for, and their tug-of-war, which is below 1. Differences that are small beside it mean "
    "little, whatever the ranks."
)


def quality_against_cost(outcomes: Sequence[Outcome]) -> Chart:
    """Describe score against cost ratio, a panel a kind of forget set; costs of 0 lie left of the others."""
    known, floor_of, roles = (
        paths(outcomes),
        floors(outcomes)[FLOOR].mean(axis=1, skipna=False),
        _roles(standing(outcomes)),
    )
    place = cost_scale([1.0, *known[COST]])
    x = cost_axis(place, np.array([0.0, *known[COST]]))
    y = log_axis("mean P95 KLoM (nats)", log10([*known["score"], *floor_of]))
    panels = []
    for kind, floor in floor_of.items():
        marks = [line("floor", [x.low, x.high], log10([floor, floor]), "noise floor")]
        shown = known.query("kind == @kind")
        best = shown.query("not reference")
        marks += frontier_line(best[COST], best["score"], place, log10)
        of = {str(method): path for method, path in shown.groupby("method")}
        for method, role in roles.items():
            marks += _method(of[method], method, role, place) if method in of else ()
        panels.append(Panel(x, y, marks, str(kind)))
    across = min(2, len(panels))
    return Chart("quality_against_cost", "Quality against cost", CAPTION, panels, across=across, height=0.72)


def _roles(table: pd.DataFrame) -> dict[str, str]:
    """Give every method its colour and shape; references are grey, and only their shapes differ."""
    references = set(map(str, table.index[table["reference"].to_numpy(bool)]))
    return roles_beside(map(str, table.index), references)


def _method(path: pd.DataFrame, method: str, role: str, place: Callable[..., NDArray[np.float64]]) -> Iterator[Mark]:
    """Yield a method's checkpoints, small and joined, and its result, large."""
    x, y = place(path[COST]), log10(path["score"])
    if len(path) > 1:
        yield line(role, x, y)
        yield dots(role, x, y)
    if len(path):
        yield dots(role, x[-1:], y[-1:], method, large=True)


def write_leaderboard(outcomes: Sequence[Outcome], folder: Path, *, title: str, command: str) -> Path:
    """Write a leaderboard into ``folder`` and return the path of its page, ``leaderboard.html``.

    Beside it stand ``leaderboard.csv`` (``ranked_table``), ``cells.csv`` (one row a checkpoint, with all metrics of its
    run), ``leaderboard.md``, ``leaderboard.tex``, and what its figure shows. The page asks for nothing outside
    itself. ``command`` is what to type to get all this again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "leaderboard.csv", ranked_table(outcomes).to_csv())
    write_text(folder / "cells.csv", tidy(outcomes).to_csv(index=False))
    words = [f"# {plain(title)}", *few_models(outcomes), leaderboard_markdown(outcomes), RULE, FLOOR_RULE]
    write_text(folder / "leaderboard.md", "\n\n".join(map(str.strip, words)) + "\n")
    write_text(folder / "leaderboard.tex", leaderboard_latex(outcomes, title))
    ranking, found = Ranking.of(outcomes), grid(outcomes)
    story, sections = [*_winner(ranking), RULE, FLOOR_RULE], list(_sections(ranking, outcomes))
    shown = Page(title, command, _facts(outcomes), sections, story, gaps(found), few_models(outcomes))
    return write_sections(shown, folder / "leaderboard.html")


def _sections(ranking: Ranking, outcomes: Sequence[Outcome]) -> Iterator[Section]:
    """Yield the mean ranks, the figure, a table for each kind of forget set, and what does not apply."""
    yield Section("Ranking", RANKS_RULE, block_data(ranking, ranking.blocks[0].columns))
    yield Section(chart=quality_against_cost(outcomes))
    for place, kind in enumerate(ranking.kinds):
        columns = [column for block in ranking.blocks if block.kind == kind for column in block.columns]
        yield Section(f"Forget sets: {kind}", KIND_RULE if place == 0 else "", block_data(ranking, columns))
    if lines := refusals(grid(outcomes)):
        yield Section("What does not apply", REFUSAL_RULE, notes=lines)


def _winner(ranking: Ranking) -> list[str]:
    """Say who is first, if anyone is, or that there are too few models to tell."""
    if not has_first(ranking):
        return [] if ranking.is_sure else ["There are too few models to say which method is best."]
    ranks, column = ranking.table["mean_rank"].dropna().to_dict(), ranking.blocks[0].columns[0]
    first = [str(method) for method, rank in ranks.items() if rank == min(ranks.values())]
    said = f"{ranking.texts(column)[0]} {ranking.intervals(column)[0]}".strip()
    return [f"{' and '.join(first)} {'is' if len(first) == 1 else 'are'} first, with a mean rank of {said}."]


def _facts(outcomes: Sequence[Outcome]) -> list[tuple[str, Any]]:
    """Count what is compared."""
    found, references = grid(outcomes), len(standing(outcomes).query("reference"))
    sets = [("forget sets", found["forget"].nunique()), ("kinds of forget sets", found["kind"].nunique())]
    counts = sorted({outcome.n_models for outcome in outcomes if outcome.n_models is not None})
    models = (
        [("models in each ensemble", " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))))] if counts else []
    )
    return [("methods", found["method"].nunique() - references), ("references", references), *sets, *models]
