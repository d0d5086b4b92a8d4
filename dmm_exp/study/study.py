"""A study: tables whose every cell is an ordinary run, repeated over seeds, and shown as means with intervals."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dmm_exp.compare.runs import flat
from dmm_exp.config.folders import config_directory, further_folders
from dmm_exp.config.parts import is_reference
from dmm_exp.config.preflight import Composer, composer
from dmm_exp.config.schema import Config, StudyConfig, plain
from dmm_exp.config.tables import check_settings
from dmm_exp.errors import UserError
from dmm_exp.runs.many import ManyRuns, PlannedRun, RunOutcome, named_folder
from dmm_exp.study.claims import Claims
from dmm_exp.study.page import Scatter, write_study
from dmm_exp.study.tables import Record, View, print_study

SETTINGS = re.compile(r"\{([\w/]+)\}")  # in a column's overrides: the table of a method's settings
OWN = ("experiment=", "study", "seed=")  # overrides of a study's command line that are not those of its runs


@dataclass(frozen=True)
class StudyCell(PlannedRun):
    """A run of a table.

    Attributes:
        table: the table's name.
        row: label of the row.
        column: label of the column.
        seed: its seed; the overrides have it where it is not the configuration's own.
    """

    table: str
    row: str
    column: str
    seed: int = 0


class Study(ManyRuns[StudyCell]):
    """Tables of runs, repeated over ``study.seeds``; a ``seed`` of the command line is taken alone."""

    key = "study"

    def cells(self, config: Config, overrides: Sequence[str]) -> Iterator[StudyCell]:
        """Yield every cell of every table for every seed; see :func:`compose_cells_of`."""
        Claims.of(config.study)  # refuses what is none, before anything runs
        cells = list(compose_cells_of(config.study, overrides))
        alone = any(text.startswith("seed=") for text in overrides)
        for seed in [config.seed] if alone else config.study.seeds:
            for cell in cells:
                title = f"{cell.title}, seed {seed}"
                seeded = [*cell.overrides, f"seed={seed}"]
                yield replace(cell, title=title, overrides=seeded, config=replace(cell.config, seed=seed), seed=seed)

    def folder_of(self, config: Config, cells: Sequence[StudyCell]) -> Path:
        """Return where the study lives; one of a seed of its own lives elsewhere."""
        return named_folder(config, "studies", config.study.title, cells)

    def show(
        self, config: Config, outcomes: Sequence[tuple[StudyCell, RunOutcome]], folder: Path, command: str
    ) -> Path:
        """Print the tables and write the page."""
        study = config.study
        records = [_record(cell, result) for cell, result in outcomes]
        views, scatters = _views(study), [Scatter(name, **plain(shown)) for name, shown in study.scatters.items()]
        claims = Claims.of(study)
        print_study(records, views, claims.rows(records))
        return write_study(
            records, folder, title=study.title, command=command, views=views, scatters=scatters, claims=claims
        )


def _record(cell: StudyCell, result: RunOutcome) -> Record:
    return Record(
        cell.table,
        cell.row,
        cell.column,
        cell.seed,
        result.metrics,
        result.error,
        reference_of(cell.config, cell.choices),
        cell.config.n_models,
    )


def reference_of(config: Config, choices: Mapping[str, str]) -> str:
    """Return a run's unlearner where it is a reference, on its own or in every part of a refinement; "" otherwise."""
    own = choices["unlearner"]
    parts = [value for key, value in flat(config.refinement) if key.endswith("unlearner") and value is not None]
    return own if is_reference(config) and set(parts) <= {own} else ""


def _views(study: StudyConfig) -> list[View]:
    """Return what is shown of every table."""
    metrics = study.metrics
    return [
        View(name, metric, table.caption, table.differences, alone=len(metrics) == 1)
        for name, table in study.tables.items()
        for metric in metrics
    ]


def compose_cells_of(study: StudyConfig, overrides: Sequence[str]) -> Iterator[StudyCell]:
    """Yield every cell of every table, composed and checked.

    A table without rows has one for each of ``study.methods``, at ``experiment=SETTINGS/METHOD`` where there is one. In
    its columns ``{TABLE}`` stands for the row's method at its settings in that table, ``TABLE/METHOD``, where there are
    some, and for the method's own ones otherwise.

    Raises:
        UserError: a row, column or value does not exist.
    """
    shared = [*study.overrides, "evaluation.report=false"]
    shared += [text for text in overrides if not text.lstrip("+~").startswith(OWN)]
    folders = [config_directory(), *further_folders()]
    if study.settings is not None:
        check_settings(study.settings, folders, "study.settings")
    with composer(config_directory(), further_folders()) as compose:
        for name, table in study.tables.items():
            rows = table.rows if table.rows is not None else _method_rows(study, compose)
            if not rows or not table.columns:
                raise UserError(f"study.tables.{name}: expected rows (or study.methods) and columns")
            for row, row_text in rows.items():
                for column, text in table.columns.items():
                    if table.rows is None:
                        for settings in SETTINGS.findall(text):
                            check_settings(settings, folders, f"study.tables.{name}.columns.{column}")
                        text = _with_settings(text, row, compose)
                    own = [*shlex.split(row_text), *shlex.split(text), *shared]
                    config, choices = compose(own)[0]
                    yield StudyCell(f"{name}: {row}, {column}", own, config, choices, name, row, column)


def _method_rows(study: StudyConfig, compose: Composer) -> dict[str, str]:
    """Return label → override of every method."""
    rows = {}
    for method in study.methods:
        found = f"{study.settings}/{method}"
        tuned = study.settings is not None and compose.has("experiment", found)
        rows[method] = f"experiment={found}" if tuned else f"unlearner={method}"
    return rows


def _with_settings(text: str, method: str, compose: Composer) -> str:
    """Return a column's overrides with a method in place of every ``{TABLE}``."""

    def found(match: re.Match[str]) -> str:
        row = f"{match[1]}/{method}"
        return row if compose.has("experiment", row) else method

    return SETTINGS.sub(found, text)
