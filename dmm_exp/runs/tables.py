"""The tables that a run and a sweep of runs end in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import fill

from rich.table import Table
from rich.text import Text

from dmm_exp.compare.runs import used_attribution
from dmm_exp.console.tables import Cell, HeadlineData, HeadlineRow, dense_table, list_below
from dmm_exp.console.words import MISSING, further, more, number, two_digits
from dmm_exp.metrics.tow import GROUPS
from dmm_exp.runs.result import RunResult
from dmm_exp.runs.words import certificate, is_unknown, mostly_noise

SIDES = "\nreverse,\nsum"  # what stands below KLoM: in the direction KL(oracle ‖ unlearned), and of both
NOTE_WIDTH = 22  # characters in a line below the name of a row
_MAIN_CHOICES = ("forget", "unlearner", "attribution")


def headline_data(result: RunResult) -> HeadlineData:
    """Build the headline table: noise floor, doing nothing, this method."""
    columns = [Cell("KLoM P95", f"{group}{SIDES}") for group in GROUPS]
    columns += [Cell("ToW"), Cell("accuracy, %", "/".join(GROUPS)), Cell("cost", "ratio")]
    metrics = result.metrics
    ends = {  # retraining costs exactly 1 and doing nothing exactly 0, by the definition of the ratio
        "floor": _row(metrics, "independent retraining", floor_note(result), ("_floor", "floor"), Cell("1")),
        "original": _row(metrics, "doing nothing", "the originals", ("_original", "original"), Cell("0")),
    }
    rows = [row for role, row in ends.items() if result.has(role)]
    found = {f"after {epoch} epoch{'s' * (epoch > 1)}": values for epoch, values in result.checkpoints.items()} or {
        "this run": metrics
    }
    rows += [_method_row(result.method, note, values) for note, values in found.items()]
    return HeadlineData(columns, rows)


def floor_note(result: RunResult) -> str:
    """Return what the row of independent retraining is: measured, or estimated from one ensemble."""
    return "noise floor" if "floor" in result.margins else "floor, from halves"


def _method_row(label: str, note: str, metrics: Mapping[str, float]) -> HeadlineRow:
    """Build the row of the method under test, at its end or at a checkpoint."""
    if noisy := mostly_noise(metrics):
        note += f"; prediction is mostly noise on {', '.join(noisy)}"
    if is_unknown(metrics):
        note += "; unlike anything the pool knows"
    if "certified/epsilon" in metrics:
        note += f"; {certificate(metrics)}"
    row = _row(metrics, label, note, ("", "unlearned"), _cost(metrics))
    return HeadlineRow(row.label, row.note, row.cells, emphasis=True)


def _cost(metrics: Mapping[str, float]) -> Cell:
    """Return the cost of one model; below, the models that its method shares between requests, and this one's own."""
    found = {name: more(metrics.get(f"cost/{name}")) for name in ("shared", "own")}
    lines = [line for name, cost in found.items() if cost for line in (cost, name)]
    return Cell(two_digits(metrics.get("cost/ratio")), "\n".join(lines))


def _row(metrics: Mapping[str, float], label: str, note: str, names: tuple[str, str], cost: Cell) -> HeadlineRow:
    """Build one row from the metrics called ``klom{names[0]}/…``, ``tow{names[0]}`` and ``accuracy/{names[1]}/…``."""
    kloms = [_percentile(metrics, names[0], group) for group in GROUPS]
    return HeadlineRow(label, note, [*kloms, _tug(metrics, names[0]), _accuracies(metrics, names[1]), cost])


def _tug(metrics: Mapping[str, float], ensemble: str) -> Cell:
    """Return tug-of-war; below, its 95 % interval where there is one."""
    key = f"tow{ensemble}"
    low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
    ends = f"{low:.3f}–{high:.3f}" if low is not None and high is not None else ""
    return Cell(number(metrics.get(key), ".3f"), ends)


def _percentile(metrics: Mapping[str, float], ensemble: str, group: str) -> Cell:
    """Return a group's percentile; below, its 95 % interval where there is one, the other direction and the sum."""
    key = f"klom{ensemble}/{group}/p95"
    low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
    lines = [f"{_three_digits(low)}–{_three_digits(high)}"] if low is not None and high is not None else []
    reverse, total = (metrics.get(f"{name}{ensemble}/{group}/p95") for name in ("klom_reverse", "klom_sum"))
    lines += [", ".join(_three_digits(value) for value in (reverse, total))] if reverse is not None else []
    return Cell(number(metrics.get(key)), "\n".join(lines))


def _three_digits(value: float | None) -> str:
    return number(value, ".1f" if value is not None and value >= 10 else ".2f")


def _accuracies(metrics: Mapping[str, float], ensemble: str) -> Cell:
    """Return the three accuracies of an ensemble in per cent; one dash when none was measured."""
    values = [metrics.get(f"accuracy/{ensemble}/{group}") for group in GROUPS]
    if all(value is None for value in values):
        return Cell(MISSING)
    return Cell("/".join(number(None if value is None else 100 * value, ".1f") for value in values))


def numbers_table(data: HeadlineData) -> Table:
    """Return a table of numbers for the terminal, what qualifies them below each."""
    table = dense_table()
    table.add_column("", overflow="fold")
    for column in data.columns:
        table.add_column(Text("\n".join((column.value, column.detail))), justify="right", overflow="fold")
    for row in data.rows:
        style = "bold" if row.emphasis else ""
        cells = [Text.assemble((cell.value, style), "\n", (cell.detail, "dim")) for cell in row.cells]
        table.add_row(Text.assemble((row.label, style), "\n", (fill(row.note, NOTE_WIDTH), "dim")), *cells)
    return table


@dataclass(frozen=True)
class SweepCell:
    """One row of a sweep's table.

    Attributes:
        choices: configuration group → choice.
        metrics: the content of ``metrics.json``; empty for what consists of many runs, or failed.
        overrides: the values that set this cell apart where its choices do not, such as ``["seed=2"]``.
        error: what was said of a cell that failed; None for one that ended well.
    """

    choices: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)
    overrides: Sequence[str] = ()
    error: str | None = None

    @property
    def status(self) -> str:
        """Return ``"done"`` or ``"failed"``."""
        return "done" if self.error is None else "failed"

    def choice(self, name: str) -> str:
        """Return the text of one of the columns that say which cell this is."""
        if name == "overrides":
            return " ".join(self.overrides) or MISSING
        if name == "attribution":
            return used_attribution(self.choices, self.metrics) or MISSING
        return self.choices.get(name, MISSING)


def sweep_table(cells: Sequence[SweepCell]) -> Table:
    """Return one table for a multirun: a row a cell, best forget P95 first within each forget set, failures below."""
    columns = _sweep_columns(cells)
    table = dense_table()
    for title in columns:
        table.add_column(title, overflow="fold")
    for title in (*(f"KLoM P95\n{group}\n(floor)" for group in GROUPS), "ToW", "cost\nratio\n+ models"):
        table.add_column(title, justify="right", overflow="fold")
    table.add_column("status", overflow="fold")
    ordered = _in_reading_order(cells)
    for cell, following in zip(ordered, [*ordered[1:], None], strict=True):
        last = following is None or following.choice("forget") != cell.choice("forget")
        table.add_row(*(Text(text) for text in _sweep_row(cell, columns)), end_section=last)
    if failed := [cell for cell in ordered if cell.error is not None]:
        list_below(table, [f"{len(failed)} of {len(cells)} cells failed:", *map(_failure, failed)])
    return table


def _sweep_columns(cells: Sequence[SweepCell]) -> list[str]:
    """Choose the leading columns: forget set and unlearner, then whatever is used or sets cells apart."""
    names = dict.fromkeys(name for cell in cells for name in cell.choices if name not in _MAIN_CHOICES)
    apart = [name for name in names if len({cell.choice(name) for cell in cells}) > 1]
    further = [
        name for name in ("attribution", *apart, "overrides") if any(cell.choice(name) != MISSING for cell in cells)
    ]
    return ["forget", "unlearner", *further]


def _sweep_row(cell: SweepCell, columns: Sequence[str]) -> list[str]:
    """Return the texts of one row."""
    kloms = [_with_floor(cell.metrics, group) for group in GROUPS]
    cost = f"{two_digits(cell.metrics.get('cost/ratio'))}\n{further(cell.metrics)}".strip()
    ends = [number(cell.metrics.get("tow"), ".3f"), cost, cell.status]
    return [*map(cell.choice, columns), *kloms, *ends]


def _with_floor(metrics: Mapping[str, float], group: str) -> str:
    """Return a group's P95 KLoM next to its floor."""
    value = metrics.get(f"klom/{group}/p95")
    return MISSING if value is None else f"{number(value)} ({number(metrics.get(f'klom_floor/{group}/p95'))})"


def _in_reading_order(cells: Sequence[SweepCell]) -> list[SweepCell]:
    """Keep forget sets in order of appearance; within one, smallest forget P95 first and cells without one last."""
    sets = list(dict.fromkeys(cell.choice("forget") for cell in cells))

    def position(cell: SweepCell) -> tuple[int, float]:
        value = cell.metrics.get("klom/forget/p95", math.inf)
        return sets.index(cell.choice("forget")), math.inf if math.isnan(value) else value

    return sorted(cells, key=position)


def _failure(cell: SweepCell) -> str:
    """Return a line on a cell that failed: which it is, and the first line of its error."""
    error = (cell.error or "no error message").strip().splitlines()[0]
    which = f" {cell.choice('overrides')}" if cell.overrides else ""
    return f"  {cell.choice('forget')}, {cell.choice('unlearner')}{which}: {error}"
