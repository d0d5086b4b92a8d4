"""Tables over seeds: the numbers are those of a plain calculation, and what is missing is said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dmm_exp.report.estimate import Estimate
from dmm_exp.report.study import (
    Scatter,
    View,
    differences,
    draw_scatter,
    estimates,
    summary,
    texts,
    tidy,
    values_of,
    write_study,
)

TOW = {("a", "low"): [0.9, 0.95, 0.94], ("a", "high"): [0.5, 0.6, 0.4], ("b", "low"): [0.8, 0.8, 0.8]}

VIEW = View("groups", "tow", "of & by")


def records(table="groups"):
    done = [
        {"table": table, "row": row, "column": column, "seed": seed, "status": "done", "metrics": {"tow": value}}
        for (row, column), values in TOW.items()
        for seed, value in enumerate(values)
    ]
    gap = {"table": table, "row": "b", "column": "high", "seed": 0, "status": "failed", "error": "too |many| <b>"}
    return [*done, gap]


def test_an_estimate_is_the_mean_with_students_interval():
    values = np.array([0.9, 0.95, 0.94])
    found = Estimate.of(values)
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert Estimate.of(np.array([0.5, math.nan])).mean == 0.5
    assert math.isnan(Estimate.of(np.array([0.5])).half)
    assert str(Estimate.of(np.array([math.nan]))) == "–"


def test_differences_are_paired_by_seed():
    found = differences(values_of(records(), "groups", "tow"))
    expected = Estimate.of(np.array(TOW["a", "high"]) - np.array(TOW["a", "low"]))
    assert found["a"]["high − low"] == expected


def test_rows_and_columns_keep_their_order_and_gaps_are_dashes():
    head, first, second = texts(records(), VIEW)
    assert head[:3] == ["", "low", "high"]
    assert [first[0], second[0]] == ["a", "b"]
    assert second[2] == "–"
    assert set(estimates(values_of(records(), "groups", "tow"))) == {"a", "b"}


def test_differences_can_be_left_out():
    assert texts(records(), View("groups", "tow", differences=False))[0] == ["", "low", "high"]


def test_every_run_and_every_estimate_is_in_the_tables():
    assert len(tidy(records())) == 10
    assert len(summary(records(), [VIEW])) == 2 * (2 + 1)


def test_values_too_far_left_are_drawn_at_the_edge_and_counted():
    frame = tidy(records())
    edge = float(frame["tow"].dropna().median())
    cells = frame.groupby(["table", "row", "column"])["tow"].mean()
    drawn = draw_scatter(records(), Scatter("cloud", "tow", "lds", "Seen.", least_x=edge, log_x=True))
    (axes,) = drawn.figure.axes
    shown = [value for line in axes.lines for value in line.get_xdata() if value == value]
    assert min(shown) == pytest.approx(edge)
    assert axes.get_xscale() == "log"
    assert drawn.caption == f"Seen. {(cells < edge).sum()} of {len(cells)} lie further left and are drawn at {edge:g}."


def test_a_study_is_written_whole_and_escapes_what_people_wrote(tmp_path):
    where = {
        "title": "<i>T</i>",
        "views": [VIEW],
        "scatters": [Scatter("cloud", "tow", "lds")],
        "command": "python -m x",
    }
    page = write_study(records(), tmp_path, **where).read_text()
    assert "<i>T</i>" not in page
    assert "too |many| &lt;b&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {"study.html", "study.md", "cells.csv", "summary.csv", "groups.png", "groups.svg", "cloud.pdf"} <= names
