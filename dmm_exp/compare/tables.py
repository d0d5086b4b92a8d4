"""Many runs side by side, for the terminal: means over repetitions, ranks, paired tests."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dmm_exp.console.latex import best_two, latex_table
from dmm_exp.console.tables import markdown_table, print_texts
from dmm_exp.console.terminal import terminal_width
from dmm_exp.console.words import MISSING, number

if TYPE_CHECKING:
    import pandas as pd

MEANS_RULE = (
    "Means are over the runs of a group, ± the half-width of the 95 % interval (Student's t over runs). A group of one "
    "run shows, in brackets, that run's own 95 % interval over members, where it has one. The floor is what an "
    "independent ensemble of retrained models has."
)
RANKS_RULE = (
    "Ranks are among the methods of one block: runs with the same dataset, model, training, forget set and seed, and "
    "so the same oracles. 1 is the best, ties share their average. In brackets is the 95 % interval of the mean rank "
    "over blocks drawn with replacement. “all” averages the metrics shown except costs. Ranked are methods that are in "
    "at least half of all blocks; references (they mark an end of the scale, look at retrained models, or make no "
    "model) are not."
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
        metrics: the names shown, each with an arrow towards the better: "↓" or "↑".
        means: one row a group and metric: the columns of ``by``, ``metric``, ``runs``, ``mean``, ``low``, ``high``,
            ``over`` (``"runs"``, ``"members"`` or ``""``: what the interval is over), ``floor`` (of independent
            retraining; NaN where it was not measured).
        ranks: one row a method and metric, or ``"all"``: ``method``, ``metric``, ``blocks``, ``rank``, ``low``,
            ``high``; the best method first, empty if no two methods that are ranked share a block.
        tests: one row a metric and method other than the baseline: ``metric``, ``method``, ``baseline``, ``blocks``,
            ``over`` (``"members"`` or ``"blocks"``), ``difference``, ``low``, ``high``, ``p``, ``p_holm``.
        n_blocks: how many blocks there are.
        baseline: what the others are tested against; ``""`` where there is none.
        unranked: method → why it has no rank.
        untested: methods, metrics and why they were not tested against the baseline.
    """

    runs: pd.DataFrame
    by: Sequence[str]
    metrics: Mapping[str, str]
    means: pd.DataFrame
    ranks: pd.DataFrame
    tests: pd.DataFrame
    n_blocks: int
    baseline: str
    unranked: Mapping[str, str] = field(default_factory=dict)
    untested: Sequence[tuple[str, str, str]] = ()


def print_comparison(found: Comparison) -> None:
    """Print means, ranks and tests on standard output, each with what its signs mean, as wide as the terminal."""
    print_texts("means", means_texts(found), len(found.by) + 1, same=[*found.by, "runs"], keep="method")
    _print_lines(legend(found))
    if found.ranks.empty and found.tests.empty:
        print("no two methods to rank share a forget set and a seed: no ranks, no tests")
        _print_lines(unranked_lines(found))
        return
    if not found.ranks.empty:
        title = f"mean ranks in {found.n_blocks} block{'s' * (found.n_blocks > 1)} (1 is best)"
        print_texts(title, ranks_texts(found), 2, same=["blocks"])
        _print_lines(["[ ]: 95 % interval over blocks"] * bool(found.ranks["low"].notna().any()))
    _print_lines(unranked_lines(found))
    head, *rows = tests_texts(found)
    for metric in dict.fromkeys(row[0] for row in rows):
        own = [head[1:], *(row[1:] for row in rows if row[0] == metric)]
        print_texts(f"paired differences from {found.baseline}: {metric}", own, 3, same=["blocks", "over"])
    _print_lines(untested_lines(found))


def _print_lines(lines: Sequence[str]) -> None:
    """Print lines, none of them wider than the terminal."""
    for line in lines:
        print(textwrap.fill(line, terminal_width(), subsequent_indent="  "))
    if lines:
        print()


def legend(found: Comparison) -> list[str]:
    """Return what the signs in the table of means stand for; those that are not in it are left out."""
    over, lines = set(found.means["over"]), []
    if "runs" in over:
        lines.append("±: half of the 95 % interval over the runs of a group (Student's t)")
    if "members" in over:
        lines.append("[ ]: 95 % interval over the models of a single run")
    if found.means["floor"].notna().to_numpy().any():
        lines.append("floor: the same of an independent ensemble of retrained models")
    return lines


def unranked_lines(found: Comparison) -> list[str]:
    """Return a line for each reason why methods have no rank."""
    reasons: dict[str, list[str]] = {}
    for method, reason in found.unranked.items():
        reasons.setdefault(reason, []).append(method)
    return [f"not ranked: {', '.join(names)} ({reason})" for reason, names in reasons.items()]


def untested_lines(found: Comparison) -> list[str]:
    """Return a line for each reason why methods were not tested against the baseline."""
    return [f"not tested: {methods} on {metrics} ({reason})" for methods, metrics, reason in found.untested]


def comparison_markdown(found: Comparison) -> str:
    """Return means, ranks and tests as GitHub tables, each with the rule that reads it."""
    tables = [("Means", means_texts(found), MEANS_RULE, [])]
    if not found.ranks.empty:
        tables.append(("Ranks", ranks_texts(found), RANKS_RULE, unranked_lines(found)))
    if not found.tests.empty:
        tables.append((f"Differences from {found.baseline}", tests_texts(found), TESTS_RULE, untested_lines(found)))
    return "\n".join(
        f"## {title}\n\n{rule}\n\n{markdown_table(rows)}" + "".join(f"\n{line}\n" for line in lines)
        for title, rows, rule, lines in tables
    )


def comparison_latex(found: Comparison) -> str:
    """Return the means as a LaTeX table; within each block of equal other columns the best method is bold."""
    rows, marks = means_texts(found), {}
    outer = [name for name in found.by if name != "method"]
    places = {group: place + 1 for place, (group, _) in enumerate(_by(found.means, list(found.by)))}
    for metric, part in found.means.groupby("metric", sort=False):
        column = rows[0].index(" ".join((str(metric), found.metrics[str(metric)])))
        for _, block in _by(part, outer) if outer else [((), part)]:
            keys = [tuple(row[name] for name in found.by) for row in _dicts(block)]
            lower = found.metrics[str(metric)] == "↓"
            for place, mark in best_two(block["mean"].tolist(), lower=lower).items():
                marks[places[keys[place]], column] = mark
    return latex_table(rows, f"Means. {MEANS_RULE}", marks=marks, words=len(found.by))


def means_texts(found: Comparison) -> list[list[str]]:
    """Return the means as text, head first: a row a group; a column a metric, and one for its floor if it has one."""
    known = found.means.dropna(subset="floor")["metric"].unique()
    columns = [[" ".join(named), *["floor"] * (named[0] in known)] for named in found.metrics.items()]
    rows = [[*found.by, "runs", *(word for words in columns for word in words)]]
    for group, part in _by(found.means, list(found.by)):
        cells = [[_mean(row), *[number(row["floor"], ".3f")] * (row["metric"] in known)] for row in _dicts(part)]
        rows.append([*map(_word, group), str(part["runs"].max()), *(text for texts in cells for text in texts)])
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
        texts = [f"{row['metric']} {found.metrics[row['metric']]}", row["method"], str(row["blocks"]), row["over"]]
        interval = _interval(row, "+.4f").strip() or MISSING
        rows.append(
            [*texts, number(row["difference"], "+.4f"), interval, _probability(row["p"]), _probability(row["p_holm"])]
        )
    return rows


def _interval(row: dict[Any, Any], form: str = ".3f") -> str:
    """Return the interval in brackets, after a space; nothing where there is none."""
    ends = [f"{end:{form}}" if abs(end) < 1e5 else f"{end:.1e}" for end in (row["low"], row["high"])]
    return f" [{', '.join(ends)}]" if math.isfinite(row["low"]) else ""


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
