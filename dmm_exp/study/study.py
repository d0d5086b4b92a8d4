"""A study: tables whose every cell is an ordinary run, repeated over seeds, and shown as means with intervals."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dmm_exp import __version__
from dmm_exp.config.identity import many_runs_digest, run_name
from dmm_exp.config.schema import Config, StudyConfig, plain
from dmm_exp.errors import UserError
from dmm_exp.files.reading import read_json
from dmm_exp.files.writing import write_json
from dmm_exp.runs.batch import begin
from dmm_exp.runs.run import run

if TYPE_CHECKING:
    from dmm_exp.pipeline import LastLearned
    from dmm_exp.study.tables import Record, View

OWN = ("experiment=", "study", "seed=")  # overrides of a study's command line that are not those of its runs


@dataclass(frozen=True)
class Cell:
    """A run of a table, still without its seed.

    Attributes:
        table: the table's name.
        row: label of the row.
        column: label of the column.
        overrides: the command line that does the same run alone.
        config: what these overrides compose to.
        choices: group → choice.
    """

    table: str
    row: str
    column: str
    overrides: list[str]
    config: Config
    choices: dict[str, str]


def run_study(config: Config, overrides: Sequence[str]) -> Path:
    """Do every run of a study that is not there yet, print its tables, and return its folder.

    Runs are repeated over ``study.seeds``; a ``seed`` of the command line, as a sweep's cell has it, is taken alone.

    Args:
        config: the resolved configuration; ``config.study`` says what to run.
        overrides: of the command line; those that are not about the study hold for every run.

    Raises:
        UserError: one of the runs could not start, or all of them failed.
    """
    from dmm_exp.console.progress import Console
    from dmm_exp.pipeline import LastLearned
    from dmm_exp.study.page import Scatter, write_study
    from dmm_exp.study.tables import print_study

    begin(overrides)
    study, console = config.study, Console()
    with console.progress("configurations", None):
        cells = list(compose_cells_of(study, overrides))
    own = [config.seed] if any(text.startswith("seed=") for text in overrides) else []
    runs = [(cell, seed) for seed in own or study.seeds for cell in cells]
    if config.dry_run:
        print(
            "\n".join(shlex.join(["python", "-m", "dmm_exp", *cell.overrides, f"seed={seed}"]) for cell, seed in runs)
        )
        return _folder(config, cells, own)
    folder = _folder(config, cells, own)
    records, learned = [], LastLearned()
    for number, (cell, seed) in enumerate(runs, 1):
        print(f"\n[{number}/{len(runs)}] {cell.table}: {cell.row}, {cell.column}, seed {seed}", file=sys.stderr)
        records.append(_record(cell, seed, folder / "runs", learned))
    if all(record.error is not None for record in records):
        raise UserError(f"study: all {len(records)} runs failed; the first said: {records[0].error}")
    views, scatters = _views(study), [Scatter(name, **plain(shown)) for name, shown in study.scatters.items()]
    print_study(records, views)
    command = shlex.join(["python", "-m", "dmm_exp", *overrides])
    page = write_study(records, folder, title=study.title, command=command, views=views, scatters=scatters)
    print(f"  study: {page}", file=sys.stderr)
    return folder


def _views(study: StudyConfig) -> list[View]:
    """Return what is shown of every table."""
    from dmm_exp.study.tables import View

    metrics = study.metrics
    return [
        View(name, metric, table.caption, table.differences, alone=len(metrics) == 1)
        for name, table in study.tables.items()
        for metric in metrics
    ]


def compose_cells_of(study: StudyConfig, overrides: Sequence[str]) -> Iterator[Cell]:
    """Yield every cell of every table, composed and checked.

    A table without rows has one for each of ``study.methods``, at ``experiment=SETTINGS/METHOD`` where there is one.

    Raises:
        UserError: a row, column or value does not exist.
    """
    from dmm_exp.config.folders import config_directory, further_folders
    from dmm_exp.config.instantiate import check_targets
    from dmm_exp.config.preflight import composer
    from dmm_exp.config.ranges import check_ranges

    folder, more = config_directory(), further_folders()
    shared = [*study.overrides, "evaluation.report=false"]
    shared += [text for text in overrides if not text.lstrip("+~").startswith(OWN)]
    with composer(folder, more) as compose:
        for name, table in study.tables.items():
            rows = table.rows if table.rows is not None else _method_rows(study, folder, more)
            if not rows or not table.columns:
                raise UserError(f"study.tables.{name}: expected rows (or study.methods) and columns")
            for row, row_text in rows.items():
                for column, column_text in table.columns.items():
                    own = [*shlex.split(row_text), *shlex.split(column_text), *shared]
                    config, choices = compose(own)[0]
                    check_ranges(config)
                    check_targets(plain(config))
                    yield Cell(name, row, column, own, config, choices)


def _method_rows(study: StudyConfig, folder: str, more: Sequence[str]) -> dict[str, str]:
    """Return label → override of every method."""
    from dmm_exp.config.preflight import has_choice

    rows = {}
    for method in study.methods:
        found = f"{study.settings}/{method}"
        tuned = study.settings is not None and has_choice(folder, "experiment", found, more)
        rows[method] = f"experiment={found}" if tuned else f"unlearner={method}"
    return rows


def _record(cell: Cell, seed: int, folder: Path, learned: LastLearned) -> Record:
    """Do a run, or read what it found before, and return what the tables need to know of it."""
    from dmm_exp.study.tables import Record

    config = replace(cell.config, seed=seed)
    record = Record(cell.table, cell.row, cell.column, seed)
    path = folder / f"{run_name(config, cell.choices)}.json"
    if (metrics := _found_before(path)) is not None:
        return replace(record, metrics=metrics)
    try:
        finished = run(config, cell.choices, table=False, learned=learned)
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return replace(record, error=str(error) or type(error).__name__)
    assert finished is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"package": __version__, "metrics": finished.metrics})
    return replace(record, metrics=finished.metrics)


def _found_before(path: Path) -> dict[str, float] | None:
    """Return the metrics of a run that an earlier, interrupted study finished; None when there are none to trust."""
    try:
        found = read_json(path)
        return found["metrics"] if found["package"] == __version__ else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _folder(config: Config, cells: Sequence[Cell], own: Sequence[int]) -> Path:
    """Return where a study lives: the same one always lands in the same place, one of a seed of its own elsewhere."""
    outputs = Path(config.paths.outputs).expanduser().absolute()
    name = "".join(letter if letter.isalnum() else "_" for letter in config.study.title.lower())
    seeds = [f"seed={seed}" for seed in own]
    identity = many_runs_digest([([*cell.overrides, *seeds], replace(cell.config, seed=seeds)) for cell in cells])
    return outputs / "studies" / f"{name}__{identity[:10]}"
