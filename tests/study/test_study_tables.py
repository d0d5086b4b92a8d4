"""Tables over seeds: the numbers are those of a plain calculation, and what is missing is said."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from axes import misleading
from browser import faults
from scipy import stats

from dmm_exp.compare.statistics import Estimate
from dmm_exp.report.figures import kept
from dmm_exp.study.page import Scatter, scatter_chart, view_chart, write_study
from dmm_exp.study.tables import Record, View, differences, estimates, summary, texts, tidy, values_of

TOW = {("a", "low"): [0.9, 0.95, 0.94], ("a", "high"): [0.5, 0.6, 0.4], ("b", "low"): [0.8, 0.8, 0.8]}

VIEW = View("groups", "tow", "of & by")


def records(table="groups"):
    done = [
        Record(table, row, column, seed, {"tow": value})
        for (row, column), values in TOW.items()
        for seed, value in enumerate(values)
    ]
    gap = Record(table, "b", "high", 0, error="too |many| <b>")
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
    chart = scatter_chart(records(), Scatter("cloud", "tow", "lds", "Seen.", least_x=edge, log_x=True))
    (panel,) = chart.panels
    shown = [10**value for mark in panel.marks for value in mark.x if value == value]
    assert min(shown) == pytest.approx(edge)
    assert chart.caption == f"Seen. {(cells < edge).sum()} of {len(cells)} lie further left and are drawn at {edge:g}."


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
    assert names == {"study.html", "study.md", "study.tex", "cells.csv", "summary.csv", "figures.json"}
    assert [chart.name for chart in kept(tmp_path)] == ["groups", "cloud"]


def test_the_page_is_right_on_every_screen_and_on_paper(browser, tmp_path):
    scatters = [Scatter("cloud", "tow", "lds", log_x=True)]
    page = write_study(records(), tmp_path, title="T", views=[VIEW], scatters=scatters, command="python -m x")
    assert faults(browser, page) == []
    assert misleading(kept(tmp_path)) == []


def test_a_column_and_a_row_have_one_look_in_all_figures_of_a_study():
    other = [replace(one, table="again", column=f"x{one.column}") for one in records()]
    both = [*other, *records()]
    alone = {mark.label: mark.role for mark in view_chart(records() + other, VIEW).legend}
    assert len(set(alone.values())) == len(alone) > 1
    views = [VIEW, replace(VIEW, table="again")]
    found = {mark.label: mark.role for view in views for mark in view_chart(both, view).legend}
    assert len(set(found.values())) == len(found) == 2 * len(alone)
    scatter = Scatter("cloud", "tow", "lds")
    one, two = ({mark.label: mark.role for mark in scatter_chart(some, scatter).legend} for some in (records(), both))
    assert one == two


def test_every_mean_is_drawn_with_its_interval():
    (panel,) = view_chart(records(), VIEW).panels
    for mark in panel.marks:
        for at, row in enumerate("ab"):
            found = estimates(values_of(records(), "groups", "tow"))[row][mark.label]
            np.testing.assert_allclose([mark.x[at], *mark.ends[:, at]], [found.mean, found.low, found.high])
