"""Many runs side by side, for the terminal: means over repetitions, ranks, paired tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dmm_exp.console.latex import best_two, latex_table
from dmm_exp.console.tables import markdown_table, print_table, text_table
from dmm_exp.console.words import MISSING, number

if TYPE_CHECKING:
    import pandas as pd

MEANS_RULE = (
    "Means are over the runs of a group, ± the half-width of the 95 % interval (Student's t over runs). A group of one "
    "run shows, in brackets, that run's own 95 % interval over members, where it has one."
)
RANKS_RULE = (
    "Ranks are among the methods of one block: runs with the same dataset, model, training, forget set and seed, and "
    "so the same oracles. 1 is the best, ties share their average. In brackets is the 95 % interval of the mean rank "
    "over blocks drawn with replacement. “all” averages the metrics shown except costs. A method that is missing from "
    "blocks is ranked in the others only, and stands below if it is missing from more than half."
)
TESTS_RULE = (
    "Differences are method − baseline in the same blocks. Where runs hold values by member, member i is paired with "
    "member i, members are drawn with replacement within each block, and the interval holds for these forget sets and "
    "seeds; otherwise (KLoM, costs) differences of blocks are averaged with Student's t, which takes two blocks. p is "
    "two-sided, and corrected by Holm for all methods tested against the baseline on one metric. Against the best of "
    "these very runs (the default) it is somewhat too small: name a baseline to test a claim."
)


@dataclass(frozen=True)
class Comparison:
    """Everything a finished comparison hands to tables and pages.

    Attributes:
        runs: one row a run: ``name``, ``folder``, ``method``, ``block``, choices, differing keys, ``seed``, metrics.
        by: the columns of ``runs`` that means are grouped by.
        metrics: the names shown, each with an arrow towards the better: "↓" or "↑", empty where neither end is better.
        means: one row a group and metric: the columns of ``by``, ``metric``, ``runs``, ``mean``, ``low``, ``high``,
            ``over`` (``"runs"``, ``"members"`` or ``""``: what the interval is over).
        ranks: one row a method and metric, or ``"all"``: ``method``, ``metric``, ``blocks``, ``rank``, ``low``,
            ``high``; the best method first, empty if no two methods share a block.
        tests: one row a metric and method other than the baseline: ``metric``, ``method``, ``baseline``, ``blocks``,
            ``over`` (``"members"`` or ``"blocks"``), ``difference``, ``low``, ``high``, ``p``, ``p_holm``.
        n_blocks: how many blocks have at least two methods.
        baseline: what the others are tested against; ``""`` without ranks.
    """

    runs: pd.DataFrame
    by: Sequence[str]
    metrics: Mapping[str, str]
    means: pd.DataFrame
    ranks: pd.DataFrame
    tests: pd.DataFrame
    n_blocks: int
    baseline: str


def print_comparison(found: Comparison) -> None:
    """Print means, ranks and tests on standard output."""
    print_table(text_table("means", means_texts(found), len(found.by)))
    if found.ranks.empty:
        print("no two methods share a forget set and a seed: no ranks, no tests")
        return
    print_table(
        text_table(
            f"mean ranks in {found.n_blocks} block{'s' * (found.n_blocks > 1)} (1 is best)", ranks_texts(found), 1
        )
    )
    if not found.tests.empty:
        print_table(text_table(f"paired differences from {found.baseline}", tests_texts(found), 2))


def comparison_markdown(found: Comparison) -> str:
    """Return means, ranks and tests as GitHub tables, each with the rule that reads it."""
    tables = [("Means", means_texts(found), MEANS_RULE)]
    if not found.ranks.empty:
        tables.append(("Ranks", ranks_texts(found), RANKS_RULE))
    if not found.tests.empty:
        tables.append((f"Differences from {found.baseline}", tests_texts(found), TESTS_RULE))
    return "\n".join(f"## {title}\n\n{rule}\n\n{markdown_table(rows)}" for title, rows, rule in tables)


def comparison_latex(found: Comparison) -> str:
    """Return the means as a LaTeX table; within each block of equal other columns the best method is bold."""
    rows, marks = means_texts(found), {}
    outer = [name for name in found.by if name != "method"]
    places = {group: place + 1 for place, (group, _) in enumerate(_by(found.means, list(found.by)))}
    for metric, part in found.means.groupby("metric", sort=False):
        column = len(found.by) + 1 + list(found.metrics).index(str(metric))
        for _, block in _by(part, outer) if outer else [((), part)]:
            keys = [tuple(row[name] for name in found.by) for row in _dicts(block)]
            lower = found.metrics[str(metric)] == "↓"
            best = best_two(block["mean"].tolist(), lower=lower) if found.metrics[str(metric)] else {}
            for place, mark in best.items():
                marks[places[keys[place]], column] = mark
    return latex_table(rows, f"Means. {MEANS_RULE}", marks=marks, words=len(found.by))


def means_texts(found: Comparison) -> list[list[str]]:
    """Return the means as text, head first: a row a group, a column a metric."""
    rows = [[*found.by, "runs", *(" ".join(part).rstrip() for part in found.metrics.items())]]
    for group, part in _by(found.means, list(found.by)):
        rows.append([*map(_word, group), str(part["runs"].max()), *(_mean(row) for row in _dicts(part))])
    return rows


def _mean(row: dict[Any, Any]) -> str:
    middle = number(row["mean"], ".3f")
    if row["over"] == "runs":
        return f"{middle} ± {row['high'] - row['mean']:.3f}"
    return middle + _interval(row)


def ranks_texts(found: Comparison) -> list[list[str]]:
    """Return the mean ranks as text, head first: a row a method, a column a metric."""
    metrics = list(dict.fromkeys(found.ranks["metric"]))
    rows = [["method", "blocks", *metrics]]
    for (method,), part in _by(found.ranks, ["method"]):
        cells = [number(row["rank"]) + _interval(row, ".2f") for row in _dicts(part)]
        rows.append([str(method), str(part["blocks"].max()), *cells])
    return rows


def tests_texts(found: Comparison) -> list[list[str]]:
    """Return the paired tests as text, head first: a row a metric and method."""
    rows = [["metric", "method", "blocks", "over", "difference", "95 % interval", "p", "p (Holm)"]]
    for row in _dicts(found.tests):
        texts = [
            f"{row['metric']} {found.metrics[row['metric']]}".rstrip(),
            row["method"],
            str(row["blocks"]),
            row["over"],
        ]
        interval = _interval(row, "+.4f").strip() or MISSING
        rows.append(
            [*texts, number(row["difference"], "+.4f"), interval, _probability(row["p"]), _probability(row["p_holm"])]
        )
    return rows


def _interval(row: dict[Any, Any], form: str = ".3f") -> str:
    """Return the interval in brackets, after a space; nothing where there is none."""
    return f" [{row['low']:{form}}, {row['high']:{form}}]" if math.isfinite(row["low"]) else ""


def _probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value, ".3f")


def _word(value: Any) -> str:
    return MISSING if value is None or value != value else str(value)


def _by(frame: pd.DataFrame, keys: list[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Return the parts of a frame that share keys, in order of appearance."""
    groups: Any = frame.groupby(keys, sort=False, dropna=False)
    return [(key, part) for key, part in groups]


def _dicts(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    return frame.to_dict("records")
