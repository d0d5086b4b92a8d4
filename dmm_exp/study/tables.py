"""Tables of runs repeated over seeds: the numbers, and the texts for terminals, documents and pages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from dmm_exp.compare.statistics import Estimate
from dmm_exp.console.latex import best_two, latex_table
from dmm_exp.console.tables import markdown_table, print_table, text_table
from dmm_exp.metrics import better
from dmm_exp.metrics.tow import GROUPS

WORDS = {
    "tow": "ToW",
    "tow_mia": "ToW-MIA",
    "tow_floor": "ToW of independent retraining",
    "tow_mia_floor": "ToW-MIA of independent retraining",
    "lds": "LDS (mean over all groups)",
    **{f"lds/{group}": f"LDS on {group} points" for group in GROUPS},
    "cost/ratio": "cost of unlearning ÷ cost of retraining",
    "cost/shared": "cost of what requests share (retrainings)",
    "cost/own": "cost of models for one request alone (retrainings)",
    "cost/shared_per_request": "cost of further models for one request (retrainings)",
    "cost/attribution": "cost of attribution (gradients of single examples)",
    **{f"klom/{group}/p95": f"P95 KLoM of {group} points (nats)" for group in GROUPS},
    **{f"effect/r2/{group}": f"R² of the effect on {group} points" for group in GROUPS},
}
RULE = (
    "Every number is the mean over seeds, each with its own originals, oracles, pool and scores, with the half-width "
    "of its 95 % interval (Student's t). Differences are between columns of one row, paired by seed."
)


@dataclass(frozen=True)
class Record:
    """What came of one run.

    Attributes:
        table: the table that it belongs to.
        row: its row.
        column: its column.
        seed: its seed.
        metrics: the content of ``metrics.json``.
        error: what was said of a run that failed; None for one that ended well.
    """

    table: str
    row: str
    column: str
    seed: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def status(self) -> str:
        """Return ``"done"`` or ``"failed"``."""
        return "done" if self.error is None else "failed"


@dataclass(frozen=True)
class View:
    """One metric of one table.

    Attributes:
        table: the table's name.
        metric: what is shown of its runs.
        caption: what there is to see.
        differences: whether differences between columns are shown, too.
        alone: whether it is the only view of its table, which then is all its name says.
    """

    table: str
    metric: str
    caption: str = ""
    differences: bool = True
    alone: bool = True

    @property
    def name(self) -> str:
        """What the view's files are called."""
        return self.table if self.alone else f"{self.table}_{self.metric.replace('/', '_')}"

    @property
    def title(self) -> str:
        """What the view's figure is called."""
        return f"{word_of(self.metric)} by {self.table}".replace("_", " ")


def tidy(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row a run: ``table``, ``row``, ``column``, ``seed``, ``status``, and every metric."""
    leading = ("table", "row", "column", "seed", "status")
    return pd.DataFrame([{name: getattr(one, name) for name in leading} | dict(one.metrics) for one in records])


def values_of(records: Sequence[Record], table: str, metric: str) -> pd.DataFrame:
    """Return a metric of one table: a row for each (row, seed), a column for each column, in order of appearance."""
    frame = tidy([record for record in records if record.table == table])
    if metric not in frame:
        frame[metric] = math.nan
    wide = pd.DataFrame(frame.set_index(["row", "seed", "column"])[metric].unstack())
    seeds = dict.fromkeys(frame["seed"])
    rows = [(row, seed) for row in dict.fromkeys(frame["row"]) for seed in seeds]
    return wide.reindex(index=pd.MultiIndex.from_tuples(rows, names=["row", "seed"]), columns=frame["column"].unique())


def estimates(wide: pd.DataFrame) -> dict[str, dict[str, Estimate]]:
    """Return the estimate of every column of every row."""
    rows = dict.fromkeys(wide.index.get_level_values("row"))
    return {
        str(row): {str(column): Estimate.of(wide.loc[row, column].to_numpy(float)) for column in wide} for row in rows
    }


def differences(wide: pd.DataFrame) -> dict[str, dict[str, Estimate]]:
    """Return, for every row, each later column minus the one before it, and the last minus the first, by seed."""
    names = list(wide.columns)
    pairs = [*itertools.pairwise(names)]
    pairs += [(names[0], names[-1])] if len(names) > 2 else []
    rows = dict.fromkeys(wide.index.get_level_values("row"))
    return {
        str(row): {
            f"{after} − {before}": Estimate.of((wide.loc[row, after] - wide.loc[row, before]).to_numpy(float))
            for before, after in pairs
        }
        for row in rows
    }


def summary(records: Sequence[Record], views: Sequence[View]) -> pd.DataFrame:
    """Return every estimate and difference.

    Columns: ``metric``, ``table``, ``row``, ``column``, ``mean`` and ``half``, the half-width of the interval.
    """
    rows = []
    for view in views:
        wide = values_of(records, view.table, view.metric)
        for found in (estimates(wide), differences(wide)):
            for row, values in found.items():
                rows += [(view.metric, view.table, row, column, one.mean, one.half) for column, one in values.items()]
    return pd.DataFrame(rows, columns=["metric", "table", "row", "column", "mean", "half"])


def texts(records: Sequence[Record], view: View) -> list[list[str]]:
    """Return a view as text, its head first: estimates, then differences."""
    wide = values_of(records, view.table, view.metric)
    means = estimates(wide)
    changes = differences(wide) if view.differences else {row: {} for row in means}
    first = next(iter(means))
    head = ["", *means[first], *changes[first]]
    return [head, *([row, *map(str, [*means[row].values(), *changes[row].values()])] for row in means)]


def print_study(records: Sequence[Record], views: Sequence[View], claims: Sequence[Sequence[str]] = ()) -> None:
    """Print every view on standard output, verdicts on claims, and what failed below."""
    for view in views:
        print_table(text_table(view.title, texts(records, view)))
    if claims:
        print_table(text_table("claims", claims, words=len(claims[0])))
    for gap in gaps(records):
        print(gap)


def gaps(records: Sequence[Record]) -> list[str]:
    """Return a line for each run that failed."""
    return [
        f"{one.table}: {one.row}, {one.column}, seed {one.seed}: {one.error}"
        for one in records
        if one.error is not None
    ]


def markdown(
    records: Sequence[Record],
    title: str,
    views: Sequence[View],
    command: str,
    claims: Sequence[Sequence[str]] = (),
    claim_rule: str = "",
) -> str:
    """Return verdicts on claims and every view as GitHub tables, and what failed below."""
    parts = [f"# {title}", f"`{command}`", RULE]
    parts += ["## Claims", claim_rule, markdown_table(claims).rstrip()] if claims else []
    for view in views:
        parts += [f"## {view.title}", view.caption, markdown_table(texts(records, view)).rstrip()]
    missing = gaps(records)
    parts += ["Missing:\n\n" + "\n".join(f"- {gap}" for gap in missing)] if missing else []
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(records: Sequence[Record], views: Sequence[View]) -> str:
    """Return every view as a LaTeX table, without differences; the best row of each column is bold."""
    parts = []
    for view in views:
        means, way = estimates(values_of(records, view.table, view.metric)), better(view.metric)
        head = list(next(iter(means.values())))
        rows = [["", *head], *([row, *map(str, found.values())] for row, found in means.items())]
        marks = {
            (place + 1, column + 1): mark
            for column, name in enumerate(head)
            for place, mark in best_two([found[name].mean for found in means.values()], lower=way == "lower").items()
            if way is not None
        }
        caption = f"{word_of(view.metric)}. {view.caption} {RULE}"
        parts.append(latex_table(rows, " ".join(caption.split()), marks=marks))
    return "\n".join(parts)


def word_of(metric: str) -> str:
    """Return a metric's name as people write it."""
    return WORDS.get(metric, metric)
