"""The tables that a run and a sweep of runs end in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from dmm_exp.console.tables import Cell, HeadlineData, HeadlineRow, dense_table, list_below
from dmm_exp.console.words import MISSING, number, two_digits
from dmm_exp.metrics.tow import GROUPS
from dmm_exp.runs.result import RunResult, is_used
from dmm_exp.runs.words import mostly_noise

_MAIN_CHOICES = ("forget", "unlearner", "attribution")


def headline_data(result: RunResult) -> HeadlineData:
    """Build the headline table: noise floor, doing nothing, this method."""
    columns = [Cell("KLoM P95", group) for group in GROUPS]
    columns += [Cell("ToW"), Cell("accuracy, %", " / ".join(GROUPS)), Cell("cost", "ratio")]
    metrics = result.metrics
    rows = [
        # Retraining costs exactly 1 and doing nothing exactly 0, by the definition of the ratio.
        _row(metrics, "independent retraining", "noise floor", ("klom_floor", "oracle"), Cell(MISSING), "1"),
        _row(metrics, "doing nothing", "the originals", ("klom_original", "original"), Cell(MISSING), "0"),
    ]
    found = {f"after {epoch} epoch{'s' * (epoch > 1)}": values for epoch, values in result.checkpoints.items()} or {
        "this run": metrics
    }
    rows += [_method_row(result.method, note, values) for note, values in found.items()]
    return HeadlineData(columns, rows)


def _method_row(label: str, note: str, metrics: Mapping[str, float]) -> HeadlineRow:
    """Build the row of the method under test, at its end or at a checkpoint."""
    tug = Cell(number(metrics.get("tow"), ".3f"), f"± {metrics['tow/std']:.3f}" if "tow/std" in metrics else "")
    if noisy := mostly_noise(metrics):
        note += f"; prediction is mostly noise on {', '.join(noisy)}"
    row = _row(metrics, label, note, ("klom", "unlearned"), tug, two_digits(metrics.get("cost/ratio")))
    return HeadlineRow(row.label, row.note, row.cells, emphasis=True)


def _row(
    metrics: Mapping[str, float], label: str, note: str, names: tuple[str, str], tug: Cell, ratio: str
) -> HeadlineRow:
    """Build one row from the metrics called ``names[0]/…`` (KLoM) and ``accuracy/names[1]/…``."""
    kloms = [_percentile(metrics, f"{names[0]}/{group}/p95") for group in GROUPS]
    return HeadlineRow(label, note, [*kloms, tug, _accuracies(metrics, names[1]), Cell(ratio)])


def _percentile(metrics: Mapping[str, float], key: str) -> Cell:
    """Return a percentile with its 95 % interval, where there is one."""
    low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
    interval = f"{low:.2f}–{high:.2f}" if low is not None and high is not None else ""
    return Cell(number(metrics.get(key)), interval)


def _accuracies(metrics: Mapping[str, float], ensemble: str) -> Cell:
    """Return the three accuracies of an ensemble in per cent; one dash when none was measured."""
    values = [metrics.get(f"accuracy/{ensemble}/{group}") for group in GROUPS]
    if all(value is None for value in values):
        return Cell(MISSING)
    return Cell(" / ".join(number(None if value is None else 100 * value, ".1f") for value in values))


def headline(result: RunResult) -> Table:
    """Return the final table of a run for the terminal; it fits in 100 columns."""
    data = headline_data(result)
    table = dense_table()
    table.add_column("", overflow="fold")
    for column in data.columns:
        table.add_column(Text("\n".join((column.value, column.detail))), justify="right", overflow="fold")
    for row in data.rows:
        style = "bold" if row.emphasis else ""
        cells = [Text.assemble((cell.value, style), "\n", (cell.detail, "dim")) for cell in row.cells]
        table.add_row(Text.assemble((row.label, style), "\n", (row.note, "dim")), *cells)
    return table


def sweep_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Return one table for a multirun: a row a cell, best forget P95 first within each forget set, failures below.

    Each cell is a mapping with ``choices`` (configuration group -> choice), ``metrics`` (may be empty), ``status``
    (``"done"`` or ``"failed"``), ``error`` (for failed cells) and, optionally, ``overrides`` (the values that set this
    cell apart where its choices do not, such as ``["seed=2"]``).
    """
    columns = _sweep_columns(cells)
    table = dense_table()
    for title in columns:
        table.add_column(title, overflow="fold")
    for title in (*(f"KLoM P95\n{group}\n(floor)" for group in GROUPS), "ToW", "cost\nratio"):
        table.add_column(title, justify="right", overflow="fold")
    table.add_column("status", overflow="fold")
    ordered = _in_reading_order(cells)
    for cell, following in zip(ordered, [*ordered[1:], None], strict=True):
        last = following is None or _choice(following, "forget") != _choice(cell, "forget")
        table.add_row(*(Text(text) for text in _sweep_row(cell, columns)), end_section=last)
    _list_failures(table, ordered)
    return table


def _sweep_columns(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Choose the leading columns: forget set and unlearner, then whatever is used or sets cells apart."""
    columns = ["forget", "unlearner"]
    if any(used_attribution(cell) for cell in cells):
        columns.append("attribution")
    names = dict.fromkeys(name for cell in cells for name in cell.get("choices", {}))
    for name in names:
        if name not in _MAIN_CHOICES and len({_choice(cell, name) for cell in cells}) > 1:
            columns.append(name)
    return [*columns, "overrides"] if any(cell.get("overrides") for cell in cells) else columns


def _sweep_row(cell: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """Return the texts of one row."""
    metrics = cell.get("metrics") or {}
    leading = [_leading(cell, column) for column in columns]
    kloms = [_with_floor(metrics, group) for group in GROUPS]
    tug = number(metrics.get("tow"), ".3f")
    return [*leading, *kloms, tug, two_digits(metrics.get("cost/ratio")), str(cell.get("status", MISSING))]


def _leading(cell: Mapping[str, Any], column: str) -> str:
    """Return the text of one of the columns that say which cell this is."""
    if column == "overrides":
        values = cell.get("overrides") or [MISSING]
        return values if isinstance(values, str) else " ".join(map(str, values))
    return (used_attribution(cell) or MISSING) if column == "attribution" else _choice(cell, column)


def _with_floor(metrics: Mapping[str, float], group: str) -> str:
    """Return a group's P95 KLoM next to its floor."""
    value = metrics.get(f"klom/{group}/p95")
    return MISSING if value is None else f"{number(value)} ({number(metrics.get(f'klom_floor/{group}/p95'))})"


def _choice(cell: Mapping[str, Any], name: str) -> str:
    """Return a cell's choice for a configuration group."""
    return str(cell.get("choices", {}).get(name, MISSING))


def used_attribution(cell: Mapping[str, Any]) -> str | None:
    """Return a cell's attribution if it was used; methods without a predictor leave no trace of it in the metrics."""
    choice = cell.get("choices", {}).get("attribution")
    metrics = cell.get("metrics") or {}
    used = not metrics or any(name in ("lds", "cost/attribution") or name.startswith("effect/") for name in metrics)
    return str(choice) if is_used(choice) and used else None


def _in_reading_order(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Keep forget sets in order of appearance; within one, smallest forget P95 first and cells without one last."""
    sets = list(dict.fromkeys(_choice(cell, "forget") for cell in cells))

    def position(cell: Mapping[str, Any]) -> tuple[int, float]:
        value = (cell.get("metrics") or {}).get("klom/forget/p95", math.inf)
        return sets.index(_choice(cell, "forget")), math.inf if math.isnan(value) else value

    return sorted(cells, key=position)


def _list_failures(table: Table, cells: Sequence[Mapping[str, Any]]) -> None:
    """Put one line for each failed cell below the table."""
    failed = [cell for cell in cells if cell.get("error") or cell.get("status") == "failed"]
    if not failed:
        return
    lines = [f"{len(failed)} of {len(cells)} cells failed:"]
    for cell in failed:
        error = str(cell.get("error") or "no error message").strip().splitlines()[0]
        overrides = f" {_leading(cell, 'overrides')}" if cell.get("overrides") else ""
        lines.append(f"  {_choice(cell, 'forget')}, {_choice(cell, 'unlearner')}{overrides}: {error}")
    list_below(table, lines)
