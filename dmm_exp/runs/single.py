"""What a run says of one network alone: a paragraph and a table for its page."""

from __future__ import annotations

from collections.abc import Mapping

from dmm_exp.console.tables import Cell, HeadlineData, HeadlineRow
from dmm_exp.console.words import MISSING, number, percent
from dmm_exp.metrics.tow import GROUPS
from dmm_exp.runs.result import RunResult


def single_data(result: RunResult) -> HeadlineData | None:
    """Build the table of single networks: independent retraining, doing nothing, this method; None without numbers."""
    if "single/distance/forget" not in result.metrics:
        return None
    columns = [Cell("outside", f"{group} points") for group in GROUPS]
    columns += [Cell("distance", f"{group} points") for group in GROUPS] + [Cell("within 95 %", "forget points")]
    ends = {
        "floor": _row(result.metrics, "independent retraining", "noise floor", "_floor"),
        "original": _row(result.metrics, "doing nothing", "the originals", "_original"),
    }
    rows = [row for role, row in ends.items() if role in result.margins]
    return HeadlineData(columns, [*rows, _row(result.metrics, result.method, "this run", "", emphasis=True)])


def _row(metrics: Mapping[str, float], label: str, note: str, end: str, *, emphasis: bool = False) -> HeadlineRow:
    names = [f"single/{measure}{end}/{group}" for measure in ("outside", "distance") for group in GROUPS]
    cells = [Cell(_said(metrics, name), _said(metrics, f"{name}/p95")) for name in names]
    return HeadlineRow(label, note, [*cells, Cell(_said(metrics, f"single/indistinguishable{end}/forget"))], emphasis)


def _said(metrics: Mapping[str, float], name: str) -> str:
    """Return a metric as text: a distance as a number, everything else as a share."""
    value = metrics.get(name)
    if value is None:
        return MISSING
    return number(value) if "/distance" in name else percent(value)


def single_words(result: RunResult) -> str | None:
    """Say what one unlearned network looks like among retrained ones; None without numbers."""
    shares = [result.metrics.get(f"single/indistinguishable{end}/forget") for end in ("", "_floor", "_original")]
    own, floor, nothing = shares
    if own is None or floor is None or nothing is None:
        return None
    return (
        f"Taken one at a time, {percent(own)} of the unlearned networks are no further from the retrained ones, on the "
        f"forget points, than 95 % of retrained networks are; of retrained networks themselves {percent(floor)} are, "
        f"of networks left alone {percent(nothing)}.{_outside(result.metrics)}"
    )


def _outside(metrics: Mapping[str, float]) -> str:
    """Say how many points give the median network away; silent with too few oracles."""
    own, floor = (metrics.get(f"single/outside{end}/forget") for end in ("", "_floor"))
    if own is None or floor is None:
        return ""
    return (
        f" The median unlearned network is outside of what 95 % of retrained ones answer on {percent(own)} of the "
        f"forget points, the median retrained network on {percent(floor)}."
    )
