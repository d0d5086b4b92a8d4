"""Run every setting that searches found (conf/experiment/NAME/KIND.csv) on the sets it was tuned on.

python scripts/check_settings.py digits paths.outputs=DIR

Compares P95 KLoM by group with what the table says, and ends with exit code 1 if one lies outside the 95 % interval
over members of this run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import compose_cells, forget_overrides
from dmm_exp.config.schema import register
from dmm_exp.config.tables import read_rows, tables_of
from dmm_exp.console.tables import print_table
from dmm_exp.data import GROUPS
from dmm_exp.runs.run import run

MEASURED_WITH = ("pool=halves", "attribution=empirical_bayes")  # what the tables say was
RECORD = re.compile(r"(?P<forget>[^:;]+): (?P<values>[\d./ ]+), ToW")


def main(name: str, overrides: list[str]) -> int:
    """Check all rows, print one table, and return the exit code."""
    register()
    table, outside = Table("settings", "forget set", "recorded P95", "found", "95 % intervals", ""), 0
    for choice, forget, recorded in records(Path(config_directory()), name):
        quiet = ["evaluation.report=false", "logger=none"]
        cell = [f"experiment={choice}", *forget_overrides(forget), *MEASURED_WITH, *quiet, *overrides]
        config, choices = compose_cells(config_directory(), cell)[0]
        finished = run(config, choices, table=False)
        assert finished is not None
        found = [finished.metrics[f"klom/{group}/p95"] for group in GROUPS]
        ends = [[finished.metrics[f"klom/{group}/p95_{end}"] for end in ("low", "high")] for group in GROUPS]
        within = all(low <= value <= high for value, (low, high) in zip(recorded, ends, strict=True))
        outside += not within
        intervals = ", ".join(f"{low:.2f}–{high:.2f}" for low, high in ends)
        table.add_row(choice, forget, _words(recorded), _words(found), intervals, "ok" if within else "OUTSIDE")
    print_table(table)
    return int(outside > 0)


def records(folder: Path, name: str) -> Iterator[tuple[str, str, list[float]]]:
    """Yield (experiment, forget set, P95 by group) of everything that tables say of their tuning sets."""
    for table, path in tables_of(folder).items():
        for method, row in read_rows(path).items() if table.startswith(f"{name}/") else ():
            for found in RECORD.finditer(row["tuned_on"]):
                values = [float(value) for value in found["values"].split(" / ")]
                yield f"{table}/{method}", found["forget"].strip(), values


def _words(values: list[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
