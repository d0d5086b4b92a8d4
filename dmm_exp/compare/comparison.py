"""From runs to means, ranks and paired tests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmm_exp.compare.labels import METHOD, SETTING, is_reference, listed, method_of, newest, telling_keys, text
from dmm_exp.compare.runs import DRAWS, METHOD_GROUPS, Run
from dmm_exp.compare.statistics import (
    Difference,
    Estimate,
    differences_over_blocks,
    holm,
    mean_rank_intervals,
    paired_bootstrap,
    ranks,
)
from dmm_exp.compare.tables import REFERENCE, Comparison
from dmm_exp.errors import UserError, did_you_mean
from dmm_exp.metrics.better import better, floor_name

METRICS = ("klom/forget/p95", "klom/retain/p95", "klom/val/p95", "tow", "cost/ratio", "cost/shared")
ALL = "all"
_ARROWS = {"lower": "↓", "higher": "↑", None: ""}


def compare(
    runs: Sequence[Run], metrics: Sequence[str] = (), by: Sequence[str] = (), baseline: str | None = None
) -> tuple[Comparison, list[str]]:
    """Compare finished runs.

    Args:
        runs: at least one.
        metrics: names to show; those of ``METRICS`` that there are, if empty.
        by: what means are grouped by, choices or configuration keys; everything but repetitions, if empty.
        baseline: method that the others are tested against; the one with the best mean rank, if None.

    Returns:
        The comparison, and a line for each run left out because a newer one is the same.

    Raises:
        UserError: a metric, a key or the baseline is one that no run has.
    """
    own = telling_keys(runs)
    telling = list(dict.fromkeys(key for keys in own for key in keys))
    methods = {run.folder: method_of(run, keys) for run, keys in zip(runs, own, strict=True)}
    kept, left_out = newest(runs, list(methods.values()))
    shown = _known_metrics(kept, metrics)
    table = _table(kept, [methods[run.folder] for run in kept], telling, by)
    keys = list(by) or [*SETTING, *(key for key in telling if key.partition(".")[0] not in METHOD_GROUPS), METHOD]
    if baseline is not None and baseline not in set(table[METHOD]):
        hint = did_you_mean(baseline, set(table[METHOD]))
        raise UserError(f"--baseline '{baseline}' is no method here; expected one of {listed(table[METHOD])}{hint}")
    table = table.sort_values(list(dict.fromkeys([*keys, METHOD, "block"])), key=_sortable, ignore_index=True)
    unranked = _unranked(table, {methods[run.folder] for run in kept if is_reference(run)})
    ranking = _ranking(table.loc[[method not in unranked for method in table[METHOD]], :], shown)
    sizes = Counter(table["block"])
    candidates = [*_methods(ranking), *(method for method in _methods(table) if method not in unranked), ""]
    chosen = (baseline or candidates[0]) if max(sizes.values()) > 1 else ""
    tests = _tests(table, {str(run.folder): run for run in kept}, shown, chosen)
    return Comparison(
        runs=table,
        by=keys,
        metrics={metric: _ARROWS[better(metric)] for metric in shown},
        means=_means(table, keys, shown),
        floors=_floors(table, [key for key in keys if key != METHOD], shown),
        ranks=ranking,
        tests=tests,
        n_blocks=len(sizes),
        baseline=chosen,
        unranked=unranked,
        untested=_untested(tests, _methods(table), shown, chosen),
        n_models=[run.settings.get("n_models") for run in kept],
    ), left_out


def _known_metrics(runs: Sequence[Run], wanted: Sequence[str]) -> list[str]:
    known = sorted({name for run in runs for name in run.metrics})
    for name in wanted:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(f"--metric '{name}' is in no run; expected a name of metrics.json such as tow{hint}")
    shown = list(dict.fromkeys(wanted)) or [name for name in METRICS if name in known]
    if not shown:
        raise UserError(f"--metric is needed: no run has any of {', '.join(METRICS)}; they have {listed(known)}")
    return shown


def _table(runs: Sequence[Run], methods: Sequence[str], telling: Sequence[str], by: Sequence[str]) -> pd.DataFrame:
    """Return one row a run: names, choices, keys that tell runs apart or are asked for, draws, and all metrics."""
    known = {METHOD, *(key for run in runs for key in run.facts)}
    for key in by:
        if key not in known:
            raise UserError(
                f"--by '{key}' is unknown; expected method, a group such as forget, or a configuration key of these "
                f"runs such as pool.size{did_you_mean(key, sorted(known))}"
            )
    choices = dict.fromkeys(name for run in runs for name in run.choices)
    keys = [key for key in dict.fromkeys([*choices, *telling, *by, *DRAWS]) if key in known and key != METHOD]
    columns: dict[str, list[Any]] = {
        "name": [run.folder.name for run in runs],
        "folder": [str(run.folder) for run in runs],
    }
    columns |= {METHOD: list(methods), "block": [run.block[:10] for run in runs]}
    columns |= {key: _plain([run.facts.get(key) for run in runs]) for key in keys}
    names = sorted({name for run in runs for name in run.metrics})
    columns |= {name: [run.metrics.get(name, math.nan) for run in runs] for name in names}
    return pd.DataFrame(columns)


def _plain(values: list[Any]) -> list[Any]:
    """Keep numbers, and make text of everything else; what is absent stays absent."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return values
    return [None if value is None else text(value) for value in values]


def _sortable(column: pd.Series) -> pd.Series:
    """Return what a column is sorted by: numbers by size, all else by its text."""
    return column if pd.api.types.is_numeric_dtype(column) else column.astype(str)


def _means(table: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Return one row a group and metric."""
    groups: Any = table.groupby(list(by), sort=False, dropna=False)
    rows = [
        {**dict(zip(by, key, strict=True)), "metric": metric, "runs": len(part), **_mean(part, metric)}
        | {"floor": float(part[floor].mean()) if (floor := floor_name(metric)) in part else math.nan}
        for key, part in groups
        for metric in metrics
    ]
    return pd.DataFrame(rows)


def _mean(part: pd.DataFrame, metric: str) -> dict[str, float | str]:
    """Return the mean with its interval over runs or, of a single run, over its members."""
    found = Estimate.of(part[metric].to_numpy(float))
    if math.isfinite(found.half):
        return {"mean": found.mean, "low": found.low, "high": found.high, "over": "runs"}
    low, high = (part[name].iloc[0] if name in part else math.nan for name in (f"{metric}_low", f"{metric}_high"))
    own = len(part) == 1 and math.isfinite(low) and math.isfinite(high)
    return {"mean": found.mean, **({"low": low, "high": high, "over": "members"} if own else _NO_INTERVAL)}


def _floors(table: pd.DataFrame, outer: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Return one row a group of runs that differ in method alone and a metric: what independent retraining has there.

    The runs of one block share their floor, so each block counts once.
    """
    found = [(metric, floor_name(metric)) for metric in metrics if floor_name(metric) in table]
    groups: Any = table.groupby(list(outer), sort=False, dropna=False) if outer else [((), table)]
    rows = [
        {**dict(zip(outer, key, strict=True)), "metric": metric, **_mean(_by_block_once(part), floor)}
        for key, part in groups
        for metric, floor in found
    ]
    return pd.DataFrame(rows, columns=pd.Index([*outer, "metric", "mean", "low", "high", "over"]))


def _by_block_once(part: pd.DataFrame) -> pd.DataFrame:
    blocks: Any = part.groupby("block", sort=False)
    return blocks.mean(numeric_only=True)


_NO_INTERVAL = {"low": math.nan, "high": math.nan, "over": ""}


def _unranked(table: pd.DataFrame, references: Collection[str]) -> dict[str, str]:
    """Return the methods that are not ranked, each with the reason: references, and those in few of all blocks."""
    blocks, counts = len(set(table["block"])), Counter(table[METHOD])  # a method has one run in a block
    few = {
        method: f"in {counts[method]} of {blocks} blocks" for method in _methods(table) if 2 * counts[method] < blocks
    }
    return few | {method: REFERENCE for method in _methods(table) if method in references}


def _untested(
    tests: pd.DataFrame, methods: Sequence[str], metrics: Sequence[str], baseline: str
) -> list[tuple[str, str, str]]:
    """Return methods, metrics and the reason, for all that were not tested against the baseline."""
    if not baseline:
        return []
    lacking: dict[tuple[str, str], list[str]] = {}
    for method in (method for method in methods if method != baseline):
        reasons = {metric: _reason(tests, method, metric, baseline) for metric in metrics}
        for reason in dict.fromkeys(filter(None, reasons.values())):
            found = [metric for metric in metrics if reasons[metric] == reason]
            lacking.setdefault((", ".join(found) if len(found) < len(metrics) else "every metric", reason), []).append(
                method
            )
    return [(", ".join(names), metric, reason) for (metric, reason), names in lacking.items()]


def _reason(tests: pd.DataFrame, method: str, metric: str, baseline: str) -> str:
    """Return why a method was not tested on a metric; nothing where it was."""
    of_both = ((tests[METHOD] == method) & (tests["metric"] == metric)).to_numpy()
    found = tests.loc[of_both].to_dict("records")
    if not found:
        return f"no block where it and {baseline} have a value"
    if math.isfinite(found[0]["p"]):
        return ""
    if found[0]["blocks"] == 1:
        return f"one block with {baseline}; without values by member it takes two"
    return "all differences are the same"


def _ranking(table: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return mean ranks with their intervals, the best method first."""
    columns = pd.Index([METHOD, "metric", "blocks", "rank", "low", "high"])
    if table.empty:
        return pd.DataFrame(columns=columns)
    ranked = [metric for metric in metrics if better(metric) is not None]
    blocks = {metric: ranks(_wide(table, metric), lower=better(metric) == "lower") for metric in ranked}
    counted = [metric for metric in ranked if not metric.startswith("cost")] or ranked
    nothing = np.full(_wide(table, "block").shape, math.nan)
    overall = np.mean([blocks[metric] for metric in counted], axis=0) if counted else nothing
    found = {metric: _mean_ranks(values) for metric, values in {**blocks, ALL: overall}.items()}
    means = found[ALL][1]
    methods = _methods(table)
    places = [place for place in range(len(methods)) if any(part[0][place] for part in found.values())]
    places.sort(key=lambda place: np.nan_to_num(means[place], nan=math.inf))
    rows = [
        (methods[place], metric, int(part[0][place]), *(float(values[place]) for values in part[1:]))
        for place in places
        for metric, part in found.items()
    ]
    return pd.DataFrame(rows, columns=columns)


def _mean_ranks(found: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Return in how many blocks each method has a rank, its mean, and the ends of its interval: ``[methods]`` each."""
    known = np.isfinite(found)
    counts = known.sum(0)
    sums = np.where(known, found, 0.0).sum(0)
    means = np.divide(sums, counts, out=np.full(len(counts), math.nan), where=counts > 0)
    return (counts, means, *mean_rank_intervals(found))


def _methods(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table[METHOD]))


def _wide(table: pd.DataFrame, column: str) -> NDArray[Any]:
    """Return a column as ``[blocks, methods]``, NaN where there is no run."""
    wide = table.pivot(index="block", columns=METHOD, values=column)
    return wide.reindex(columns=_methods(table)).to_numpy()


def _tests(table: pd.DataFrame, runs: dict[str, Run], metrics: Sequence[str], baseline: str) -> pd.DataFrame:
    """Return the difference of every method from the baseline, in every metric."""
    others = [method for method in _methods(table) if method != baseline]
    rows: list[dict[str, float | str]] = []
    for metric in metrics if baseline else ():
        by_member = _by_member(table, runs, metric, baseline, others)
        for over, found, blocks in (by_member, _by_block(table, metric, baseline, others)):
            done = {row[METHOD] for row in rows if row["metric"] == metric}
            rows += [
                {"metric": metric, METHOD: method, "baseline": baseline, "blocks": int(blocks[place]), "over": over}
                | {"difference": found.mean[place], "low": found.low[place], "high": found.high[place]}
                | {"p": found.p[place]}
                for place, method in enumerate(others)
                if blocks[place] and method not in done
            ]
    columns = ["metric", METHOD, "baseline", "blocks", "over", "difference", "low", "high", "p", "p_holm"]
    frame = pd.DataFrame(rows, columns=pd.Index(columns))
    for metric in metrics:
        of_metric = frame["metric"] == metric
        frame.loc[of_metric, "p_holm"] = holm(frame.loc[of_metric, "p"].to_numpy(float))
    return frame


_Tested = tuple[str, Difference, NDArray[np.intp]]


def _by_block(table: pd.DataFrame, metric: str, baseline: str, others: Sequence[str]) -> _Tested:
    """Compare methods with the baseline by one value a block."""
    wide, places = _wide(table, metric), _methods(table)
    columns = wide[:, [places.index(method) for method in others]]
    found = columns - wide[:, [places.index(baseline)]]
    return "blocks", differences_over_blocks(found), np.isfinite(found).sum(0)


def _by_member(table: pd.DataFrame, runs: dict[str, Run], metric: str, baseline: str, others: Sequence[str]) -> _Tested:
    """Compare methods with the baseline by one value a member, where all their shared blocks have those."""
    folders, places = _wide(table, "folder"), _methods(table)
    differences, lacking = [], np.zeros(len(others), dtype=bool)
    counts = np.zeros(len(others), dtype=np.intp)
    for block in folders:
        first = block[places.index(baseline)]
        if not isinstance(first, str):
            continue
        seconds = [block[places.index(method)] for method in others]
        shared = np.array([isinstance(second, str) for second in seconds])
        found = [paired(runs[first], runs[s], metric) if isinstance(s, str) else None for s in seconds]
        lacking |= shared & np.array([values is None for values in found])
        counts += shared
        size = max((len(values) for values in found if values is not None), default=1)
        columns = [np.full(size, np.nan) if values is None else values for values in found]
        differences.append(np.stack(columns, axis=1) if columns else np.empty((size, 0)))
    empty = [np.full((1, len(others)), np.nan)]
    return "members", paired_bootstrap(differences or empty), np.where(lacking, 0, counts)


def paired(baseline: Run, other: Run, metric: str) -> NDArray[np.float64] | None:
    """Return ``other − baseline`` by member ``[members]``; None where a run lacks the values, or oracles differ."""
    first, second = baseline.members, other.members
    if first is None or second is None or metric not in first or metric not in second or len(first) != len(second):
        return None
    oracles = [name for name in first if name.startswith(("accuracy/oracle/", "mia/oracle"))]
    if not first[oracles].equals(second.reindex(columns=oracles)):
        return None
    return second[metric].to_numpy(float) - first[metric].to_numpy(float)
