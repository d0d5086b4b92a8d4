"""Run every setting that searches found (conf/experiment/NAME/KIND.csv) again, where it was found.

python scripts/check_settings.py fair paths.outputs=DIR

Compares the metrics that the search minimised with what the table says, and ends with exit code 1 if one differs by
more than a tenth.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from dmm_exp.config.folders import config_directory
from dmm_exp.config.preflight import compose_cells, forget_overrides
from dmm_exp.config.schema import register
from dmm_exp.config.tables import cell_of, read_rows, settings_in, tables_of
from dmm_exp.console.tables import print_table
from dmm_exp.runs.run import run

OF_THE_SEARCH = ("-m", "hparams_search", "forget", "unlearner=")  # words of a command that are not those of a run
RECORD = re.compile(r"(?P<forget>[^:;]+): (?P<values>[\d./ -]+), ToW")
CLOSE = 0.1  # relative difference that rounding on another processor may make


@dataclass(frozen=True)
class Found:
    """What a table says of a method on one of the sets that its settings were searched on.

    Attributes:
        choice: table and method.
        forget: the set, in words.
        overrides: of a run that measures it.
        metrics: what was measured, by name.
    """

    choice: str
    forget: str
    overrides: list[str]
    metrics: dict[str, float]


def main(name: str, overrides: list[str]) -> int:
    """Check all rows, print one table, and return the exit code."""
    register()
    table, apart = Table("settings", "forget set", "metric", "recorded", "measured", ""), 0
    for found in records(Path(config_directory()), name):
        quiet = ["evaluation.report=false", "logger=none"]
        config, choices = compose_cells(config_directory(), [*found.overrides, *quiet, *overrides])[0]
        finished = run(config, choices, table=False)
        assert finished is not None
        for metric, recorded in found.metrics.items():
            measured = finished.metrics[metric]
            same = abs(measured - recorded) <= CLOSE * recorded + 0.01
            apart += not same
            row = (found.choice, found.forget, metric, f"{recorded:.2f}", f"{measured:.2f}", "ok" if same else "APART")
            table.add_row(*row)
    print_table(table)
    return int(apart > 0)


def records(folder: Path, name: str) -> Iterator[Found]:
    """Yield everything that tables say of the sets that settings were searched on."""
    for table, path in tables_of(folder).items():
        for method, row in read_rows(path).items() if table.startswith(f"{name}/") else ():
            words = [word for word in shlex.split(row["command"])[3:] if not word.startswith(OF_THE_SEARCH)]
            settings = [f"unlearner.{key}={cell_of(value)}" for key, value in settings_in(row).items()]
            names = [metric.strip() for metric in row["metrics"].split(",")]
            for found in RECORD.finditer(row["tuned_on"]):
                values = map(float, found["values"].split(" / "))
                forget = found["forget"].strip()
                own = [*words, f"unlearner={method}", *settings, *forget_overrides(forget)]
                yield Found(f"{table}/{method}", forget, own, dict(zip(names, values, strict=True)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
