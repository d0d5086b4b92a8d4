"""Tables of runs repeated over seeds: the numbers, and the texts for terminals, documents and pages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from dmm_exp.compare.cautions import few_models
from dmm_exp.compare.names import FLOOR_ROW
from dmm_exp.compare.statistics import Estimate
from dmm_exp.console.latex import best_two, latex_table
from dmm_exp.console.tables import markdown_table, print_table, text_table
from dmm_exp.metrics.better import better, floor_name
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
MEAN_RULE = "Every number is the mean over seeds, each with its own originals, oracles, pool and scores"
HALF_RULE = ", ± half of its 95 % interval (Student's t)"
ONE_RULE = "Every number is that of one seed."
FLOOR_RULE = "Floor: what an independent ensemble of retrained models has, mean over the rows of the table."
DIFFERENCES_RULE = "Differences are between columns of one row, paired by seed."
MARKS_RULE = "The best of a column is bold, the second underlined."


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
        reference: its unlearner, where that marks an end of the scale and is no method; empty otherwise.
        n_models: models in each of its ensembles; None where it is not known.
    """

    table: str
    row: str
    column: str
    seed: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    reference: str = ""
    n_models: int | None = None

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


def floors_of(records: Sequence[Record], table: str, metric: str) -> pd.DataFrame:
    """Return a metric of independent retraining: a row for each seed, the mean over the rows of one table.

    Returns:
        As ``values_of``, with ``FLOOR_ROW`` for a row; empty where no run of the table has a floor.
    """
    wide = values_of(records, table, floor_name(metric))
    means = pd.DataFrame(wide.groupby(level="seed", sort=False).mean())
    means.index = pd.MultiIndex.from_product([[FLOOR_ROW], means.index], names=wide.index.names)
    return means.loc[[bool(means.notna().to_numpy().any())] * len(means)]


def shown_values(records: Sequence[Record], view: View) -> pd.DataFrame:
    """Return what a view shows, as ``values_of``: its floor, where there is one, above all rows."""
    values = values_of(records, view.table, view.metric)
    floors = floors_of(records, view.table, view.metric)
    return pd.DataFrame(pd.concat([floors, values])) if len(floors) else values


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
    """Return every estimate and difference, of floors too.

    Columns: ``metric``, ``table``, ``row``, ``column``, ``mean`` and ``half``, the half-width of the interval.
    """
    rows = []
    for view in views:
        wide = shown_values(records, view)
        for found in (estimates(wide), differences(wide)):
            for row, values in found.items():
                rows += [(view.metric, view.table, row, column, one.mean, one.half) for column, one in values.items()]
    return pd.DataFrame(rows, columns=["metric", "table", "row", "column", "mean", "half"])


def texts(records: Sequence[Record], view: View) -> list[list[str]]:
    """Return a view as text, its head first: estimates, then differences; the floor is above all other rows."""
    wide = shown_values(records, view)
    means = estimates(wide)
    changes = differences(wide) if view.differences else {row: {} for row in means}
    first = next(iter(means))
    head = ["", *means[first], *changes[first]]
    return [head, *([row, *map(str, [*means[row].values(), *changes[row].values()])] for row in means)]


def print_study(records: Sequence[Record], views: Sequence[View], claims: Sequence[Sequence[str]] = ()) -> None:
    """Print every view on standard output, verdicts on claims, and warnings and what failed below."""
    for view in views:
        print_table(text_table(view.title, texts(records, view)))
    if claims:
        print_table(text_table("claims", claims, words=len(claims[0])))
    for line in (*warnings(records, views), *gaps(records)):
        print(line)


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
    parts = [f"# {title}", f"`{command}`", *(f"**Warning.** {one}" for one in warnings(records, views))]
    parts.append(" ".join(rules(records, views)))
    parts += ["## Claims", claim_rule, markdown_table(claims).rstrip()] if claims else []
    for view in views:
        parts += [f"## {view.title}", view.caption, markdown_table(texts(records, view)).rstrip()]
    missing = gaps(records)
    parts += ["Missing:\n\n" + "\n".join(f"- {gap}" for gap in missing)] if missing else []
    return "\n\n".join(part for part in parts if part) + "\n"


def rules(records: Sequence[Record], views: Sequence[View], *, with_differences: bool = True) -> list[str]:
    """Return sentences that explain what the tables of some views have, and nothing that they lack.

    Args:
        records: what came of the runs.
        views: whose tables they are.
        with_differences: whether the tables have differences where their views ask for them.
    """
    values = [shown_values(records, view) for view in views]
    found = [one for wide in values for row in estimates(wide).values() for one in row.values()]
    half = any(math.isfinite(one.half) for one in found)
    lines = [f"{MEAN_RULE}{HALF_RULE * half}."] if len({one.seed for one in records}) > 1 else [ONE_RULE]
    lines += [FLOOR_RULE] * any(FLOOR_ROW in wide.index for wide in values)
    several = any(view.differences and wide.shape[1] > 1 for view, wide in zip(views, values, strict=True))
    return lines + [DIFFERENCES_RULE] * (with_differences and several)


def warnings(records: Sequence[Record], views: Sequence[View]) -> list[str]:
    """Return what to beware of: ensembles that are too small for the KLoM that is shown."""
    if not any("klom" in view.metric for view in views):
        return []
    floors = {one.metrics.get(floor_name("klom/forget/p95"), math.nan) for one in records}
    return few_models((one.n_models for one in records), floors)


def latex(records: Sequence[Record], views: Sequence[View]) -> str:
    """Return every view as a LaTeX table, without differences.

    The best row of each column is bold, the second underlined; floors and references are neither.
    """
    return "\n".join(_latex(records, view) for view in views)


def _latex(records: Sequence[Record], view: View) -> str:
    means = estimates(shown_values(records, view))
    head = list(next(iter(means.values())))
    rows = [["", *head], *([row, *map(str, found.values())] for row, found in means.items())]
    aside = {name: _aside(records, view.table, name) for name in head}
    marks = {
        (place + 1, column + 1): mark
        for column, name in enumerate(head)
        for place, mark in _best(means, name, aside[name], better(view.metric)).items()
    }
    names = sorted({reference for one in aside.values() for reference in one.values()})
    said = [*rules(records, [view], with_differences=False), *[MARKS_RULE] * bool(marks)]
    said += [f"References ({', '.join(names)}) are neither."] * bool(marks and names)
    caption = " ".join([f"{word_of(view.metric)}.", view.caption, *said])
    ends = {1} if FLOOR_ROW in means else set()
    return latex_table(rows, " ".join(caption.split()), marks=marks, ends=ends)


def _aside(records: Sequence[Record], table: str, column: str) -> dict[str, str]:
    """Return the rows of a column that are references, and which.

    Where all its rows are one and the same, what they compare is something else, and none stands aside.
    """
    own = {one.row: one.reference for one in records if (one.table, one.column) == (table, column)}
    return {row: name for row, name in own.items() if name} if len(set(own.values())) > 1 else {}


def _best(
    means: Mapping[str, Mapping[str, Estimate]], column: str, aside: Collection[str], way: str | None
) -> dict[int, str]:
    """Return the marks of one column by row; floors and rows that stand aside have none."""
    if way is None:
        return {}
    left_out = {FLOOR_ROW, *aside}
    values = [math.nan if row in left_out else found[column].mean for row, found in means.items()]
    return best_two(values, lower=way == "lower")


def word_of(metric: str) -> str:
    """Return a metric's name as people write it."""
    return WORDS.get(metric, metric)
