from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from axes import misleading
from browser import Browser, faults

from dmm_exp.compare.looks import method_roles
from dmm_exp.console.tables import print_table
from dmm_exp.leaderboard.page import quality_against_cost, write_leaderboard
from dmm_exp.leaderboard.ranking import Outcome, score, standing
from dmm_exp.leaderboard.tables import leaderboard_data, leaderboard_markdown, leaderboard_table
from dmm_exp.report.canvas import save
from dmm_exp.report.figures import kept
from dmm_exp.report.palette import colour_of, marker

EVIL = "<b>x|y</b>"


def metrics(value: float, cost: float = 0.1, tow: float = 0.9) -> dict[str, float]:
    """Three P95 KLoM whose mean is ``value``."""
    kloms = {"klom/forget/p95": value + 0.2, "klom/retain/p95": value - 0.1, "klom/val/p95": value - 0.1}
    floors = {f"klom_floor/{group}/p95": 0.6 for group in ("forget", "retain", "val")}
    return kloms | floors | {"cost/ratio": cost, "tow": tow, "tow_floor": 0.94}


def cell(method: str, kind: str, value: float, draw: int = 0, reference: bool = False, **more: Any) -> Outcome:
    return Outcome(method, kind, f"{kind} seed={draw}", reference, **{"metrics": metrics(value), **more})


def failed(method: str, kind: str, draw: int = 0) -> Outcome:
    return cell(method, kind, 1.0, draw, error="out of [memory]\ntraceback", metrics={})


# Two draws of one kind and one of another, so that averaging over sets and averaging over kinds differ.
BOARD = [
    *(cell("one", "random", 1.0, 0), cell("two", "random", 2.0, 0), cell("three", "random", 3.0, 0)),
    *(cell("one", "random", 1.0, 1), cell("two", "random", 3.0, 1), cell("three", "random", 2.0, 1)),
    *(cell("one", "class", 3.0), cell("two", "class", 1.0), cell("three", "class", 2.0)),
]
REFERENCES = [
    cell(name, kind, value, draw, reference=True)
    for name, value in (("retrain", 0.6), ("do_nothing", 9.0))
    for kind, draw in (("random", 0), ("random", 1), ("class", 0))
]
CHECKPOINTS = {1: metrics(5.0, 0.05), 2: metrics(2.0, 0.1)}


def printed(cells: list[Outcome]) -> str:
    stream = io.StringIO()
    print_table(leaderboard_table(cells), stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cells = [*BOARD, *REFERENCES, cell(EVIL, "random", 2.0, epochs=CHECKPOINTS), failed(EVIL, "class")]
    return write_leaderboard(cells, tmp_path_factory.mktemp("board"), title=f"Board {EVIL}", command=f"run {EVIL}")


def test_the_score_is_the_mean_of_three_groups() -> None:
    assert score({"klom/forget/p95": 3.0, "klom/retain/p95": 1.0, "klom/val/p95": 2.0}) == 2.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_needs_three_finite_numbers(value: float) -> None:
    assert score(metrics(1.0) | {"klom/val/p95": value}) is None
    assert score({"klom/forget/p95": 3.0, "klom/retain/p95": 1.0}) is None


def test_ranks_are_averaged_over_draws_and_then_over_kinds() -> None:
    table = standing(BOARD)
    assert table["random/rank"].to_dict() == {"one": 1.0, "two": 2.5, "three": 2.5}
    assert table["class/rank"].to_dict() == {"one": 3.0, "two": 1.0, "three": 2.0}
    assert table["mean_rank"].to_dict() == {"two": 1.75, "one": 2.0, "three": 2.25}
    assert list(table.index) == ["two", "one", "three"]


def test_measures_are_averaged_over_draws_and_then_over_kinds() -> None:
    cells = [
        *(cell("one", "random", 1.0, 0, metrics=metrics(1.0, 0.1, 1.0)), cell("one", "random", 3.0, 1)),
        cell("one", "class", 6.0, metrics=metrics(6.0, 0.5, 0.8)),
    ]
    row = standing(cells).loc["one"]
    assert row["random/score"] == pytest.approx(2.0)
    assert row["random/klom/forget/p95"] == pytest.approx(2.2)
    assert row["score"] == pytest.approx(4.0)
    assert row["tow"] == pytest.approx(((1.0 + 0.9) / 2 + 0.8) / 2)
    assert row["cost/ratio"] == pytest.approx(0.3)


def test_ties_share_their_average_rank() -> None:
    cells = [cell("one", "random", 1.0), cell("two", "random", 1.0), cell("three", "random", 2.0)]
    assert standing(cells)["mean_rank"].to_dict() == {"one": 1.5, "two": 1.5, "three": 3.0}


def test_references_come_last_and_change_no_rank() -> None:
    table = standing([*REFERENCES, *BOARD])
    assert list(table.index) == ["two", "one", "three", "retrain", "do_nothing"]
    assert table["mean_rank"].isna().tolist() == [False, False, False, True, True]
    assert table.loc[["two", "one", "three"], "mean_rank"].equals(standing(BOARD)["mean_rank"])


def test_a_method_that_did_not_finish_everywhere_has_no_mean_rank_and_says_why() -> None:
    extra = [cell("best", "random", 0.7, 0), failed("best", "random", 1), cell("late", "class", 0.8)]
    table = standing([*BOARD, *extra])
    assert list(table.index[:3]) == ["two", "one", "three"]
    assert table.loc[["best", "late"], "mean_rank"].isna().all()
    assert table.loc["best", "missing"] == "random seed=1: failed: out of [memory]; class seed=0: not run"
    assert math.isnan(table.loc["best", "random/rank"])  # the draw that did not fail may be the easier one
    assert table.loc["late", "class/rank"] == 1.0
    assert table.loc["one", "missing"] == ""


def test_a_run_without_klom_is_not_ranked() -> None:
    table = standing([cell("one", "random", 1.0), cell("two", "random", 1.0, metrics={"tow": 0.5})])
    assert table["mean_rank"].tolist()[0] == 1.0
    assert table.loc["two", "missing"] == "random seed=0: no KLoM"


def test_no_outcomes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one outcome"):
        standing([])


@pytest.mark.parametrize("show", [printed, leaderboard_markdown])
def test_every_method_is_shown_below_the_floor_in_order(show: Any) -> None:
    lines = show([*REFERENCES, *BOARD]).splitlines()
    found = [name for line in lines for name in re.findall(r"^(?:\| )?\*?(\w+)", line)]
    shown = [name for name in found if name in {"independent", "one", "two", "three", "retrain", "do_nothing"}]
    assert shown == ["independent", "two", "one", "three", "retrain", "do_nothing"]


@pytest.mark.parametrize("show", [printed, leaderboard_markdown])
def test_a_kind_shows_three_values_and_a_rank(show: Any) -> None:
    (line,) = (line for line in show(BOARD).splitlines() if re.match(r"(\| )?two", line))
    assert "2.70 / 2.40 / 2.40 #2.5" in line
    assert "1.20 / 0.90 / 0.90 #1" in line


@pytest.mark.parametrize("show", [printed, leaderboard_markdown])
def test_failures_are_listed_with_the_first_line_of_their_error(show: Any) -> None:
    text = show([*BOARD, failed("four", "random")])
    assert "random seed=0, four: failed: out of [memory]" in text
    assert "class seed=0, four: not run" in text
    assert "traceback" not in text


def test_retraining_has_its_tug_of_war_and_methods_what_they_share() -> None:
    dear = cell("dear", "random", 1.0, metrics={**metrics(1.0), "cost/shared": 1705.0})
    floor, first, second = leaderboard_data([dear, cell("plain", "random", 2.0)]).rows
    assert [value.value for value in floor.cells[-2:]] == ["0.940", "1"]
    assert (first.label, first.cells[-1].detail, second.cells[-1].detail) == ("dear", "+ 1,705", "")


def test_four_kinds_fit_in_140_columns() -> None:
    methods = ["gradient_ascent", *(f"method_{index}" for index in range(11))]
    kinds = ("random", "rum_high_mem", "rum_mid_mem", "class")
    cells = [cell(name, kind, 0.6 + 0.5 * place) for kind in kinds for place, name in enumerate(methods)]
    assert max(map(len, printed(cells).splitlines())) <= 140


def test_pages_show_the_size_of_ensembles_and_intervals_and_warn_of_few_models(tmp_path: Path) -> None:
    ends = {"klom/forget/p95_low": 0.81, "klom/forget/p95_high": 1.93}
    values = {"one": 1.0, "two": 2.0}
    sets = [("random", 0), ("random", 1), ("class", 0)]
    for count in (79, 80):
        cells = [
            cell(name, kind, value, draw, metrics={**metrics(value), **ends}, n_models=count)
            for name, value in values.items()
            for kind, draw in sets
        ]
        text = write_leaderboard(cells, tmp_path, title="Board", command="run").read_text(encoding="utf-8")
        assert f"models in each ensemble</span> {count}" in text
        assert "[0.81, 1.93]" in text
        assert "one is first, with a mean rank of 1.00 [1.00, 1.00]." in text
        words = "With fewer than 80, KLoM is mostly sampling noise; here the floor alone is 0.60 to 0.60"
        assert (words in text) is (count < 80)
        assert (words in (tmp_path / "leaderboard.md").read_text(encoding="utf-8")) is (count < 80)


def test_the_interval_of_a_mean_rank_says_how_much_it_depends_on_the_sets() -> None:
    table = leaderboard_data([*BOARD, *REFERENCES], intervals=True)
    details = {row.label: row.cells[0].detail for row in table.rows}
    low, high = map(float, details["two"].strip("[]").split(", "))
    assert 1.0 <= low < 1.75 < high <= 3.0
    assert details["retrain"] == ""
    alone = leaderboard_data([cell("one", "random", 1.0), cell("two", "random", 2.0)], intervals=True)
    assert {row.cells[0].detail for row in alone.rows} == {""}


def test_markdown_is_one_table_whatever_names_hold() -> None:
    table = [line for line in leaderboard_markdown([cell(EVIL, EVIL, 1.0)]).splitlines() if line]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {6}
    assert "<b>" not in "".join(table)


@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_the_figure_has_a_panel_for_each_kind(kinds: int) -> None:
    chart = quality_against_cost([cell("one", f"kind {index}", 1.0) for index in range(kinds)])
    assert [panel.title for panel in chart.panels] == [f"kind {i}" for i in range(kinds)]


def test_the_figure_joins_checkpoints_and_ends_in_the_result() -> None:
    chart = quality_against_cost([cell("one", "random", 2.0, epochs=CHECKPOINTS), cell("two", "random", 4.0)])
    (panel,) = chart.panels
    role = method_roles(["one", "two"])["one"]
    path, steps, end = (mark for mark in panel.marks if mark.role == role)
    assert (path.form, steps.form, end.form, end.large) == ("line", "dots", "dots", True)
    for mark in (path, steps):
        np.testing.assert_allclose(10**mark.x, [0.05, 0.1])
        np.testing.assert_allclose(10**mark.y, [5.0, 2.0])
    np.testing.assert_allclose([10 ** end.x[0], 10 ** end.y[0]], [0.1, 2.0])


def test_a_free_method_lies_left_of_every_other_and_is_labelled_so() -> None:
    free = cell("free", "random", 1.0, metrics=metrics(1.0, cost=0.0))
    (panel,) = quality_against_cost([free, cell("dear", "random", 2.0, metrics=metrics(2.0, cost=0.001))]).panels
    places = {mark.label: float(mark.x[0]) for mark in panel.marks if mark.large}
    assert panel.x.low < places["free"] < places["dear"] == pytest.approx(-3)
    assert (places["free"], "0") in panel.x.ticks


def test_methods_look_different_and_references_are_grey() -> None:
    names = [f"method {index}" for index in range(15)]
    chart = quality_against_cost([*(cell(name, "random", 1.0) for name in names), REFERENCES[0]])
    looks = {mark.label: (colour_of(mark.role), marker(mark.role)) for mark in chart.legend}
    assert len({looks[name] for name in names}) == 15
    assert looks["retrain"][0] == "other"


def test_a_method_looks_the_same_on_every_board_whatever_its_place() -> None:
    names = ["dmm", "scrub", "salun", "finetune", "mine"]
    boards = [
        [cell(name, "random", float(place)) for place, name in enumerate(order, 1)] for order in (names, names[::-1])
    ]
    one, other = ({mark.label: mark.role for mark in quality_against_cost(board).legend} for board in boards)
    assert one == other


@pytest.mark.parametrize(
    "cells",
    [
        [failed("one", "random")],
        [cell("one", "random", 1.0, metrics={})],
        [cell("one", "random", 1.0, metrics=metrics(1.0, cost=0.0))],
        [cell("$\\frac{", "random", 1.0, metrics=metrics(1.0, cost=7.0))],
        [cell("one", "random", 1.0, metrics={f"klom/{group}/p95": 1.0 for group in ("forget", "retain", "val")})],
    ],
    ids=["failed", "no metrics", "free", "dear", "neither floor nor cost"],
)
def test_little_is_enough_to_draw_and_write(cells: list[Outcome], tmp_path: Path) -> None:
    assert save(quality_against_cost(cells), tmp_path, ["png"])[0].read_bytes().startswith(b"\x89PNG")
    text = write_leaderboard(cells, tmp_path, title="Board", command="run").read_text(encoding="utf-8")
    assert not re.search(r"\bnan\b|\bNone\b", text)


def test_everything_is_written(page: Path) -> None:
    names = {str(path.relative_to(page.parent)) for path in page.parent.rglob("*") if path.is_file()}
    assert names == {
        "leaderboard.html",
        "leaderboard.csv",
        "leaderboard.md",
        "leaderboard.tex",
        "cells.csv",
        "figures.json",
    }
    assert [chart.name for chart in kept(page.parent)] == ["quality_against_cost"]


def test_the_page_is_right_on_every_screen_and_on_paper(browser: Browser, page: Path) -> None:
    assert faults(browser, page) == []
    assert misleading(kept(page.parent)) == []


def test_the_page_asks_nothing_of_the_network(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    sources = re.findall(r"\b(?:src|href|srcset|action|poster)\s*=\s*[\"']?([^\"'>\s]+)", text)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert '<svg class="plot"' in text
    assert "@import" not in text
    assert "url(" not in text


def test_the_page_escapes_names(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert EVIL not in text
    assert "Board &lt;b&gt;x|y&lt;/b&gt;" in text
    assert "run &lt;b&gt;" in text


def test_csv_files_hold_the_standing_and_every_checkpoint(page: Path) -> None:
    table = pd.read_csv(page.with_name("leaderboard.csv"), index_col="method")
    assert list(table.index) == ["two", "one", "three", EVIL, "retrain", "do_nothing"]
    cells = pd.read_csv(page.with_name("cells.csv"))
    assert len(cells) == len(BOARD) + len(REFERENCES) + 3
    (path,) = [rows for name, rows in cells.dropna(subset=["epoch"]).groupby("method")]
    assert path["epoch"].tolist() == [1, 2]
    assert path["klom/forget/p95"].tolist() == pytest.approx([5.2, 2.2])
    assert path["final"].tolist() == [False, True]
