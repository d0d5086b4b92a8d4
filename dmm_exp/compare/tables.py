"""Many runs side by side, for the terminal: means over repetitions, ranks, paired tests."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dmm_exp.compare.cautions import few_models
from dmm_exp.console.tables import markdown_table, print_texts
from dmm_exp.console.terminal import terminal_width
from dmm_exp.console.words import MISSING, number

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = "a reference"  # why a method has no rank

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
        metrics: the names shown, each with an arrow towards the better: "↓" or "↑", empty where neither end is better.
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
        floors: one row a group of runs that differ in method alone and a metric with a floor: the other columns of
            ``by``, ``metric``, ``mean``, ``low``, ``high``, ``over`` (as in ``means``) of independent retraining.
        n_models: models in each ensemble, of every run.
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
    floors: pd.DataFrame | None = None
    n_models: Sequence[int | None] = ()

    @property
    def references(self) -> set[str]:
        """The methods that take no part in a ranking because they mark an end of the scale."""
        return {method for method, reason in self.unranked.items() if reason == REFERENCE}

    @property
    def warnings(self) -> list[str]:
        """What to beware of: ensembles that are too small for the KLoM that is shown."""
        klom = any("klom" in metric for metric in self.metrics)
        of_forget = self.means.loc[(self.means["metric"] == "klom/forget/p95").to_numpy(), "floor"]
        return few_models(self.n_models, of_forget.unique()) if klom else []


def print_comparison(found: Comparison) -> None:
    """Print means, ranks and tests on standard output, each with what its signs mean, as wide as the terminal."""
    print_texts("means", means_texts(found), len(found.by) + 1, same=[*found.by, "runs"], keep="method")
    _print_lines(legend(found))
    _print_lines(found.warnings)
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
    tables = [("Means", means_texts(found), len(found.by), MEANS_RULE, [])]
    if not found.ranks.empty:
        tables.append(("Ranks", ranks_texts(found), 1, RANKS_RULE, unranked_lines(found)))
    if not found.tests.empty:
        rows, title = tests_texts(found), f"Differences from {found.baseline}"
        tables.append((title, rows, 3, TESTS_RULE, untested_lines(found)))
    warnings = "".join(f"**Warning.** {line}\n\n" for line in found.warnings)
    return warnings + "\n".join(
        f"## {title}\n\n{rule}\n\n{markdown_table(rows, words)}" + "".join(f"\n{line}\n" for line in lines)
        for title, rows, words, rule, lines in tables
    )


def means_texts(found: Comparison) -> list[list[str]]:
    """Return the means as text, head first: a row a group; a column a metric, and one for its floor if it has one."""
    known = found.means.dropna(subset="floor")["metric"].unique()
    columns = [[" ".join(named).rstrip(), *["floor"] * (named[0] in known)] for named in found.metrics.items()]
    rows = [[*found.by, "runs", *(word for words in columns for word in words)]]
    for group, part in by_keys(found.means, list(found.by)):
        cells = [[mean_text(row), *[number(row["floor"], ".3f")] * (row["metric"] in known)] for row in dicts(part)]
        rows.append([*map(word, group), str(part["runs"].max()), *(text for texts in cells for text in texts)])
    return rows


def mean_text(row: Mapping[Any, Any]) -> str:
    """Return a mean with what it has of an interval: after ±, or in brackets."""
    middle = number(row["mean"], ".3f")
    if row["over"] == "runs":
        return f"{middle} ± {row['high'] - row['mean']:.3f}"
    return middle + _interval(row)


def ranks_texts(found: Comparison) -> list[list[str]]:
    """Return the mean ranks as text, head first: a row a method, a column a metric."""
    metrics = list(dict.fromkeys(found.ranks["metric"]))
    rows = [["method", "blocks", *metrics]]
    for (method,), part in by_keys(found.ranks, ["method"]):
        cells = [number(row["rank"]) + _interval(row, ".2f") for row in dicts(part)]
        rows.append([str(method), str(part["blocks"].max()), *cells])
    return rows


def tests_texts(found: Comparison) -> list[list[str]]:
    """Return the paired tests as text, head first: a row a metric and method."""
    rows = [["metric", "method", "over", "blocks", "difference", "95 % interval", "p", "p (Holm)"]]
    for row in dicts(found.tests):
        texts = [
            f"{row['metric']} {found.metrics[row['metric']]}".rstrip(),
            row["method"],
            row["over"],
            str(row["blocks"]),
        ]
        interval = _interval(row, "+.4f").strip() or MISSING
        rows.append(
            [*texts, number(row["difference"], "+.4f"), interval, _probability(row["p"]), _probability(row["p_holm"])]
        )
    return rows


def _interval(row: Mapping[Any, Any], form: str = ".3f") -> str:
    """Return the interval in brackets, after a space; nothing where there is none."""
    ends = [f"{end:{form}}" if abs(end) < 1e5 else f"{end:.1e}" for end in (row["low"], row["high"])]
    return f" [{', '.join(ends)}]" if math.isfinite(row["low"]) else ""


def _probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value, ".3f")


def word(value: Any) -> str:
    """Return what a column of words has; a dash where it has nothing."""
    return MISSING if value is None or value != value else str(value)


def by_keys(frame: pd.DataFrame, keys: list[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Return the parts of a frame that share keys, in order of appearance."""
    groups: Any = frame.groupby(keys, sort=False, dropna=False) if keys else [((), frame)]
    return [(key, part) for key, part in groups]


def dicts(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return the rows of a frame, each by column."""
    return frame.to_dict("records")
