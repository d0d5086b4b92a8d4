"""The rows in ``leaderboard/`` can be read together, and still stand for the runs that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmm_exp.config.folders import config_directory
from dmm_exp.config.identity import run_name
from dmm_exp.config.schema import register
from dmm_exp.config.tables import read_rows as rows_of_table
from dmm_exp.config.tables import settings_in, tables_of
from dmm_exp.leaderboard.rows import Row, read_rows

FOLDER = Path(__file__).parents[2] / "leaderboard"
ROWS = read_rows(FOLDER)
FEWEST = 80  # models of each kind


def test_there_are_rows_of_enough_models_with_floors_and_intervals():
    assert len(ROWS) >= 400
    for row in ROWS:
        assert row.n_models >= FEWEST
        for group in ("forget", "retain", "val"):
            assert set(row.scores[f"klom/{group}/p95"]) == {"value", "low", "high", "floor"}, row.place


def test_settings_are_those_of_tables_that_were_searched_on_design_sets():
    tables = tables_of(Path(config_directory()))
    searched = [row for row in ROWS if row.settings_from]
    assert len(searched) > 300
    for row in searched:
        table, method = row.settings_from.rsplit("/", 1)
        found = rows_of_table(tables[table])[method]
        assert "experiment=design_" in found["command"], row.place
        own = {key: value for key, value in row.recipe.settings.items() if key.startswith("unlearner.")}
        known = {f"unlearner.{key}": value for key, value in settings_in(found).items()}
        assert own.items() <= known.items(), row.place  # a row says only what differs from the method's own settings


@pytest.mark.parametrize("row", ROWS[:: max(1, len(ROWS) // 4)], ids=lambda row: str(row.place))
def test_a_row_stands_for_the_run_that_it_names(row: Row):
    register()
    config, choices = row.recipe.composed()
    assert run_name(config, choices) == row.run
