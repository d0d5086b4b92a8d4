"""What settings are chosen on and what is reported share no image (docs/configuration.md#design-sets)."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from dmm_exp.config.folders import config_directory
from dmm_exp.config.instantiate import instantiate
from dmm_exp.config.preflight import check_overrides
from dmm_exp.config.schema import Config, register
from dmm_exp.config.tables import read_rows, tables_of

ROOT = Path(config_directory())
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiment").glob("*.yaml"))
DESIGN = [name for name in EXPERIMENTS if name.startswith("design_")]
REPORTED = [name for name in EXPERIMENTS if not name.startswith("design_")]
SIZES = {  # part of the files' names → rows of each of their parts
    "fashion-mnist": {"train": 60_000, "test": 10_000},
    "LetterRecognition": {"train": 20_000},
    "Shuttle": {"train": 58_000},
    "wordnet": {"train": 32_342},  # definitions of FIELDS
}
FIELDS = ["animal", "location", "person", "plant", "substance"]
WHOLE = {"dmm_fashion_full"}  # reports on all images there are, which no design set of these files can avoid
Images = frozenset[tuple[str, str, int]]  # files, part, row


@cache
def composed(*overrides: str) -> Config:
    register()
    (config,) = check_overrides(config_directory(), list(overrides))
    return config


def data_of(config: Config) -> Images:
    """Return all training and validation images of a configuration, of files that design sets are drawn from."""
    names = [name for name in SIZES if any(name in str(folder) for folder in folders(config))]
    if not names:
        return frozenset()
    if names[0] == "wordnet":  # a row's number depends on the fields
        assert config.dataset["formats"]["wordnet"]["fields"] == FIELDS
    labels = {part: np.zeros(rows, np.int64) for part, rows in SIZES[names[0]].items()}
    parts = instantiate(config.dataset, "dataset").chosen(labels)
    return frozenset((names[0], part, int(row)) for part, rows in parts for row in rows)


def folders(config: Config) -> list[str]:
    return list(config.dataset.get("folders") or [])


def reported(name: str) -> Images:
    """Return the images of an experiment, or of the runs that it consists of."""
    config = composed(f"experiment={name}")
    shared = [*config.leaderboard.overrides, *config.study.overrides]  # an experiment is one of them at most
    return data_of(composed(*shared) if shared else config)


def test_there_are_design_sets_of_real_images():
    assert len(DESIGN) > 3
    for name in DESIGN:
        config = composed(f"experiment={name}")
        assert len(data_of(config)) == config.dataset["train_size"] + config.dataset["validation_size"] >= 900


def test_images_of_reported_experiments_are_found():
    found = {name: len(reported(name)) for name in ("dmm_fashion", "rum_fashion", "attribution_fashion")}
    assert found == {"dmm_fashion": 8000, "rum_fashion": 1359, "attribution_fashion": 3000}
    assert reported("leaderboard_digits") == frozenset()  # of no files that a design set is drawn from


@pytest.mark.parametrize("design", DESIGN)
@pytest.mark.parametrize("name", [name for name in REPORTED if name not in WHOLE])
def test_no_reported_experiment_shows_an_image_of_a_design_set(name, design):
    assert not data_of(composed(f"experiment={design}")) & reported(name)


@pytest.mark.parametrize("table", [name for name in tables_of(ROOT) if not name.startswith("literature")])
def test_settings_in_tables_were_searched_on_design_sets(table):
    for unlearner, row in read_rows(tables_of(ROOT)[table]).items():
        words = shlex.split(row["command"])
        assert any(f"experiment={name}" in words for name in DESIGN), f"{table}/{unlearner}: {row['command']}"


@pytest.mark.parametrize("table", [name for name in tables_of(ROOT) if name != "literature"])
def test_the_best_settings_do_not_lie_at_an_end_of_what_was_tried(table):
    ends = {name: row["at_end"] for name, row in read_rows(tables_of(ROOT)[table]).items() if row.get("at_end")}
    assert ends == {}


def test_an_unlearner_whose_file_names_a_table_has_its_settings():
    named = re.compile(r"^# Settings: experiment/(\S+)\.csv", re.MULTILINE)
    found = {path.stem: named.search(path.read_text()) for path in (ROOT / "unlearner").glob("*.yaml")}
    tables = {name: match[1] for name, match in found.items() if match}
    assert len(tables) == 12
    for name, table in tables.items():
        assert composed(f"unlearner={name}").unlearner == composed(f"experiment={table}/{name}").unlearner, name
