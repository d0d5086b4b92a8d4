"""Many methods on many forget sets in one ranking: the numbers of a leaderboard."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from dmm_exp.compare import cautions
from dmm_exp.metrics.tow import GROUPS

KLOM = [f"klom/{group}/p95" for group in GROUPS]
SUM = [f"klom_sum/{group}/p95" for group in GROUPS]
FLOOR = [f"klom_floor/{group}/p95" for group in GROUPS]
ENDS = {name: (f"{name}_low", f"{name}_high") for name in KLOM}
FLOOR_SUM = [f"klom_sum_floor/{group}/p95" for group in GROUPS]
COST, FURTHER = "cost/ratio", ("cost/shared", "cost/own")
TOW_FLOOR = "tow_floor"
ALL_ENDS = [end for pair in ENDS.values() for end in pair]
MEASURES = ["rank", "score", *KLOM, *ALL_ENDS, *SUM, "tow", COST, *FURTHER]
"""What ``standing`` gives for every kind of forget set, in this order."""
NOT_APPLICABLE = "not applicable: "
_REFUSAL = re.compile(r"unlearner(=\S+)?: ")  # a sentence about a method itself, and not about one of its settings


@dataclass(frozen=True)
class Outcome:
    """What came of one method on one forget set.

    Attributes:
        method: a label that tells methods apart.
        kind: of the forget set.
        forget: the exact forget set in words (``random seed=1``).
        reference: whether the method takes no part in the ranking.
        metrics: the content of ``metrics.json``; any name may be absent.
        epochs: metrics by number of epochs, where the run measured them on its way; the last are ``metrics``.
        error: what was said of a run that failed; None for one that ended well. A sentence that begins with
            ``unlearner=NAME:`` or ``unlearner:`` says that the method does not apply to this forget set.
        n_models: models in each ensemble; None where it is not known.
    """

    method: str
    kind: str
    forget: str
    reference: bool
    metrics: Mapping[str, float] = field(default_factory=dict)
    epochs: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    error: str | None = None
    n_models: int | None = None


def score(metrics: Mapping[str, float]) -> float | None:
    """Return what methods are ranked by: the mean of P95 KLoM over forget, retain and validation points, in nats.

    Lower is better. ``None`` unless all three are there and finite.
    """
    values = [metrics.get(name, math.nan) for name in KLOM]
    return sum(values) / len(values) if all(map(math.isfinite, values)) else None


def standing(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Rank methods; returns one row a method: the ranked first, best first, then the unfinished, then references.

    On every forget set the methods that finished are ranked by ``score``, ties at their average rank. Everything is
    averaged over the draws of a kind of forget set, then over kinds. Columns:

    * ``reference``; ``mean_rank``; averages over kinds of ``score``, ``tow``, ``cost/ratio`` and :data:`FURTHER`;
    * ``KIND/rank``, ``KIND/score``, ``KIND/klom/forget/p95`` … for every kind and each of ``MEASURES``;
    * ``missing``: the forget sets without a score and why, ``""`` if there are none.

    Ranks are NaN for references, and wherever a method has no score on one of the forget sets averaged over; its other
    numbers are averages of what there is. Of several outcomes with one method and forget set the last counts.
    Raises ``ValueError`` without any.
    """
    found = grid(outcomes)
    by_kind = _mean(found, ["method", "kind"])
    overall = _mean(by_kind, ["method"])
    missing = {method: [] for method in overall.index}
    for row in unfinished(found):
        missing[row["method"]].append(f"{row['forget']}: {row['status']}")
    columns = {"reference": found.groupby("method", sort=False)["reference"].first(), "mean_rank": overall["rank"]}
    columns |= {name: overall[name] for name in ("score", "tow", COST, *FURTHER)}
    for kind in found["kind"].unique():
        columns |= {f"{kind}/{name}": by_kind.xs(kind, level="kind")[name] for name in MEASURES}
    table = pd.DataFrame({**columns, "missing": ["; ".join(gaps) for gaps in missing.values()]})
    return table.sort_values(["reference", "mean_rank", "score"])


def _mean(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Average measures within groups; a rank only if none is missing, as the easier part would flatter."""
    ranks = frame.groupby(by, sort=False)["rank"].agg(lambda ranks: ranks.mean(skipna=False))
    return averages(frame, by, MEASURES).assign(rank=ranks)


def averages(frame: pd.DataFrame, by: list[str], names: list[str]) -> pd.DataFrame:
    """Average columns within groups, which stay in order of appearance."""
    groups: Any = frame.groupby(by, sort=False)  # pandas' own annotations take the mean for a number
    return groups[names].mean()


def unfinished(found: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return the rows of a grid without a score."""
    return found.loc[found["status"] != "done"].to_dict("records")


def gaps(found: pd.DataFrame) -> list[str]:
    """Return one line for each method on a forget set of a grid that failed or was not run."""
    rows = [row for row in unfinished(found) if not row["status"].startswith(NOT_APPLICABLE)]
    return [f"{row['forget']}, {row['method']}: {row['status']}" for row in rows]


def refusals(found: pd.DataFrame) -> list[str]:
    """Return one line for each method of a grid that refused forget sets: which, and why it refused the first."""
    rows = [row for row in unfinished(found) if row["status"].startswith(NOT_APPLICABLE)]
    return [_refusal(method, [row for row in rows if row["method"] == method]) for method in _names(rows)]


def _names(rows: Sequence[Mapping[Any, Any]]) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in rows))


def _refusal(method: str, rows: Sequence[Mapping[Any, Any]]) -> str:
    """Return which forget sets a method refused, and its reason; where reasons differ, that for the first set."""
    reasons = [row["status"].removeprefix(NOT_APPLICABLE) for row in rows]
    which = " (for the first)" if len(set(reasons)) > 1 else ""
    return f"{method} on {', '.join(row['forget'] for row in rows)}{which}: {reasons[0]}"


def grid(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return one row for each method on each forget set, run or not, with its rank on this set."""
    found = tidy(outcomes)
    final = found.loc[found["final"]].drop_duplicates(["method", "kind", "forget"], keep="last")
    methods = final.groupby("method", sort=False)["reference"].any().reset_index()
    sets = final[["kind", "forget"]].drop_duplicates()
    known = final.drop(columns="reference")
    every = methods.merge(sets, how="cross").merge(known, "left", on=["method", "kind", "forget"])
    ranks = every[~every["reference"]].groupby(["kind", "forget"])["score"].rank()
    return every.fillna({"status": "not run"}).copy().assign(rank=ranks)  # a copy is one block, not a hundred


def tidy(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return one row a checkpoint of an outcome, with all metrics; ``final`` marks what counts in the ranking."""
    if not outcomes:
        raise ValueError("a leaderboard needs at least one outcome")
    rows = [row for outcome in outcomes for row in _rows(outcome)]
    leading = ["method", "reference", "kind", "forget", "status", "epoch", "final", "score"]
    always = [*KLOM, *ALL_ENDS, *SUM, *FLOOR, *FLOOR_SUM, "tow", TOW_FLOOR, COST, *FURTHER]
    names = sorted({name for row in rows for name in row}.difference(leading).union(always))
    numbers = np.array([[row.get(name, np.nan) for name in names] for row in rows], np.float64)
    frame = pd.DataFrame(rows, columns=pd.Index(leading)).astype({"epoch": np.float64, "score": np.float64})
    return frame.join(pd.DataFrame(numbers, columns=pd.Index(names)))


def _rows(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Yield one row for each checkpoint of an outcome; the last is its result."""
    shared = {"method": outcome.method, "reference": outcome.reference, "forget": outcome.forget}
    shared |= {"kind": outcome.kind, "status": _status(outcome)}
    steps = list(outcome.epochs.items())
    for epoch, metrics in steps[:-1]:
        yield {**shared, **metrics, "epoch": epoch, "final": False, "score": score(metrics)}
    last = steps[-1][0] if steps else None
    yield {**shared, **outcome.metrics, "epoch": last, "final": True, "score": score(outcome.metrics)}


def _status(outcome: Outcome) -> str:
    """Say in one line whether an outcome can be ranked, and if not why."""
    if outcome.error is not None:
        sentence = (outcome.error.strip() or "no error message").splitlines()[0]
        refused = _REFUSAL.match(sentence)
        return f"{NOT_APPLICABLE}{sentence[refused.end() :]}" if refused else f"failed: {sentence}"
    return "no KLoM" if score(outcome.metrics) is None else "done"


def floors(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return the noise floor of every kind; it depends on retrained models alone.

    Columns are those of KLoM by group, ``FLOOR``, of its sum over both directions, ``FLOOR_SUM``, in nats, and of
    tug-of-war, ``TOW_FLOOR``.
    """
    names = [*FLOOR, *FLOOR_SUM, TOW_FLOOR]
    return averages(averages(tidy(outcomes), ["kind", "forget"], names), ["kind"], names)


def few_models(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a warning where ensembles are too small for KLoM, and nothing where none is."""
    return cautions.few_models((outcome.n_models for outcome in outcomes), floors(outcomes)[FLOOR[0]])


def paths(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return cost and score of every method, mean over draws by kind and checkpoint, in the order of epochs."""
    known = tidy(outcomes).dropna(subset=["score", COST])
    epoch = known["epoch"].mask(known["final"], np.inf)  # the result comes last, however many epochs it took
    means = averages(known.assign(epoch=epoch), ["kind", "method", "reference", "epoch"], [COST, "score"])
    return means.reset_index().sort_values("epoch")
