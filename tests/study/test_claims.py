"""Claims of a study: which differences they look at, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest

from dmm_exp.compare.statistics import Estimate
from dmm_exp.config.schema import StudyConfig, StudyTableConfig
from dmm_exp.errors import UserError
from dmm_exp.study.claims import Claims
from dmm_exp.study.page import write_study
from dmm_exp.study.tables import Record, View

TOW = {  # (row, column) → a value for each seed
    ("up", "one"): [0.50, 0.51, 0.52],
    ("up", "two"): [0.60, 0.62, 0.61],
    ("down", "one"): [0.70, 0.72, 0.74],
    ("down", "two"): [0.60, 0.61, 0.65],
    ("unclear", "one"): [0.5, 0.5, 0.5],
    ("unclear", "two"): [0.4, 0.6, 0.5],
    ("same", "one"): [0.5, 0.6, 0.7],
    ("same", "two"): [0.5, 0.6, 0.7],
}
RECORDS = [
    Record("table", row, column, seed, {"tow": value})
    for (row, column), values in TOW.items()
    for seed, value in enumerate(values)
]


def study(**claims: str) -> StudyConfig:
    rows = {row: "" for row, _ in TOW}
    table = StudyTableConfig(rows=rows, columns={"one": "", "two": ""})
    return StudyConfig(tables={"table": table}, metrics=["tow"], claims=claims)


def verdict(text: str) -> str:
    head, (words, found) = Claims.of(study(words=text)).rows(RECORDS)
    assert (head, words) == (["claim", "ToW"], "words")
    return found


def test_columns_are_compared_in_every_row_and_rows_without_difference_are_not_counted():
    assert verdict("table: two > one") == "holds for 1 of 3 (up); the opposite for 1 (down)"
    assert verdict("table:one>two") == "holds for 1 of 3 (down); the opposite for 1 (up)"


def test_rows_are_compared_in_every_column():
    assert verdict("table: down > up") == "holds for 1 of 2 (one)"  # in column two .00 ± .05


def test_differences_are_paired_by_seed():
    (claim,) = Claims.of(study(words="table: two > one")).claims
    found = claim.differences(RECORDS, "tow")
    assert found["up"].mean == pytest.approx(0.1)
    assert "same" not in found


def test_a_single_comparison_gives_the_difference():
    alone = [record for record in RECORDS if record.row == "up"]
    (_, (_, found)) = Claims.of(study(words="table: two > one")).rows(alone)
    assert found == f"{Estimate.of(np.array([0.10, 0.11, 0.09]))}: holds"


def test_what_was_not_run_is_a_dash():
    (_, (_, found)) = Claims.of(study(words="table: two > one")).rows(RECORDS[:3])
    assert found == "–"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("two > one", "expected 'TABLE: A > B' with two columns, or two rows, of a table"),
        ("tabel: two > one", "there is no table 'tabel'; expected one of table; did you mean 'table'?"),
        (
            "table: two > three",
            r"expected two of the table's columns \(one, two\) or two of its rows \(up, down, unclear",
        ),
        ("table: two > up", "expected two of the table's columns"),
    ],
)
def test_what_is_no_claim_is_refused(text, sentence):
    with pytest.raises(UserError, match=f"study.claims.words={text}: {sentence}"):
        Claims.of(study(words=text))


def test_verdicts_stand_in_all_files(tmp_path):
    claims = Claims.of(study(words="table: two > one"))
    write_study(RECORDS, tmp_path, title="T", command="c", views=[View("table", "tow")], claims=claims)
    for name in ("study.md", "study.html"):
        assert "holds for 1 of 3 (up); the opposite for 1 (down)" in (tmp_path / name).read_text(encoding="utf-8")
    assert (tmp_path / "claims.csv").read_text(encoding="utf-8").count("\n") == 4
