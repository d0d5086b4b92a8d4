"""Tables over seeds: the numbers are those of a plain calculation, and what is missing is said."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from axes import misleading
from browser import crushed, faults
from scipy import stats

from dmm_exp.compare.names import FLOOR_ROW
from dmm_exp.compare.statistics import Estimate
from dmm_exp.report.figures import kept
from dmm_exp.study.page import Scatter, scatter_chart, view_chart, write_study
from dmm_exp.study.tables import (
    Record,
    View,
    differences,
    estimates,
    floors_of,
    latex,
    markdown,
    rules,
    summary,
    texts,
    tidy,
    values_of,
    warnings,
)

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
    assert crushed(browser, page) == []
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


def with_floors():
    """Return the records with a floor in each seed and column, the same in all rows."""
    return [
        replace(one, metrics={**one.metrics, "tow_floor": 0.9 + one.seed / 100 + (one.column == "high") / 20})
        if one.error is None
        else one
        for one in records()
    ]


def test_the_floor_is_one_row_above_all_others_with_the_interval_of_the_table(tmp_path):
    head, floor, *rows = texts(with_floors(), VIEW)
    assert floor[0] == "independent retraining (floor)"
    low, high = (np.array([0.9, 0.91, 0.92]) + step for step in (0, 0.05))
    assert floor[1:] == [str(Estimate.of(values)) for values in (low, high, high - low)]
    assert [head, *rows] == texts(records(), VIEW)
    page = write_study(with_floors(), tmp_path, title="T", views=[VIEW], command="")
    texts_written = [page.read_text(), *((tmp_path / f"study.{kind}").read_text() for kind in ("md", "tex"))]
    shown = [text.count("independent retraining (floor)") for text in texts_written]
    assert shown == [2, 1, 1]  # on the page in the figure, too
    assert all("Floor: what an independent ensemble" in text for text in texts_written)


def marked(text):
    """Return the names of rows that have a bold or an underlined number."""
    return [line[0] for line in text.splitlines() if r"& \textbf" in line or r"& \underline" in line]


def test_the_floor_is_drawn_above_all_rows_as_the_table_says_it():
    (panel,) = view_chart(with_floors(), VIEW).panels
    assert {len(mark.x) for mark in panel.marks} == {3}
    for mark in panel.marks:
        found = estimates(floors_of(with_floors(), "groups", "tow"))[FLOOR_ROW][mark.label]
        np.testing.assert_allclose([mark.x[0], *mark.ends[:, 0]], [found.mean, found.low, found.high])


def test_floors_and_references_are_neither_bold_nor_underlined():
    assert marked(latex(with_floors(), [VIEW])) == ["a", "b"]
    aside = [replace(one, reference="retrain") if one.row == "a" else one for one in with_floors()]
    text = latex(aside, [VIEW])
    assert marked(text) == ["b"]
    assert "References (retrain) are neither." in text


def test_where_all_rows_are_one_reference_what_they_compare_is_marked():
    same = [replace(one, reference="dm_direct") for one in records()]
    assert latex(same, [VIEW]) == latex(records(), [VIEW])


def test_rules_tell_what_the_tables_have_and_no_more():
    alone = [one for one in records() if one.seed == 0]
    for words, has, lacks in (
        ("Differences", rules(records(), [VIEW]), rules(records(), [VIEW], with_differences=False)),
        ("Floor", rules(with_floors(), [VIEW]), rules(records(), [VIEW])),
        ("interval", rules(records(), [VIEW]), rules(alone, [VIEW])),
    ):
        assert words in " ".join(has)
        assert words not in " ".join(lacks)
    assert "Differences" not in latex(records(), [VIEW])
    assert "Differences" in markdown(records(), "T", [VIEW], "")


def test_few_models_are_warned_of_where_klom_is_shown(tmp_path):
    view = replace(VIEW, metric="klom/forget/p95")
    few = [replace(one, n_models=20, metrics={"klom_floor/forget/p95": 0.5}) for one in records()]
    page = write_study(few, tmp_path, title="T", views=[view], command="")
    for text in (page.read_text(), (tmp_path / "study.md").read_text()):
        assert "Only 20 models in an ensemble. With fewer than 80" in text
        assert "the floor alone is 0.50" in text
    assert warnings(few, [VIEW]) == []
    assert warnings([replace(one, n_models=80) for one in few], [view]) == []
